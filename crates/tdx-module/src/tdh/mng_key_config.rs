//! `TDH.MNG.KEY.CONFIG` (leaf 8): programs the TD's key on the package of this LP.
//!
//! RCX = TDR, held alone. Needed once on every package.

use seamlock_sync::Mode;
use seamlock_tdx_abi::lifecycle::LifecycleState;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::status::TdxStatus;

use crate::call::{Call, Done};
use crate::platform::KeyProgramming;

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let m = call.m;
    let tdr = m.hold_tdr(call.r.rcx, Mode::Exclusive, OperandId::RCX)?;
    let td = tdr.td;
    if td.fatal.load() {
        return Err(TdxStatus::TD_FATAL);
    }
    if td.lifecycle() != LifecycleState::HKID_ASSIGNED {
        return Err(TdxStatus::LIFECYCLE_STATE_INCORRECT);
    }
    let package = 1 << m.platform.package_of(call.lp);
    if td.pkg_config.load() & package != 0 {
        return Err(TdxStatus::KEY_CONFIGURED);
    }
    match m.platform.events.program_key(call.lp, td.hkid()) {
        KeyProgramming::Done => {}
        KeyProgramming::Busy => return Err(TdxStatus::OPERAND_BUSY.with(OperandId::KET)),
        KeyProgramming::NoEntropy => return Err(TdxStatus::KEY_GENERATION_FAILED),
    }
    let done = td.pkg_config.load() | package;
    td.pkg_config.store(done);
    if done == m.sys.all_packages() {
        td.set_lifecycle(LifecycleState::KEYS_CONFIGURED);
    }
    Ok(())
}
