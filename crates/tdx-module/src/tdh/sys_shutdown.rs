//! `TDH.SYS.SHUTDOWN` (leaf 52): ends the module, to be replaced by another.
//!
//! RCX = version of the handoff data. Holds the global lock alone. When another LP is inside the
//! module, the module stays as it is.

use seamlock_sync::Mode;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::status::TdxStatus;

use crate::call::{Call, Done, invalid};
use crate::locks::{GLOBAL, SharexGuard};
use crate::sys::{MIN_UPDATE_HV, MODULE_HV, SysState};

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let m = call.m;
    if !(u64::from(MIN_UPDATE_HV)..=u64::from(MODULE_HV)).contains(&call.r.rcx) {
        return Err(invalid(OperandId::RCX));
    }
    let _global = SharexGuard::try_take(&m.sys.global, Mode::Exclusive, GLOBAL.only())
        .ok_or(TdxStatus::SYS_BUSY)?;
    m.sys.state.store(SysState::Shutdown);
    let inside = m.sys.lps.iter().filter(|lp| lp.busy.load()).count();
    if inside > 1 {
        m.sys.state.store(SysState::Ready);
        return Err(TdxStatus::SYS_BUSY);
    }
    Ok(())
}
