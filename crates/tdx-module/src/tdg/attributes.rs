//! GPA attributes: what an L2 VM may do with a page, 16 bits for each VM.
//!
//! Bits 0 to 3 R, W, X (supervisor) and X (user); 4 verify guest paging; 5 paging-write access; 6
//! supervisor shadow stack; 7 suppress #VE; 15 valid. Source: ABI specification "GPA_ATTR".

use seamlock_tdx_abi::addr::Hpa;
use seamlock_tdx_abi::sept::{L2SeptState, SeptEntry};

use crate::sept::l2;

/// The attributes are given.
pub(super) const VALID: u16 = 1 << 15;
const R: u16 = 1;
const W: u16 = 1 << 1;
const PWA: u16 = 1 << 5;
const SVE: u16 = 1 << 7;
const RESERVED: u16 = 0x7f00;
const ANY_ACCESS: u16 = 0xf;

/// Bit of the attributes, bit of the entry.
const PLACES: [(u32, u32); 8] = [
    (0, 0),
    (1, 1),
    (2, 2),
    (3, 10),
    (4, 57),
    (5, 58),
    (6, 60),
    (7, 63),
];

/// The 16 bits of one VM.
pub(super) const fn of_vm(all: u64, vm: u8) -> u16 {
    (all >> (16 * vm as u32)) as u16
}

/// The 64 bits with those of one VM replaced.
pub(super) const fn with_vm(all: u64, vm: u8, attributes: u16) -> u64 {
    let shift = 16 * vm as u32;
    all & !(0xffff << shift) | (attributes as u64) << shift
}

/// Whether the attributes allow any access, so that an entry is needed.
pub(super) const fn is_present(attributes: u16) -> bool {
    attributes & ANY_ACCESS != 0
}

/// Whether an entry may have these attributes.
pub(super) const fn is_legal(attributes: u16) -> bool {
    let valid = attributes & VALID != 0 || attributes == 0;
    let readable = attributes & (W | PWA) == 0 || attributes & R != 0;
    valid && readable && attributes & (RESERVED | SVE) == 0
}

/// A new L2 entry for the page, blocked while the page is pending.
pub(super) fn leaf(hpa: Hpa, attributes: u16, pending: bool) -> SeptEntry {
    let fixed = SeptEntry::MT_WB | SeptEntry::IPAT | SeptEntry::LEAF;
    let entry = place(
        SeptEntry::from_bits_retain(fixed.bits() | hpa.0),
        attributes,
    );
    if pending {
        l2::blocked(entry, false)
    } else {
        entry
    }
}

/// The entry with other attributes; a blocked one stays blocked.
pub(super) fn replaced(entry: SeptEntry, attributes: u16) -> SeptEntry {
    if l2::state(entry) == L2SeptState::L2_BLOCKED {
        l2::blocked(place(l2::unblocked(entry), attributes), false)
    } else {
        place(entry, attributes)
    }
}

fn place(entry: SeptEntry, attributes: u16) -> SeptEntry {
    let put = |bits: u64, (from, to): (u32, u32)| {
        bits & !(1 << to) | u64::from(attributes >> from & 1) << to
    };
    SeptEntry::from_bits_retain(PLACES.into_iter().fold(entry.bits(), put))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_reports_the_attributes_that_it_was_given_blocked_or_not() {
        for attributes in [R | VALID, R | W | 0x3c | VALID, 0x4d | VALID] {
            for pending in [false, true] {
                let entry = leaf(Hpa(0x4000_0000), attributes, pending);
                assert_eq!(l2::attributes(entry, false), attributes);
                let other = replaced(entry, R | 0x10 | VALID);
                assert_eq!(l2::attributes(other, false), R | 0x10 | VALID);
                assert_eq!(other.hpa(), Hpa(0x4000_0000));
            }
        }
    }

    #[test]
    fn a_page_that_can_be_written_must_be_readable() {
        assert!(is_legal(0) && is_legal(VALID) && is_legal(VALID | R | W));
        for wrong in [W | VALID, PWA | VALID, SVE | R | VALID, R, 0x100 | VALID] {
            assert!(!is_legal(wrong), "{wrong:#x}");
        }
    }
}
