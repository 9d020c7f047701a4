//! The specification's tables, as data: the dispatcher and the leaves consult them, tests walk them and
//! `seamlock explain` prints them.

use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::lifecycle::OpState;

mod guest;
mod locks;
mod operands;
mod sept;

pub use guest::{
    GUEST_ACCESSIBLE, GUEST_LOCKS, GUEST_SEPT_STATES_ALLOWED, guest_sept_state_allows,
};
pub use locks::{LOCKS, LeafLocks, LockPath, LockUse, LockWord, locks_of};
pub use operands::{LeafOperands, OPERANDS, Operand, operands_of};
pub use sept::{SEPT_STATES_ALLOWED, SEPT_TRAITS, SeptTrait, sept_is, sept_state_allows};

/// Leaves that exist in version 1, too. Source: dispatcher of TDX module 1.5.06.
pub const VERSIONED: &[Leaf] = &[
    Leaf::MEM_PAGE_PROMOTE,
    Leaf::MEM_SEPT_ADD,
    Leaf::MEM_SEPT_REMOVE,
    Leaf::MNG_RD,
    Leaf::VP_RD,
    Leaf::VP_INIT,
];

/// Leaves that run before the module is ready.
pub const BEFORE_READY: &[Leaf] = &[
    Leaf::SYS_INFO,
    Leaf::SYS_RD,
    Leaf::SYS_RDALL,
    Leaf::SYS_INIT,
    Leaf::SYS_LP_INIT,
    Leaf::SYS_CONFIG,
    Leaf::SYS_KEY_CONFIG,
    Leaf::SYS_LP_SHUTDOWN,
    Leaf::SYS_UPDATE,
];

/// In which OP_STATE a leaf is allowed. Leaves that are not listed do not look at OP_STATE.
pub const OP_STATES: &[(Leaf, &[u32])] = &[
    (Leaf::MNG_ADDCX, &[0]),
    (Leaf::MNG_INIT, &[0]),
    (Leaf::MEM_PAGE_ADD, &[1]),
    (Leaf::MR_EXTEND, &[1]),
    (Leaf::MR_FINALIZE, &[1]),
    (Leaf::VP_INIT, &[1]),
    (Leaf::VP_CREATE, &[1, 7]),
    (Leaf::VP_ADDCX, &[1, 7]),
    (Leaf::VP_ENTER, &[2, 3, 9]),
    (Leaf::MEM_PAGE_AUG, &[1, 2, 3, 9]),
    (Leaf::MEM_SEPT_ADD, &[1, 2, 3, 6, 7, 8, 9]),
    (Leaf::MEM_RANGE_BLOCK, &[1, 2, 3, 4, 5, 8, 9]),
    (Leaf::MEM_RANGE_UNBLOCK, &[1, 2, 3, 4, 5, 8, 9]),
    (Leaf::MEM_PAGE_PROMOTE, &[1, 2, 3, 4, 5, 8, 9]),
    (Leaf::MEM_PAGE_DEMOTE, &[1, 2, 3, 4, 5, 8, 9]),
    (Leaf::MEM_PAGE_RELOCATE, &[1, 2, 3, 4, 5, 8, 9]),
    (Leaf::MEM_PAGE_REMOVE, &[1, 2, 3, 4, 5, 8, 9, 10]),
    (Leaf::MEM_TRACK, &[1, 2, 3, 4, 5, 6, 7, 8, 9]),
    (Leaf::MNG_RD, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    (Leaf::VP_RD, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    (Leaf::MEM_SEPT_RD, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    (Leaf::MEM_SEPT_REMOVE, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    (Leaf::MEM_RD, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    (Leaf::MNG_WR, &[1, 2, 3, 6, 7, 8, 9, 10]),
    (Leaf::VP_WR, &[1, 2, 3, 6, 7, 8, 9, 10]),
    (Leaf::MEM_WR, &[1, 2, 3, 6, 7, 8, 9, 10]),
];

/// OP_STATEs in which removing or changing a mapping needs TLB tracking.
pub const TRACKING_REQUIRED: &[u32] = &[2, 3, 9];

const LEAVES: usize = 256;

const fn op_state_masks() -> [u16; LEAVES] {
    let mut masks = [u16::MAX; LEAVES];
    let mut i = 0;
    while i < OP_STATES.len() {
        let (leaf, states) = OP_STATES[i];
        let mut mask = 0;
        let mut s = 0;
        while s < states.len() {
            mask |= 1 << states[s];
            s += 1;
        }
        masks[leaf.0 as usize] = mask;
        i += 1;
    }
    masks
}

static OP_STATE_MASKS: [u16; LEAVES] = op_state_masks();

/// Whether a leaf is allowed in an OP_STATE.
#[inline]
pub fn op_state_allows(leaf: Leaf, state: OpState) -> bool {
    let mask = OP_STATE_MASKS
        .get(usize::from(leaf.0))
        .copied()
        .unwrap_or(u16::MAX);
    state.0 < 16 && mask >> state.0 & 1 != 0
}

/// Whether the TD's state asks for TLB tracking before a mapping goes.
pub fn tracking_required(state: OpState) -> bool {
    TRACKING_REQUIRED.contains(&state.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_that_is_listed_is_allowed_in_its_states_and_in_no_other() {
        for (leaf, states) in OP_STATES {
            for state in 0..=10 {
                let listed = states.contains(&state);
                assert_eq!(
                    op_state_allows(*leaf, OpState(state)),
                    listed,
                    "{leaf:?} {state}"
                );
            }
        }
        assert!(op_state_allows(Leaf::VP_FLUSH, OpState::UNINITIALIZED));
    }
}
