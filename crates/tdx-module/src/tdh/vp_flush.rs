//! `TDH.VP.FLUSH` (leaf 18): ends the association of a vCPU with this LP.
//!
//! RCX = TDVPR, held alone; the owner TDR shared. Neither locks nor looks at OP_STATE, and
//! works on a fatal TD.

use seamlock_sync::Mode;
use seamlock_tdx_abi::lifecycle::LifecycleState;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::status::TdxStatus;

use crate::call::{Call, Done};
use crate::operand::check_tdvps_pages;
use crate::vp::NO_LP;

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let m = call.m;
    let (vp, tdvpr) = m.hold_tdvpr(call.r.rcx, Mode::Exclusive, OperandId::RCX)?;
    let owner = m.hold_owner(tdvpr.entry().owner(), Mode::Shared)?;
    let td = owner.td;
    if td.lifecycle() != LifecycleState::KEYS_CONFIGURED {
        return Err(TdxStatus::TD_KEYS_NOT_CONFIGURED);
    }
    check_tdvps_pages(td, vp)?;
    if vp.assoc_lpid.load() != call.lp {
        return Err(TdxStatus::VCPU_NOT_ASSOCIATED);
    }
    vp.assoc_lpid.store(NO_LP);
    td.num_assoc.fetch_sub(1);
    Ok(())
}
