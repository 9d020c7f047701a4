//! What guest leaves ask for: states of secure-EPT entries, and lock words.
//!
//! Source: TDX module 1.5, `sept_state_lookup.c`, `tdg_mem_page_accept.c` and its like.

use seamlock_sync::Mode;
use seamlock_tdx_abi::guest_leaf::GuestLeaf;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::sept::SeptState;

use super::LockWord;

/// The lock word that a guest leaf takes by the guest's rules, and the operand that it names in
/// OPERAND_BUSY. All run under the TDVPR and the TDR, which VP.ENTER holds shared; leaves that are not
/// listed take no word.
pub const GUEST_LOCKS: &[(GuestLeaf, LockWord, Mode, OperandId)] = &[
    (
        GuestLeaf::MEM_PAGE_ACCEPT,
        LockWord::SeptEntry,
        Mode::Exclusive,
        OperandId::RCX,
    ),
    (
        GuestLeaf::MEM_PAGE_ATTR_RD,
        LockWord::SeptEntry,
        Mode::Exclusive,
        OperandId::RCX,
    ),
    (
        GuestLeaf::MEM_PAGE_ATTR_WR,
        LockWord::SeptEntry,
        Mode::Exclusive,
        OperandId::RCX,
    ),
    (
        GuestLeaf::MR_REPORT,
        LockWord::Rtmr,
        Mode::Shared,
        OperandId::RTMR,
    ),
    (
        GuestLeaf::MR_RTMR_EXTEND,
        LockWord::Rtmr,
        Mode::Exclusive,
        OperandId::RTMR,
    ),
];

/// States in which the guest can at least read the page.
pub const GUEST_ACCESSIBLE: &[SeptState] = &[
    SeptState::MAPPED,
    SeptState::BLOCKEDW,
    SeptState::EXPORTED_BLOCKEDW,
    SeptState::EXPORTED_DIRTY,
    SeptState::EXPORTED_DIRTY_BLOCKEDW,
];

/// In which state an L1 secure-EPT entry must be for a guest leaf; in any other state the TD exits.
pub const GUEST_SEPT_STATES_ALLOWED: &[(GuestLeaf, &[SeptState])] = &[
    (
        GuestLeaf::MEM_PAGE_ACCEPT,
        &[SeptState::PENDING, SeptState::PENDING_EXPORTED_DIRTY],
    ),
    (
        GuestLeaf::MEM_PAGE_ATTR_RD,
        &[
            SeptState::MAPPED,
            SeptState::BLOCKEDW,
            SeptState::EXPORTED_BLOCKEDW,
            SeptState::EXPORTED_DIRTY,
            SeptState::EXPORTED_DIRTY_BLOCKEDW,
            SeptState::PENDING,
            SeptState::PENDING_BLOCKEDW,
            SeptState::PENDING_EXPORTED_BLOCKEDW,
            SeptState::PENDING_EXPORTED_DIRTY,
            SeptState::PENDING_EXPORTED_DIRTY_BLOCKEDW,
        ],
    ),
    (
        GuestLeaf::MEM_PAGE_ATTR_WR,
        &[
            SeptState::MAPPED,
            SeptState::EXPORTED_DIRTY,
            SeptState::PENDING,
            SeptState::PENDING_EXPORTED_DIRTY,
        ],
    ),
];

/// Whether a guest leaf is allowed on an entry in a state. Leaves that are not listed do not ask.
pub fn guest_sept_state_allows(leaf: GuestLeaf, state: SeptState) -> bool {
    let listed = GUEST_SEPT_STATES_ALLOWED.iter().find(|(l, _)| *l == leaf);
    listed.is_none_or(|(_, states)| states.contains(&state))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::{SeptTrait, sept_is};

    #[test]
    fn only_what_waits_for_the_guest_can_be_accepted() {
        for (state, name) in SeptState::ALL {
            let allowed = guest_sept_state_allows(GuestLeaf::MEM_PAGE_ACCEPT, *state);
            assert_eq!(allowed, sept_is(*state, SeptTrait::Acceptable), "{name}");
        }
    }
}
