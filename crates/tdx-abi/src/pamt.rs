//! The physical address metadata table: one entry for each 4 KiB, 2 MiB and 1 GiB page.
//!
//! Source: TDX module 1.5.06 (`pamt_manager.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::{assert_layout, open_number};

/// What a page is used for.
#[derive(
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(transparent)]
pub struct PageType(pub u8);

open_number!(PageType(u8) {
    /// Not directly assigned: the host may use it, or it is split into smaller pages.
    NDA = 0;
    /// In a reserved area of a TDMR.
    RSVD = 1;
    /// A private page of a TD.
    REG = 3;
    /// The root page of a TD.
    TDR = 4;
    /// A child control page, of a TDCS or TDVPS.
    TDCX = 5;
    /// The root page of a vCPU.
    TDVPR = 6;
    /// A secure EPT page.
    EPT = 8;
});

/// Size of a page, as PAMT and the leaves number it.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct PamtLevel(pub u8);

open_number!(PamtLevel(u8) {
    /// 4 KiB.
    PAGE_4K = 0;
    /// 2 MiB.
    PAGE_2M = 1;
    /// 1 GiB.
    PAGE_1G = 2;
});

impl PamtLevel {
    /// Bytes in a page of this level; levels above 1 GiB give `None`.
    pub const fn page_bytes(self) -> Option<u64> {
        match self.0 {
            level @ 0..=2 => Some(1 << (12 + 9 * level as u32)),
            _ => None,
        }
    }
}

/// One PAMT entry, 16 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct PamtEntry {
    /// Sharex lock with host priority: bit 0 exclusive, bit 1 host priority, 15:2 reader count.
    pub lock: u16,
    /// Page type.
    pub page_type: PageType,
    /// Page number of the owner's TDR, 40 bits, little-endian. Stale once the type is NDA.
    pub owner: [u8; 5],
    /// TLB epoch at which the page was blocked; bit 63 marks a migration epoch.
    pub bepoch: u64,
}

assert_layout!(PamtEntry, size 16, lock @ 0, page_type @ 2, owner @ 3, bepoch @ 8);

/// Bytes in one PAMT entry, for every level.
pub const PAMT_ENTRY_BYTES: u64 = 16;
/// Bit 63 of BEPOCH: the epoch is a migration epoch.
pub const BEPOCH_MIGRATION: u64 = 1 << 63;

impl PamtEntry {
    /// The owner's page number.
    pub fn owner_page(&self) -> u64 {
        let mut bytes = [0; 8];
        bytes[..5].copy_from_slice(&self.owner);
        u64::from_le_bytes(bytes)
    }

    /// Sets the owner's page number; bits above 39 are dropped.
    pub fn set_owner_page(&mut self, page: u64) {
        self.owner.copy_from_slice(&page.to_le_bytes()[..5]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_is_forty_bits() {
        let mut entry = PamtEntry {
            page_type: PageType::REG,
            ..PamtEntry::default()
        };
        entry.set_owner_page(0xff12_3456_789a);
        assert_eq!(entry.owner_page(), 0x12_3456_789a);
        assert_eq!(entry.as_bytes()[2], 3);
        assert_eq!(PamtEntry::read_from_bytes(entry.as_bytes()), Ok(entry));
    }

    #[test]
    fn levels_have_sizes() {
        assert_eq!(PamtLevel::PAGE_2M.page_bytes(), Some(0x20_0000));
        assert_eq!(PamtLevel(3).page_bytes(), None);
    }
}
