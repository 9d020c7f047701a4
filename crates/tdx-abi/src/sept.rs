//! Secure EPT entries, their states, and the operands that name a guest page.
//!
//! Source: TDX module 1.5.06 (`sept_manager.h`, `sept_state_lookup.h`), ABI specification "Secure
//! EPT entry information" and "GPA mapping information".

mod state;

pub use state::{L2SeptState, SEPT_STATES, SeptState, SeptStateInfo};

use bitflags::bitflags;

use crate::addr::{Gpa, Hpa};

bitflags! {
    /// An L1 secure EPT entry as it stands in memory.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct SeptEntry: u64 {
        /// Readable.
        const R = 1;
        /// Writable.
        const W = 1 << 1;
        /// Executable.
        const X = 1 << 2;
        /// Write-back memory type, bits 5:3 = 6.
        const MT_WB = 6 << 3;
        /// Ignore PAT. Part of the state.
        const IPAT = 1 << 6;
        /// Maps a page rather than a table. Part of the state.
        const LEAF = 1 << 7;
        /// Accessed.
        const A = 1 << 8;
        /// Dirty. Part of the state.
        const D = 1 << 9;
        /// User-executable (L2 only).
        const XU = 1 << 10;
        /// The entry's lock (TDEL).
        const TDEL = 1 << 11;
        /// The host waits for the entry's lock.
        const HP = 1 << 52;
        /// Exported. Part of the state.
        const TDEX = 1 << 53;
        /// Blocked for writing. Part of the state.
        const TDBW = 1 << 54;
        /// Blocked. Part of the state.
        const TDB = 1 << 55;
        /// Pending. Part of the state.
        const TDP = 1 << 56;
        /// Verify guest paging.
        const VPW = 1 << 57;
        /// Paging-write access.
        const PW = 1 << 58;
        /// Supervisor shadow stack, or L2 alias link.
        const SSS = 1 << 60;
        /// Not pinned by the host.
        const TDUP = 1 << 61;
        /// Suppress #VE.
        const SUPPRESS_VE = 1 << 63;
        /// Readable, writable and executable.
        const RWX = 7;
        const _ = !0;
    }
}

impl SeptEntry {
    /// Bits 51:12, the host page.
    pub const HPA_MASK: u64 = 0x000f_ffff_ffff_f000;
    /// The bits that hold the state: D, IPAT, LEAF, TDEX, TDBW, TDB and TDP.
    pub const STATE_MASK: u64 = 0x01e0_0000_0000_02c0;
    /// What the host sees of a leaf entry.
    pub const ARCH_LEAF_MASK: u64 = Self::HPA_MASK | 0x8000_0000_0000_00ff;
    /// What the host sees of a table entry: permissions and the leaf bit, not the address.
    pub const ARCH_NON_LEAF_MASK: u64 = 0x87;
    /// A free entry, as a new secure EPT page is filled with.
    pub const FREE: Self =
        Self::from_bits_retain(SeptState::FREE.to_bits() | Self::SUPPRESS_VE.bits());

    /// The page or table that the entry points to.
    pub const fn hpa(self) -> Hpa {
        Hpa(self.bits() & Self::HPA_MASK)
    }

    /// The state in the entry's bits, which may be none of the known ones.
    pub const fn state(self) -> SeptState {
        SeptState::from_bits(self.bits())
    }

    /// The 4 KiB chunks that are accepted already, in a 2 MiB pending leaf (bits 20:12).
    pub const fn accept_counter(self) -> u16 {
        (self.bits() >> 12) as u16 & 0x1ff
    }

    /// What a leaf reports in RCX: a free entry as suppress-#VE only, a table without its address.
    pub const fn arch_bits(self) -> u64 {
        if self.state().0 == SeptState::FREE.0 {
            Self::SUPPRESS_VE.bits()
        } else if self.bits() & Self::LEAF.bits() != 0 {
            self.bits() & Self::ARCH_LEAF_MASK
        } else {
            self.bits() & Self::ARCH_NON_LEAF_MASK
        }
    }
}

/// Secure EPT information in RDX of a memory leaf: level, state and VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SeptInfo {
    /// Level, bits 2:0.
    pub level: u8,
    /// State number, bits 15:8 ([`SeptStateInfo::rdx_state`]).
    pub state: u8,
    /// VM index, bits 17:16; 0 is L1.
    pub vm: u8,
}

impl SeptInfo {
    /// Takes RDX apart; other bits are dropped.
    pub const fn from_rdx(rdx: u64) -> Self {
        Self {
            level: rdx as u8 & 7,
            state: (rdx >> 8) as u8,
            vm: (rdx >> 16) as u8 & 3,
        }
    }

    /// Puts RDX together.
    pub const fn to_rdx(self) -> u64 {
        self.level as u64 & 7 | (self.state as u64) << 8 | (self.vm as u64 & 3) << 16
    }
}

/// A guest page as leaves take it in RCX: GPA in bits 51:12, level in 2:0, the rest zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct GpaMapping(pub u64);

impl GpaMapping {
    /// Puts a value together; GPA bits outside 51:12 and level bits above 2 are dropped.
    pub const fn new(gpa: Gpa, level: u8) -> Self {
        Self(gpa.0 & SeptEntry::HPA_MASK | level as u64 & 7)
    }

    /// The GPA, bits 51:12.
    pub const fn gpa(self) -> Gpa {
        Gpa(self.0 & SeptEntry::HPA_MASK)
    }

    /// The level: 0 is 4 KiB, 1 is 2 MiB, 2 is 1 GiB, 3 and 4 are tables only.
    pub const fn level(self) -> u8 {
        self.0 as u8 & 7
    }

    /// Bits 63:52 and 11:3, in place; must be zero.
    pub const fn reserved(self) -> u64 {
        self.0 & !(SeptEntry::HPA_MASK | 7)
    }
}

/// Bytes that one entry of `level` maps; levels above 4 give `None`.
pub const fn level_bytes(level: u8) -> Option<u64> {
    match level {
        0..=4 => Some(1 << (12 + 9 * level as u32)),
        _ => None,
    }
}

/// A TDR in RDX with the flag of `MEM.SEPT.ADD` and `MEM.PAGE.DEMOTE` in bit 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct TdrAndFlags(pub u64);

impl TdrAndFlags {
    /// The TDR page, bits 51:12.
    pub const fn tdr(self) -> Hpa {
        Hpa(self.0 & SeptEntry::HPA_MASK)
    }

    /// Bit 0; for `MEM.SEPT.ADD`, an existing table is not an error.
    pub const fn flag(self) -> bool {
        self.0 & 1 != 0
    }

    /// Bits 63:52 and 11:1, in place; must be zero.
    pub const fn reserved(self) -> u64 {
        self.0 & !(SeptEntry::HPA_MASK | 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_entry_is_reported_as_suppress_ve_only() {
        assert_eq!(SeptEntry::FREE.state(), SeptState::FREE);
        assert_ne!(SeptEntry::FREE.bits(), SeptEntry::SUPPRESS_VE.bits());
        assert_eq!(SeptEntry::FREE.arch_bits(), 0x8000_0000_0000_0000);
    }

    #[test]
    fn tables_hide_their_address_and_leaves_show_it() {
        let table = SeptEntry::from_bits_retain(0x1234_5000) | SeptEntry::RWX;
        assert_eq!(
            (table.state(), table.arch_bits()),
            (SeptState::NL_MAPPED, 7)
        );
        let bits = SeptState::MAPPED.to_bits() | 0x1234_5000;
        let flags = SeptEntry::RWX | SeptEntry::MT_WB | SeptEntry::SUPPRESS_VE | SeptEntry::TDEL;
        let leaf = SeptEntry::from_bits_retain(bits | flags.bits());
        assert_eq!(
            (leaf.state(), leaf.hpa()),
            (SeptState::MAPPED, Hpa(0x1234_5000))
        );
        assert_eq!(leaf.arch_bits(), 0x8000_0000_1234_50f7);
    }

    #[test]
    fn state_mask_is_made_of_the_state_bits() {
        let bits = [
            SeptEntry::D,
            SeptEntry::IPAT,
            SeptEntry::LEAF,
            SeptEntry::TDEX,
        ];
        let more = [SeptEntry::TDBW, SeptEntry::TDB, SeptEntry::TDP];
        let all = bits
            .into_iter()
            .chain(more)
            .fold(SeptEntry::empty(), |a, b| a | b);
        assert_eq!(all.bits(), SeptEntry::STATE_MASK);
    }

    #[test]
    fn operands_come_apart() {
        let page = GpaMapping(0x0000_0040_0020_0001);
        assert_eq!(
            (page.gpa(), page.level(), page.reserved()),
            (Gpa(0x40_0020_0000), 1, 0)
        );
        assert_eq!(GpaMapping::new(Gpa(0x1fff), 2), GpaMapping(0x1002));
        assert_eq!(
            GpaMapping(0x8000_0000_0000_0008).reserved(),
            0x8000_0000_0000_0008
        );
        assert_eq!(TdrAndFlags(0x5003).reserved(), 2);
        assert_eq!(
            SeptInfo::from_rdx(0x8401),
            SeptInfo {
                level: 1,
                state: 132,
                vm: 0
            }
        );
        assert_eq!(SeptInfo::from_rdx(0x2_0203).to_rdx(), 0x2_0203);
        assert_eq!((level_bytes(1), level_bytes(5)), (Some(0x20_0000), None));
    }
}
