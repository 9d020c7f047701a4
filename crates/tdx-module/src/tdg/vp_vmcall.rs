//! `TDG.VP.VMCALL` (leaf 0): calls the host.
//!
//! RCX = general-purpose registers to pass in 15:0, XMM registers in 31:16. The TD exits; the same
//! registers come back with the next TDH.VP.ENTER. RAX, RCX and RSP can't be passed; RBP neither
//! when the TD keeps it from the host (CONFIG_FLAGS.NO_RBP_MOD).

use seamlock_tdx_abi::operand::OperandId;

use crate::call::invalid;
use crate::td_exit::config_no_rbp_mod;
use crate::tdg::{Done, GuestCall, Stop};

/// RAX, RCX, RSP, and everything above the XMM mask.
const NOT_SELECTABLE: u64 = 0xffff_ffff_0000_0013;
const RBP: u64 = 1 << 5;

pub(super) fn run(call: &mut GuestCall<'_, '_>) -> Done {
    let rbp = if config_no_rbp_mod(call.at.td) {
        RBP
    } else {
        0
    };
    if call.r.rcx & (NOT_SELECTABLE | rbp) != 0 {
        return Err(invalid(OperandId::RCX).into());
    }
    Err(Stop::Vmcall)
}
