//! TDMR_INFO: one TD memory region and where its PAMT lies, as `TDH.SYS.CONFIG` reads it.
//!
//! Source: TDX module 1.5 ABI specification, "TDMR_INFO".

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::addr::{PAGE_SIZE, PAGE_SIZE_1G, PAGE_SIZE_2M};
use crate::layout::assert_layout;
use crate::pamt::PAMT_ENTRY_BYTES;

/// Alignment in bytes of a TDMR_INFO and of the array of their addresses.
pub const TDMR_INFO_ALIGN: u64 = 512;
/// Reserved areas in one TDMR_INFO.
pub const MAX_RESERVED_AREAS: usize = 16;
/// Most TDMRs that `TDH.SYS.CONFIG` takes.
pub const MAX_TDMRS: usize = 64;
/// Alignment in bytes of a TDMR's base and size.
pub const TDMR_ALIGN: u64 = PAGE_SIZE_1G;

/// A part of a TDMR that is not used for TDs. Size 0 ends the list.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct ReservedArea {
    /// Offset in bytes from the TDMR's base.
    pub offset: u64,
    /// Size in bytes.
    pub size: u64,
}

/// A TD memory region, 320 bytes. Addresses and sizes in bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct TdmrInfo {
    /// First byte.
    pub base: u64,
    /// Size.
    pub size: u64,
    /// PAMT for 1 GiB pages.
    pub pamt_1g_base: u64,
    /// Size of the PAMT for 1 GiB pages.
    pub pamt_1g_size: u64,
    /// PAMT for 2 MiB pages.
    pub pamt_2m_base: u64,
    /// Size of the PAMT for 2 MiB pages.
    pub pamt_2m_size: u64,
    /// PAMT for 4 KiB pages.
    pub pamt_4k_base: u64,
    /// Size of the PAMT for 4 KiB pages.
    pub pamt_4k_size: u64,
    /// Reserved areas, ordered by offset.
    pub reserved: [ReservedArea; MAX_RESERVED_AREAS],
}

assert_layout!(ReservedArea, size 16, offset @ 0, size @ 8);
assert_layout!(
    TdmrInfo, size 320, base @ 0, size @ 8, pamt_1g_base @ 16, pamt_1g_size @ 24,
    pamt_2m_base @ 32, pamt_2m_size @ 40, pamt_4k_base @ 48, pamt_4k_size @ 56, reserved @ 64,
);

/// Bytes of PAMT that `size` bytes of TDMR need, in the order 1 GiB, 2 MiB, 4 KiB; not rounded up
/// to pages.
pub const fn pamt_bytes(size: u64) -> [u64; 3] {
    [
        size / PAGE_SIZE_1G * PAMT_ENTRY_BYTES,
        size / PAGE_SIZE_2M * PAMT_ENTRY_BYTES,
        size / PAGE_SIZE * PAMT_ENTRY_BYTES,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_gigabyte_needs_four_megabytes_of_4k_pamt() {
        assert_eq!(pamt_bytes(PAGE_SIZE_1G), [16, 0x2000, 0x40_0000]);
    }
}
