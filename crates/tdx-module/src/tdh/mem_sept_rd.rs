//! `TDH.MEM.SEPT.RD` (leaf 25): reads a secure-EPT entry.
//!
//! RCX = GPA and level, RDX = TDR with bit 0 "read what L2 VMs may do", for a debug TD only. Out: RCX
//! = the entry, RDX = its level and state, R8 = the L2 attributes if asked for.

use seamlock_sync::Mode;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::sept::SeptState;

use crate::call::{Call, Done, invalid};
use crate::operand::hold_op_state;
use crate::sept::{Target, l2};
use crate::tables::{SeptTrait, sept_is};

/// Bit 0 of RDX.
const READ_L2: u64 = 1;

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let operands = *call.r;
    (call.r.rcx, call.r.rdx) = (0, 0);
    let read_l2 = operands.rdx & READ_L2 != 0;
    let tdr = operands.rdx & !READ_L2;
    let held = call.m.hold_tdr(tdr, Mode::Shared, OperandId::RDX)?;
    let op_state = hold_op_state(held.td, call.leaf)?;
    if read_l2 && !held.td.is_debug() {
        return Err(invalid(OperandId::RDX));
    }
    let target = Target::below(call, held, op_state, operands.rcx, 0..=4, Mode::Shared)?;
    if read_l2 {
        call.r.r8 = l2_attributes(call, &target);
    }
    target.entry.report(call);
    Ok(())
}

/// The attributes of the L2 VMs 1 to 3 for the range, 16 bits each from bit 16 on.
fn l2_attributes(call: &Call<'_, '_>, target: &Target<'_>) -> u64 {
    let entry = target.entry.value();
    if entry.state() == SeptState::FREE {
        return 0;
    }
    let blocked_for_writing = sept_is(entry.state(), SeptTrait::BlockedForWriting);
    call.m
        .l2_entries(target.td(), entry, target.gpa, target.level)
        .map(|(vm, walk)| {
            let bits = l2::attributes(walk.entry, blocked_for_writing);
            u64::from(bits) << (16 * u32::from(vm))
        })
        .sum()
}
