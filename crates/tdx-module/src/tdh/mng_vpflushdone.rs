//! `TDH.MNG.VPFLUSHDONE` (leaf 19): checks that no vCPU is associated and blocks the TD's HKID.
//!
//! RCX = TDR, held alone together with the key ownership table.

use seamlock_sync::Mode;
use seamlock_tdx_abi::lifecycle::{LifecycleState, OpState};
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::status::TdxStatus;

use crate::call::{Call, Done};
use crate::locks::{KOT, SharexGuard};
use crate::sys::KotState;
use crate::td::MIN_TDCS_PAGES;

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let m = call.m;
    let tdr = m.hold_tdr(call.r.rcx, Mode::Exclusive, OperandId::RCX)?;
    let td = tdr.td;
    let _kot = SharexGuard::try_take(&m.sys.kot_lock, Mode::Exclusive, KOT.only())
        .ok_or(TdxStatus::OPERAND_BUSY.with(OperandId::KOT))?;
    let state = td.lifecycle();
    if state != LifecycleState::KEYS_CONFIGURED && state != LifecycleState::HKID_ASSIGNED {
        return Err(TdxStatus::LIFECYCLE_STATE_INCORRECT);
    }
    let initialized = td.op_state() != OpState::UNINITIALIZED;
    let has_tdcs = td.num_tdcx.load() >= MIN_TDCS_PAGES;
    if has_tdcs && initialized && td.num_assoc.load() != 0 {
        return Err(TdxStatus::FLUSHVP_NOT_DONE);
    }
    let entry = m.sys.kot(td.hkid());
    entry.wbinvd_bitmap.store(m.sys.all_packages());
    td.set_lifecycle(LifecycleState::BLOCKED);
    entry.state.store(KotState::Flushed);
    Ok(())
}
