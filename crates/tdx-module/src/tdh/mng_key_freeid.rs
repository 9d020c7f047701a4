//! `TDH.MNG.KEY.FREEID` (leaf 20): frees the TD's HKID once its caches are written back.
//!
//! RCX = TDR, held alone together with the key ownership table.

use seamlock_sync::Mode;
use seamlock_tdx_abi::lifecycle::LifecycleState;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::status::TdxStatus;

use crate::call::{Call, Done};
use crate::locks::{KOT, SharexGuard};
use crate::sys::KotState;

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let m = call.m;
    let tdr = m.hold_tdr(call.r.rcx, Mode::Exclusive, OperandId::RCX)?;
    let td = tdr.td;
    // Unlike VPFLUSHDONE, which takes the table first.
    if td.lifecycle() != LifecycleState::BLOCKED {
        return Err(TdxStatus::LIFECYCLE_STATE_INCORRECT);
    }
    let _kot = SharexGuard::try_take(&m.sys.kot_lock, Mode::Exclusive, KOT.only())
        .ok_or(TdxStatus::OPERAND_BUSY.with(OperandId::KOT))?;
    let entry = m.sys.kot(td.hkid());
    if entry.wbinvd_bitmap.load() != 0 {
        return Err(TdxStatus::WBCACHE_NOT_COMPLETE);
    }
    entry.state.store(KotState::Free);
    td.set_lifecycle(LifecycleState::TEARDOWN);
    Ok(())
}
