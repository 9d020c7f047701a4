//! Values of L1 secure-EPT entries.
//!
//! Source: TDX module 1.5, `sept_manager.h`.

use seamlock_tdx_abi::addr::{Gpa, Hpa};
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::sept::{SeptEntry, SeptInfo, SeptState};

use crate::tables::{SeptTrait, sept_is};

/// Bits 58 to 60 of an L1 entry: the L2 VMs 1 to 3 have an entry for the same range.
const ALIAS_SHIFT: u32 = 57;
/// Bits 20:12 of a pending 2 MiB leaf: how much of it is accepted.
const ACCEPT_COUNTER: u64 = 0x1ff << 12;

/// An entry that maps the page at `hpa` for reading, writing and executing, or keeps it pending.
#[inline]
pub(crate) fn leaf_entry(hpa: Hpa, state: SeptState) -> SeptEntry {
    let fixed = SeptEntry::MT_WB | SeptEntry::SUPPRESS_VE;
    let rwx = if state == SeptState::MAPPED {
        SeptEntry::RWX
    } else {
        SeptEntry::empty()
    };
    let bits = (fixed | rwx).bits() | state.to_bits() | hpa.0;
    SeptEntry::from_bits_retain(bits)
}

/// An entry that points to the table at `hpa`.
pub(crate) fn table_entry(hpa: Hpa) -> SeptEntry {
    let fixed = SeptEntry::RWX | SeptEntry::SUPPRESS_VE;
    let bits = fixed.bits() | SeptState::NL_MAPPED.to_bits() | hpa.0;
    SeptEntry::from_bits_retain(bits)
}

/// The entry that maps another page of the same size.
pub(crate) fn with_hpa(entry: SeptEntry, hpa: Hpa) -> SeptEntry {
    SeptEntry::from_bits_retain(entry.bits() & !SeptEntry::HPA_MASK | hpa.0)
}

/// The page that a leaf entry of `level` maps for `gpa`.
#[inline]
pub(crate) fn leaf_to_hpa(entry: SeptEntry, gpa: Gpa, level: u8) -> Hpa {
    let inside = (1u64 << (12 + 9 * u32::from(level))) - 1;
    Hpa(entry.hpa().0 & !inside | gpa.0 & inside)
}

fn with_state(entry: SeptEntry, state: SeptState) -> SeptEntry {
    let bits = entry.bits() & !SeptEntry::STATE_MASK | state.to_bits();
    SeptEntry::from_bits_retain(bits) | SeptEntry::SUPPRESS_VE
}

/// The entry without what the guest has accepted of a pending 2 MiB page.
pub(crate) fn without_accept_counter(entry: SeptEntry, level: u8) -> SeptEntry {
    if level == 1 && sept_is(entry.state(), SeptTrait::Acceptable) {
        SeptEntry::from_bits_retain(entry.bits() & !ACCEPT_COUNTER)
    } else {
        entry
    }
}

/// The entry after MEM.RANGE.BLOCK. What the guest may do need not be kept: it follows from the state.
pub(crate) fn blocked(entry: SeptEntry, level: u8) -> SeptEntry {
    let entry = without_accept_counter(entry, level);
    match entry.state() {
        SeptState::NL_MAPPED => with_state(entry, SeptState::NL_BLOCKED) - SeptEntry::RWX,
        SeptState::MAPPED | SeptState::BLOCKEDW => {
            with_state(entry, SeptState::BLOCKED) - SeptEntry::RWX
        }
        SeptState::PENDING | SeptState::PENDING_BLOCKEDW => {
            with_state(entry, SeptState::PENDING_BLOCKED)
        }
        _ => entry,
    }
}

/// The entry as it was before it was blocked; an entry that is not blocked stays as it is.
pub(crate) fn unblocked(entry: SeptEntry) -> SeptEntry {
    match entry.state() {
        SeptState::NL_BLOCKED => {
            (with_state(entry, SeptState::NL_MAPPED) | SeptEntry::RWX) - SeptEntry::MT_WB
        }
        SeptState::BLOCKED => {
            with_state(entry, SeptState::MAPPED) | SeptEntry::RWX | SeptEntry::MT_WB
        }
        SeptState::PENDING_BLOCKED => with_state(entry, SeptState::PENDING),
        _ => entry,
    }
}

/// Whether L2 VM `vm`, 1 to 3, has an entry for the same range.
pub(crate) fn is_aliased(entry: SeptEntry, vm: u8) -> bool {
    entry.bits() >> (ALIAS_SHIFT + u32::from(vm)) & 1 != 0
}

/// The entry with the mark that L2 VM `vm` has an entry for the same range.
pub(crate) fn with_alias(entry: SeptEntry, vm: u8) -> SeptEntry {
    SeptEntry::from_bits_retain(entry.bits() | 1 << (ALIAS_SHIFT + u32::from(vm)))
}

/// Reports an entry in RCX and RDX.
#[cold]
pub(crate) fn report(entry: SeptEntry, level: u8, regs: &mut Regs) {
    let state = entry.state().rdx_state().unwrap_or(0);
    regs.rcx = entry.arch_bits();
    regs.rdx = SeptInfo {
        level,
        state,
        vm: 0,
    }
    .to_rdx();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocking_takes_the_permissions_and_unblocking_gives_them_back() {
        let entries = [
            (table_entry(Hpa(0x5000)), SeptState::NL_BLOCKED),
            (
                leaf_entry(Hpa(0x5000), SeptState::MAPPED),
                SeptState::BLOCKED,
            ),
            (
                leaf_entry(Hpa(0x5000), SeptState::PENDING),
                SeptState::PENDING_BLOCKED,
            ),
        ];
        for (entry, state) in entries {
            let blocked = blocked(entry, 0);
            assert_eq!(blocked.state(), state);
            assert!(!blocked.intersects(SeptEntry::RWX));
            assert_eq!(unblocked(blocked), entry);
        }
    }

    #[test]
    fn blocking_a_pending_2m_page_forgets_what_was_accepted() {
        let accepted = 3 << 12;
        let pending = leaf_entry(Hpa(0x20_0000 | accepted), SeptState::PENDING);
        assert_eq!(blocked(pending, 1).hpa(), Hpa(0x20_0000));
        assert_eq!(blocked(pending, 0).hpa(), Hpa(0x20_3000));
    }

    #[test]
    fn a_leaf_maps_the_part_of_its_page_that_the_gpa_names() {
        let page = leaf_entry(Hpa(0x4020_0000), SeptState::MAPPED);
        assert_eq!(
            leaf_to_hpa(page, Gpa(0xabc1_2345), 1),
            Hpa(0x4020_0000 | 0x1_2345)
        );
        assert_eq!(leaf_to_hpa(page, Gpa(0xabc1_2345), 0), Hpa(0x4020_0345));
    }

    #[test]
    fn an_alias_mark_is_one_bit_for_each_l2_vm() {
        let table = table_entry(Hpa(0x5000));
        for vm in 1..=3 {
            let marked = with_alias(table, vm);
            assert!((1..=3).all(|other| is_aliased(marked, other) == (other == vm)));
            assert_eq!(marked.state(), SeptState::NL_MAPPED);
        }
    }
}
