//! `TDH.MEM.RD` (leaf 12): reads 8 bytes of a debug TD.
//!
//! RCX = GPA, a multiple of 8; RDX = TDR. Out: R8 = what is there.

use seamlock_sync::Mode;
use seamlock_tdx_abi::addr::{Gpa, Hpa};
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::sept::SeptEntry;
use seamlock_tdx_abi::status::TdxStatus;

use crate::call::{Call, Done, invalid};
use crate::locks::{SEPT_TREE, SharexGuard};
use crate::operand::{check_private_gpa, hold_op_state};
use crate::sept::{LockedEntry, Ordered, leaf_to_hpa};
use crate::tables::sept_state_allows;

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    access(call, |_, _| {})
}

/// Reads the word that RCX names into R8 and then does `then` with the call and the word's address,
/// while everything is held.
pub(super) fn access<'m>(call: &mut Call<'m, '_>, then: impl FnOnce(&Call<'m, '_>, Hpa)) -> Done {
    let (m, operands) = (call.m, *call.r);
    (call.r.rcx, call.r.rdx, call.r.r8) = (0, 0, 0);
    let tdr = m.hold_tdr(operands.rdx, Mode::Shared, OperandId::RDX)?;
    let td = tdr.td;
    let _op_state = hold_op_state(td, call.leaf)?;
    if !td.is_debug() {
        return Err(TdxStatus::TD_NON_DEBUG);
    }
    let gpa = Gpa(operands.rcx);
    if !gpa.0.is_multiple_of(8) {
        return Err(invalid(OperandId::RCX));
    }
    // The address is looked at after the lock here, unlike in the leaves that take a page.
    let _tree = SharexGuard::try_take(&td.sept_lock, Mode::Shared, SEPT_TREE.at(td.tdr.0))
        .ok_or(TdxStatus::OPERAND_BUSY.with(OperandId::SEPT_TREE))?;
    check_private_gpa(td, gpa, OperandId::RCX)?;
    let not_present = TdxStatus::EPT_ENTRY_NOT_PRESENT.with(OperandId::RCX);
    let walk = m.walk(td, gpa, 0, Ordered::No).ok_or(not_present)?;
    if !walk.entry.contains(SeptEntry::LEAF) || !walk.entry.intersects(SeptEntry::RWX) {
        walk.report(call.r);
        return Err(not_present);
    }
    let Some(entry) = LockedEntry::try_lock(walk) else {
        walk.report(call.r);
        return Err(TdxStatus::OPERAND_BUSY.with(OperandId::RCX));
    };
    if !sept_state_allows(call.leaf, entry.value().state()) {
        entry.report(call);
        return Err(TdxStatus::EPT_ENTRY_STATE_INCORRECT.with(OperandId::RCX));
    }
    let pa = leaf_to_hpa(entry.value(), gpa, walk.level);
    call.r.r8 = m.memory.read_u64(pa);
    then(call, pa);
    Ok(())
}
