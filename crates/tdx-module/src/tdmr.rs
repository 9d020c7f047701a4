//! The rules for TDMRs: order, alignment, reserved areas, PAMTs and convertible memory.
//!
//! Source: TDX module 1.5, `tdh_sys_config.c`; ABI specification, TDH.SYS.CONFIG. The details of
//! each status are the TDMR's index in 7:0, a reserved area's index or a PAMT's level in 15:8, and
//! the other TDMR's index in 23:16.

use seamlock_tdx_abi::addr::{PAGE_SIZE, PAGE_SIZE_1G, is_aligned};
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_abi::tdmr::{ReservedArea, TDMR_ALIGN, TdmrInfo, pamt_bytes};

use crate::platform::{Platform, Range};

type Checked = Result<(), TdxStatus>;

/// A PAMT of a TDMR: its level (0 for 4 KiB pages) and where it lies.
type Pamt = (u8, Range);

fn details(status: TdxStatus, tdmr: usize, part: usize, other: usize) -> TdxStatus {
    status
        .with_details(tdmr as u32 & 0xff | (part as u32 & 0xff) << 8 | (other as u32 & 0xff) << 16)
}

/// Checks the last of `tdmrs` against the machine and against those before it, which are valid.
pub(crate) fn check_next(platform: &Platform, tdmrs: &[TdmrInfo]) -> Checked {
    let Some((tdmr, before)) = tdmrs.split_last() else {
        return Ok(());
    };
    let i = before.len();
    let end = tdmr.base.checked_add(tdmr.size);
    end.ok_or(details(TdxStatus::INVALID_TDMR, i, 0, 0))?;
    if before.last().is_some_and(|b| tdmr.base < b.base + b.size) {
        return Err(details(TdxStatus::NON_ORDERED_TDMR, i, 0, 0));
    }
    check_place(platform, i, tdmr)?;
    check_reserved(i, tdmr)?;
    for (level, pamt) in pamts(tdmr).into_iter().rev() {
        if !is_pamt_valid(
            platform,
            pamt,
            pamt_bytes(tdmr.size)[2 - usize::from(level)],
        ) {
            return Err(details(TdxStatus::INVALID_PAMT, i, level.into(), 0));
        }
    }
    check_pamts_apart(tdmrs)?;
    check_pamts_outside(tdmrs)?;
    for (level, pamt) in pamts(tdmr).into_iter().rev() {
        if !in_cmrs(platform, pamt) {
            return Err(details(TdxStatus::PAMT_OUTSIDE_CMRS, i, level.into(), 0));
        }
    }
    if !available(tdmr).all(|area| in_cmrs(platform, area)) {
        return Err(details(TdxStatus::TDMR_OUTSIDE_CMRS, i, 0, 0));
    }
    Ok(())
}

/// The PAMTs from the smallest page size up.
fn pamts(tdmr: &TdmrInfo) -> [Pamt; 3] {
    let pamt = |level, base, size| (level, Range { base, size });
    [
        pamt(0, tdmr.pamt_4k_base, tdmr.pamt_4k_size),
        pamt(1, tdmr.pamt_2m_base, tdmr.pamt_2m_size),
        pamt(2, tdmr.pamt_1g_base, tdmr.pamt_1g_size),
    ]
}

fn check_place(platform: &Platform, i: usize, tdmr: &TdmrInfo) -> Checked {
    let aligned = is_aligned(tdmr.base, TDMR_ALIGN) && is_aligned(tdmr.size, PAGE_SIZE_1G);
    let (base, last) = (tdmr.base, tdmr.base.wrapping_add(tdmr.size).wrapping_sub(1));
    let plain = platform.is_plain_address(base) && platform.is_plain_address(last);
    if aligned && tdmr.size != 0 && plain {
        Ok(())
    } else {
        Err(details(TdxStatus::INVALID_TDMR, i, 0, 0))
    }
}

fn check_reserved(i: usize, tdmr: &TdmrInfo) -> Checked {
    for (j, area) in tdmr.reserved.iter().enumerate() {
        let unordered = details(TdxStatus::NON_ORDERED_RESERVED_IN_TDMR, i, j, 0);
        if area.size == 0 {
            if tdmr.reserved.get(j + 1).is_some_and(|next| next.size != 0) {
                return Err(unordered);
            }
            continue;
        }
        let invalid = details(TdxStatus::INVALID_RESERVED_IN_TDMR, i, j, 0);
        let end = area.offset.checked_add(area.size).ok_or(invalid)?;
        let previous = j.checked_sub(1).map(|p| tdmr.reserved[p]);
        if previous.is_some_and(|p| area.offset < p.offset + p.size) {
            return Err(unordered);
        }
        let aligned = is_aligned(area.offset, PAGE_SIZE) && is_aligned(area.size, PAGE_SIZE);
        if !aligned || end > tdmr.size {
            return Err(invalid);
        }
    }
    Ok(())
}

fn is_pamt_valid(platform: &Platform, pamt: Range, needed: u64) -> bool {
    let Some(end) = pamt.base.checked_add(pamt.size) else {
        return false;
    };
    is_aligned(pamt.base, PAGE_SIZE)
        && is_aligned(pamt.size, PAGE_SIZE)
        && platform.is_plain_address(pamt.base)
        && platform.is_plain_address(end.wrapping_sub(1))
        && pamt.size >= needed
}

/// The last TDMR's PAMTs overlap no other PAMT.
fn check_pamts_apart(tdmrs: &[TdmrInfo]) -> Checked {
    let i = tdmrs.len() - 1;
    let overlap = |level: u8, j| Err(details(TdxStatus::PAMT_OVERLAP, i, level.into(), j));
    let own = pamts(&tdmrs[i]);
    for (j, other) in tdmrs[..i].iter().enumerate() {
        for (level, pamt) in own {
            if pamts(other).iter().any(|(_, p)| overlaps(&pamt, p)) {
                return overlap(level, j);
            }
        }
    }
    for (n, (level, pamt)) in own.iter().enumerate() {
        if own[n + 1..].iter().any(|(_, p)| overlaps(pamt, p)) {
            return overlap(*level, i);
        }
    }
    Ok(())
}

/// No PAMT lies in the usable part of a TDMR: the last one's in any, any other's in the last one.
fn check_pamts_outside(tdmrs: &[TdmrInfo]) -> Checked {
    let i = tdmrs.len() - 1;
    let check = |owner: usize, tdmr: usize| {
        for (level, pamt) in pamts(&tdmrs[owner]) {
            if available(&tdmrs[tdmr]).any(|area| overlaps(&pamt, &area)) {
                return Err(details(TdxStatus::PAMT_OVERLAP, owner, level.into(), tdmr));
            }
        }
        Ok(())
    };
    for j in 0..=i {
        check(i, j)?;
        if j < i {
            check(j, i)?;
        }
    }
    Ok(())
}

/// The parts of a TDMR between its reserved areas.
fn available(tdmr: &TdmrInfo) -> impl Iterator<Item = Range> {
    let end = ReservedArea {
        offset: tdmr.size,
        size: 0,
    };
    let used = tdmr.reserved.iter().copied().filter(|area| area.size != 0);
    let base = tdmr.base;
    let gaps = used.chain([end]).scan(0, move |start, area| {
        let gap = Range {
            base: base + *start,
            size: area.offset - *start,
        };
        *start = area.offset + area.size;
        Some(gap)
    });
    gaps.filter(|gap| gap.size != 0)
}

fn overlaps(a: &Range, b: &Range) -> bool {
    a.base < b.end() && b.base < a.end()
}

/// Whether the range lies in convertible memory; two ranges that touch count as one.
fn in_cmrs(platform: &Platform, range: Range) -> bool {
    let mut last = Range { base: 0, size: 0 };
    for cmr in platform.cmrs.iter().filter(|cmr| cmr.size != 0) {
        let base = if cmr.base == last.end() {
            last.base
        } else {
            cmr.base
        };
        last = Range {
            base,
            size: cmr.end() - base,
        };
        if last.covers(&range) {
            return true;
        }
    }
    false
}
