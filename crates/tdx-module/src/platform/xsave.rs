//! The size and layout of extended state, as CPUID leaf 0xD describes it.

use super::Platform;

/// Bytes of an XSAVE area before the first extended component: legacy region and header.
const EXTENDED_REGION: u32 = 576;
/// Components that XFAM can name.
const COMPONENTS: usize = 19;
/// XFAM bits that belong to XCR0; the others belong to IA32_XSS.
const USER_COMPONENTS: u64 = 0x6_02ff;

const SIZE: usize = 0;
const OFFSET: usize = 1;
const FLAGS: usize = 2;
const FLAG_ALIGNED: u32 = 1 << 1;
const FLAG_XFD: u32 = 1 << 2;

/// Where the components of a compacted XSAVE area lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XsaveLayout {
    /// Bytes of the whole area.
    pub size: u32,
    /// Offset of each component in bytes; 0 for one that is not there.
    pub offsets: [u32; COMPONENTS],
}

impl Platform {
    fn component(&self, index: usize) -> [u32; 4] {
        self.cpuid(0xd, index as u32)
    }

    /// Bytes of a standard XSAVE area for the user components of `xfam`; zero for a processor
    /// without XSAVE.
    pub(crate) fn xsave_size(&self, xfam: u64) -> u32 {
        if self.cpuid(0xd, 0)[0] == 0 {
            return 0;
        }
        let present = (2..COMPONENTS).filter(|i| xfam & USER_COMPONENTS & 1 << i != 0);
        let ends = present.map(|i| {
            let component = self.component(i);
            component[SIZE] + component[OFFSET]
        });
        ends.fold(EXTENDED_REGION, u32::max)
    }

    /// The layout of a compacted XSAVE area for the components of `xfam`.
    pub(crate) fn xsave_layout(&self, xfam: u64) -> XsaveLayout {
        let mut layout = XsaveLayout {
            size: EXTENDED_REGION,
            offsets: [0; COMPONENTS],
        };
        for i in (2..COMPONENTS).filter(|i| xfam & 1 << i != 0) {
            let component = self.component(i);
            if component[FLAGS] & FLAG_ALIGNED != 0 {
                layout.size = layout.size.next_multiple_of(64);
            }
            layout.offsets[i] = layout.size;
            layout.size += component[SIZE];
        }
        layout
    }

    /// Components whose first use can be made to fault (extended feature disable).
    pub(crate) fn xfd_faulting(&self) -> u64 {
        let faulting = (2..COMPONENTS).filter(|i| self.component(*i)[FLAGS] & FLAG_XFD != 0);
        faulting.fold(0, |mask, i| mask | 1 << i)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_area_grows_with_its_components() {
        let platform = Platform::sapphire_rapids(4 << 30, 2);
        assert_eq!(platform.xsave_size(3), 576);
        assert_eq!(platform.xsave_size(7), 832);
        assert_eq!(platform.xsave_size(0x6_02e7), 11008);
        // Supervisor state is not part of the standard area.
        assert_eq!(platform.xsave_size(7 | 0x1800), 832);
        let layout = platform.xsave_layout(7 | 0x1800 | 0x6_0000);
        assert_eq!((layout.offsets[2], layout.offsets[11]), (576, 832));
        assert_eq!(layout.offsets[17] % 64, 0);
        assert_eq!(layout.size, layout.offsets[18] + 8192);
        assert_eq!(platform.xfd_faulting(), 1 << 18);
    }
}
