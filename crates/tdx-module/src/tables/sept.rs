//! States of secure-EPT entries: which leaf accepts which, and what they mean.
//!
//! Source: TDX module 1.5.06, `sept_state_lookup.c`.

use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::sept::SeptState;

use super::LEAVES;

/// In which state an L1 secure-EPT entry must be for a leaf. Leaves that are not listed do not ask.
pub const SEPT_STATES_ALLOWED: &[(Leaf, &[SeptState])] = &[
    (Leaf::MEM_SEPT_ADD, &[SeptState::FREE, SeptState::NL_MAPPED]),
    (Leaf::MEM_PAGE_ADD, &[SeptState::FREE]),
    (Leaf::MEM_PAGE_AUG, &[SeptState::FREE, SeptState::REMOVED]),
    (
        Leaf::MEM_RANGE_BLOCK,
        &[
            SeptState::NL_MAPPED,
            SeptState::MAPPED,
            SeptState::BLOCKEDW,
            SeptState::PENDING,
            SeptState::PENDING_BLOCKEDW,
        ],
    ),
    (
        Leaf::MEM_RANGE_UNBLOCK,
        &[
            SeptState::NL_BLOCKED,
            SeptState::BLOCKED,
            SeptState::PENDING_BLOCKED,
        ],
    ),
    (
        Leaf::MEM_PAGE_REMOVE,
        &[
            SeptState::MAPPED,
            SeptState::BLOCKED,
            SeptState::BLOCKEDW,
            SeptState::PENDING,
            SeptState::PENDING_BLOCKED,
            SeptState::PENDING_BLOCKEDW,
        ],
    ),
    (
        Leaf::MEM_SEPT_REMOVE,
        &[SeptState::NL_MAPPED, SeptState::NL_BLOCKED],
    ),
    (
        Leaf::MEM_PAGE_PROMOTE,
        &[SeptState::NL_MAPPED, SeptState::NL_BLOCKED],
    ),
    (
        Leaf::MEM_PAGE_DEMOTE,
        &[
            SeptState::MAPPED,
            SeptState::BLOCKED,
            SeptState::PENDING,
            SeptState::PENDING_BLOCKED,
        ],
    ),
    (Leaf::MEM_PAGE_RELOCATE, LEAF_STATES),
    (
        Leaf::MEM_RD,
        &[
            SeptState::MAPPED,
            SeptState::BLOCKEDW,
            SeptState::EXPORTED_BLOCKEDW,
            SeptState::EXPORTED_DIRTY,
            SeptState::EXPORTED_DIRTY_BLOCKEDW,
        ],
    ),
    (
        Leaf::MEM_WR,
        &[SeptState::MAPPED, SeptState::EXPORTED_DIRTY],
    ),
    (Leaf::MR_EXTEND, &[SeptState::MAPPED]),
];

/// Every state in which an L1 entry maps a page.
const LEAF_STATES: &[SeptState] = &[
    SeptState::MAPPED,
    SeptState::BLOCKED,
    SeptState::BLOCKEDW,
    SeptState::EXPORTED_BLOCKEDW,
    SeptState::EXPORTED_DIRTY,
    SeptState::EXPORTED_DIRTY_BLOCKEDW,
    SeptState::PENDING,
    SeptState::PENDING_BLOCKED,
    SeptState::PENDING_BLOCKEDW,
    SeptState::PENDING_EXPORTED_BLOCKEDW,
    SeptState::PENDING_EXPORTED_DIRTY,
    SeptState::PENDING_EXPORTED_DIRTY_BLOCKEDW,
];

/// What leaves ask about an L1 entry's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeptTrait {
    /// The range is blocked.
    Blocked,
    /// The range is blocked for writing.
    BlockedForWriting,
    /// The guest has not accepted the page.
    Pending,
    /// The guest could accept the page now.
    Acceptable,
    /// A vCPU may use the mapping, so that changing it needs TLB tracking.
    Tracked,
    /// Maps a page, or will once it is accepted; not blocked and not exported.
    MappedOrPending,
}

/// The states that have a trait.
pub const SEPT_TRAITS: &[(SeptTrait, &[SeptState])] = &[
    (
        SeptTrait::Blocked,
        &[
            SeptState::NL_BLOCKED,
            SeptState::BLOCKED,
            SeptState::PENDING_BLOCKED,
        ],
    ),
    (
        SeptTrait::BlockedForWriting,
        &[
            SeptState::BLOCKEDW,
            SeptState::EXPORTED_BLOCKEDW,
            SeptState::EXPORTED_DIRTY_BLOCKEDW,
            SeptState::PENDING_BLOCKEDW,
            SeptState::PENDING_EXPORTED_BLOCKEDW,
            SeptState::PENDING_EXPORTED_DIRTY_BLOCKEDW,
        ],
    ),
    (
        SeptTrait::Pending,
        &[
            SeptState::PENDING,
            SeptState::PENDING_BLOCKED,
            SeptState::PENDING_BLOCKEDW,
            SeptState::PENDING_EXPORTED_BLOCKEDW,
            SeptState::PENDING_EXPORTED_DIRTY,
            SeptState::PENDING_EXPORTED_DIRTY_BLOCKEDW,
        ],
    ),
    (
        SeptTrait::Acceptable,
        &[SeptState::PENDING, SeptState::PENDING_EXPORTED_DIRTY],
    ),
    (
        SeptTrait::Tracked,
        &[
            SeptState::NL_MAPPED,
            SeptState::NL_BLOCKED,
            SeptState::MAPPED,
            SeptState::BLOCKED,
            SeptState::BLOCKEDW,
            SeptState::EXPORTED_DIRTY,
            SeptState::EXPORTED_DIRTY_BLOCKEDW,
            SeptState::PENDING,
            SeptState::PENDING_BLOCKED,
            SeptState::PENDING_BLOCKEDW,
            SeptState::PENDING_EXPORTED_DIRTY,
            SeptState::PENDING_EXPORTED_DIRTY_BLOCKEDW,
        ],
    ),
    (
        SeptTrait::MappedOrPending,
        &[SeptState::MAPPED, SeptState::PENDING],
    ),
];

const fn state_mask(states: &[SeptState]) -> u128 {
    let mut mask = 0;
    let mut i = 0;
    while i < states.len() {
        mask |= 1 << states[i].0;
        i += 1;
    }
    mask
}

const fn sept_state_masks() -> [u128; LEAVES] {
    let mut masks = [u128::MAX; LEAVES];
    let mut i = 0;
    while i < SEPT_STATES_ALLOWED.len() {
        let (leaf, states) = SEPT_STATES_ALLOWED[i];
        masks[leaf.0 as usize] = state_mask(states);
        i += 1;
    }
    masks
}

const fn sept_trait_masks() -> [u128; SEPT_TRAITS.len()] {
    let mut masks = [0; SEPT_TRAITS.len()];
    let mut i = 0;
    while i < SEPT_TRAITS.len() {
        let (which, states) = SEPT_TRAITS[i];
        masks[which as usize] = state_mask(states);
        i += 1;
    }
    masks
}

static SEPT_STATE_MASKS: [u128; LEAVES] = sept_state_masks();
static SEPT_TRAIT_MASKS: [u128; SEPT_TRAITS.len()] = sept_trait_masks();

/// Whether a state has a trait.
#[inline]
pub fn sept_is(state: SeptState, which: SeptTrait) -> bool {
    SEPT_TRAIT_MASKS[which as usize] >> (state.0 & 0x7f) & 1 != 0
}

/// Whether a leaf is allowed on an entry in a state.
#[inline]
pub fn sept_state_allows(leaf: Leaf, state: SeptState) -> bool {
    let mask = SEPT_STATE_MASKS.get(usize::from(leaf.0));
    mask.is_none_or(|mask| mask >> (state.0 & 0x7f) & 1 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_is_allowed_on_the_entry_states_listed_and_on_no_other() {
        for (leaf, states) in SEPT_STATES_ALLOWED {
            for (state, name) in SeptState::ALL {
                let listed = states.contains(state);
                assert_eq!(sept_state_allows(*leaf, *state), listed, "{leaf:?} {name}");
            }
        }
        assert!(sept_state_allows(Leaf::MEM_SEPT_RD, SeptState::REMOVED));
    }

    #[test]
    fn a_state_has_the_traits_listed_and_no_other() {
        for (which, states) in SEPT_TRAITS {
            for (state, name) in SeptState::ALL {
                let listed = states.contains(state);
                assert_eq!(sept_is(*state, *which), listed, "{which:?} {name}");
            }
        }
    }
}
