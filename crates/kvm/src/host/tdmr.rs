//! Which memory becomes TDMRs and where their PAMTs lie (`construct_tdmrs`).
//!
//! Source: Linux v7.3.4 `arch/x86/virt/vmx/tdx/tdx.c`: memory below 1 MiB is never TDX memory; each
//! region is covered by 1 GiB-aligned TDMRs; holes and PAMTs are reserved areas.

use seamlock_tdx_abi::PAGE_SIZE;
use seamlock_tdx_abi::addr::align_down;
use seamlock_tdx_abi::tdmr::{MAX_RESERVED_AREAS, ReservedArea, TDMR_ALIGN, TdmrInfo};
use seamlock_tdx_module::platform::Range;

use super::BootError;

/// TDMRs, and the memory that is left for the kernel to use.
#[derive(Debug)]
pub struct Layout {
    /// The TDMRs, ascending.
    pub tdmrs: Vec<TdmrInfo>,
    /// TDX memory that is not PAMT, ascending.
    pub usable: Vec<Range>,
}

const LOW_MEMORY: u64 = 1 << 20;

/// Lays TDMRs over the convertible memory ranges.
///
/// # Errors
/// When a TDMR has more holes than it may have reserved areas, or no room for its PAMT.
pub fn construct(cmrs: &[Range], entry_size: [u64; 3]) -> Result<Layout, BootError> {
    let regions: Vec<Range> = cmrs.iter().filter_map(above_low_memory).collect();
    let mut tdmrs = Vec::new();
    let mut usable = Vec::new();
    for extent in extents(&regions) {
        let inside = regions
            .iter()
            .filter(|r| extent.covers(r))
            .copied()
            .collect();
        let (tdmr, rest) = with_pamt(extent, inside, entry_size)?;
        tdmrs.push(tdmr);
        usable.extend(rest);
    }
    Ok(Layout { tdmrs, usable })
}

fn above_low_memory(cmr: &Range) -> Option<Range> {
    let base = cmr.base.max(LOW_MEMORY).div_ceil(PAGE_SIZE) * PAGE_SIZE;
    let end = align_down(cmr.end(), PAGE_SIZE);
    (end > base).then(|| Range {
        base,
        size: end - base,
    })
}

/// The 1 GiB-aligned ranges around the regions, joined where they meet.
fn extents(regions: &[Range]) -> Vec<Range> {
    let mut extents: Vec<Range> = Vec::new();
    for region in regions {
        let base = align_down(region.base, TDMR_ALIGN);
        let end = region.end().div_ceil(TDMR_ALIGN) * TDMR_ALIGN;
        match extents.last_mut() {
            Some(last) if last.end() >= base => last.size = end.max(last.end()) - last.base,
            _ => extents.push(Range {
                base,
                size: end - base,
            }),
        }
    }
    extents
}

fn with_pamt(
    extent: Range,
    mut regions: Vec<Range>,
    entry_size: [u64; 3],
) -> Result<(TdmrInfo, Vec<Range>), BootError> {
    let pages = [1 << 30, 1 << 21, PAGE_SIZE];
    let bytes: [u64; 3] = std::array::from_fn(|i| {
        (extent.size / pages[i] * entry_size[i]).div_ceil(PAGE_SIZE) * PAGE_SIZE
    });
    let total: u64 = bytes.iter().sum();
    let Some(host) = regions
        .iter_mut()
        .max_by_key(|r| r.size)
        .filter(|r| r.size > total)
    else {
        return Err(BootError::NoRoomForPamt {
            tdmr: extent.base,
            bytes: total,
        });
    };
    host.size -= total;
    let pamt = host.end();
    let reserved = reserved_areas(extent, &regions)?;
    let tdmr = TdmrInfo {
        base: extent.base,
        size: extent.size,
        pamt_1g_base: pamt + bytes[2] + bytes[1],
        pamt_1g_size: bytes[0],
        pamt_2m_base: pamt + bytes[2],
        pamt_2m_size: bytes[1],
        pamt_4k_base: pamt,
        pamt_4k_size: bytes[2],
        reserved,
    };
    Ok((tdmr, regions))
}

/// What of the extent no region covers; PAMTs were taken out of the regions before.
fn reserved_areas(
    extent: Range,
    regions: &[Range],
) -> Result<[ReservedArea; MAX_RESERVED_AREAS], BootError> {
    let mut areas = [ReservedArea::default(); MAX_RESERVED_AREAS];
    let mut used = 0;
    let mut at = extent.base;
    let end = Range {
        base: extent.end(),
        size: 0,
    };
    for region in regions.iter().chain([&end]) {
        if region.base > at {
            let slot = areas
                .get_mut(used)
                .ok_or(BootError::TooManyHoles { tdmr: extent.base })?;
            *slot = ReservedArea {
                offset: at - extent.base,
                size: region.base - at,
            };
            used += 1;
        }
        at = region.end();
    }
    Ok(areas)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_memory_holes_and_the_pamt_are_reserved() {
        let cmrs = [
            Range {
                base: 0,
                size: 0x8000_0000,
            },
            Range {
                base: 0x1_0000_0000,
                size: 0x4000_0000,
            },
        ];
        let layout = construct(&cmrs, [16; 3]).unwrap();
        assert_eq!(layout.tdmrs.len(), 2);
        let low = &layout.tdmrs[0];
        assert_eq!((low.base, low.size), (0, 0x8000_0000));
        assert_eq!(
            low.reserved[0],
            ReservedArea {
                offset: 0,
                size: LOW_MEMORY
            }
        );
        assert_eq!(low.pamt_4k_size, 0x80_0000);
        assert_eq!(low.reserved[1].offset, low.pamt_4k_base);
        assert_eq!(low.reserved[1].offset + low.reserved[1].size, 0x8000_0000);
        assert_eq!(low.pamt_1g_base + low.pamt_1g_size, 0x8000_0000);
        assert_eq!(layout.usable[0].end(), low.pamt_4k_base);
        let high = &layout.tdmrs[1];
        assert_eq!((high.base, high.size), (0x1_0000_0000, 0x4000_0000));
    }

    #[test]
    fn memory_too_small_for_its_pamt_is_refused() {
        let cmrs = [Range {
            base: 0x4000_0000,
            size: 0x10_0000,
        }];
        assert!(matches!(
            construct(&cmrs, [16; 3]),
            Err(BootError::NoRoomForPamt { .. })
        ));
    }
}
