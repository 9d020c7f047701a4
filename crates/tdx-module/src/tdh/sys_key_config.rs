//! `TDH.SYS.KEY.CONFIG` (leaf 31): programs the module's own key on the package of this LP.
//!
//! No operands. Needed once on every package; the last one makes the module ready. Holds the global
//! lock alone.

use seamlock_sync::Mode;
use seamlock_tdx_abi::addr::Hkid;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::status::TdxStatus;

use crate::call::{Call, Done};
use crate::locks::{GLOBAL, SharexGuard};
use crate::platform::KeyProgramming;
use crate::sys::SysState;

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let m = call.m;
    let _global = SharexGuard::try_take(&m.sys.global, Mode::Exclusive, GLOBAL.only())
        .ok_or(TdxStatus::SYS_BUSY)?;
    if m.sys.state.load() != SysState::ConfigDone {
        return Err(TdxStatus::SYS_KEY_CONFIG_NOT_PENDING);
    }
    let package = 1 << m.platform.package_of(call.lp);
    let configured = m.sys.pkg_config.load();
    if configured & package != 0 {
        return Err(TdxStatus::KEY_CONFIGURED);
    }
    let hkid = Hkid(m.sys.hkid.load());
    match m.platform.events.program_key(call.lp, hkid) {
        KeyProgramming::Done => {}
        KeyProgramming::Busy => return Err(TdxStatus::OPERAND_BUSY.with(OperandId::KET)),
        KeyProgramming::NoEntropy => return Err(TdxStatus::KEY_GENERATION_FAILED),
    }
    m.sys.pkg_config.store(configured | package);
    if configured | package == m.sys.all_packages() {
        m.sys.state.store(SysState::Ready);
    }
    Ok(())
}
