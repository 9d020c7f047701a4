//! Which MSRs the guest may reach (`struct kvm_x86_msr_filter`).

/// MSRs of one range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MsrFilterRange {
    /// `KVM_MSR_FILTER_READ` and `_WRITE`.
    pub flags: u32,
    /// First MSR.
    pub base: u32,
    /// MSRs.
    pub nmsrs: u32,
    /// One bit for each; 1 allows.
    pub bitmap: Vec<u8>,
}

/// Ranges of a VM; the first one that has the MSR decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MsrFilter {
    /// What becomes of MSRs that no range has.
    pub default_allow: bool,
    /// In the order of user space.
    pub ranges: Vec<MsrFilterRange>,
}

impl MsrFilter {
    /// `kvm_msr_allowed`. Those of the x2APIC are never filtered.
    pub fn allows(&self, msr: u32, access: u32) -> bool {
        if (0x800..=0x8ff).contains(&msr) {
            return true;
        }
        // The end wraps, as the kernel's does: such a range is empty.
        let has = |r: &&MsrFilterRange| {
            msr >= r.base && msr < r.base.wrapping_add(r.nmsrs) && r.flags & access != 0
        };
        match self.ranges.iter().find(has) {
            Some(range) => {
                let bit = (msr - range.base) as usize;
                range.bitmap[bit / 8] >> (bit % 8) & 1 != 0
            }
            None => self.default_allow,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_range_that_has_the_msr_and_the_access_decides() {
        let range = |flags, base, bits: u8| MsrFilterRange {
            flags,
            base,
            nmsrs: 4,
            bitmap: vec![bits, 0, 0, 0, 0, 0, 0, 0],
        };
        let filter = MsrFilter {
            default_allow: true,
            ranges: vec![range(1, 0x10, 0b0101), range(3, 0x12, 0)],
        };
        let allowed: Vec<bool> = (0x10..0x17).map(|msr| filter.allows(msr, 1)).collect();
        assert_eq!(allowed, [true, false, true, false, false, false, true]);
        assert!(!filter.allows(0x12, 2) && filter.allows(0x11, 2) && filter.allows(0x802, 1));
    }
}
