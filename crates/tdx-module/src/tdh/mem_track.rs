//! `TDH.MEM.TRACK` (leaf 38): begins a TLB epoch.
//!
//! RCX = TDR. Holds the epoch alone. Refused while a vCPU is in the guest that entered before the
//! epoch that ends here: there are two counts of vCPUs only.

use seamlock_sync::Mode;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::status::TdxStatus;

use crate::call::{Call, Done};
use crate::locks::{SharexGuard, TD_EPOCH};
use crate::operand::hold_op_state;

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let tdr = call.m.hold_tdr(call.r.rcx, Mode::Shared, OperandId::RCX)?;
    let td = tdr.td;
    let _op_state = hold_op_state(td, call.leaf)?;
    let name = TD_EPOCH.at(td.tdr.0);
    let _epoch = SharexGuard::try_take(&td.epoch_lock, Mode::Exclusive, name)
        .ok_or(TdxStatus::OPERAND_BUSY.with(OperandId::TD_EPOCH))?;
    let epoch = td.td_epoch.load();
    if td.refcount[(1 - (epoch & 1)) as usize].load() != 0 {
        return Err(TdxStatus::PREVIOUS_TLB_EPOCH_BUSY);
    }
    td.td_epoch.store(epoch.wrapping_add(1));
    Ok(())
}
