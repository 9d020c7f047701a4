//! `TDH.MR.FINALIZE` (leaf 17): ends the building of a TD and fixes MRTD.
//!
//! RCX = TDR, held alone.

use seamlock_sync::Mode;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::lifecycle::OpState;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::status::TdxStatus;

use crate::call::{Call, Done};
use crate::operand::check_td;

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let tdr = call
        .m
        .hold_tdr(call.r.rcx, Mode::Exclusive, OperandId::RCX)?;
    let td = tdr.td;
    check_td(td, Leaf::MR_FINALIZE)?;
    if td.num_vcpus.load() == 0 {
        return Err(TdxStatus::NO_VCPUS);
    }
    let mrtd = td.launch.with(|launch| launch.finalize());
    td.config.with(|config| config.mrtd = mrtd);
    td.set_op_state(OpState::RUNNABLE);
    Ok(())
}
