//! `TDH.SYS.INIT` (leaf 33): initialises the module, once.
//!
//! RCX = attributes, all reserved. Out: RCX, RDX, R8, R9, R10 describe a platform fault, or are
//! zero. Holds the global lock alone.

use seamlock_sync::Mode;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::status::TdxStatus;

use crate::call::{Call, Done, invalid};
use crate::locks::{GLOBAL, SharexGuard};
use crate::platform::PlatformFault;
use crate::sys::SysState;

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let m = call.m;
    let attributes = call.r.rcx;
    (call.r.rcx, call.r.rdx, call.r.r8) = (0, 0, 0);
    (call.r.r9, call.r.r10) = (0, 0);
    let _global = SharexGuard::try_take(&m.sys.global, Mode::Exclusive, GLOBAL.only())
        .ok_or(TdxStatus::SYS_BUSY)?;
    if attributes != 0 {
        return Err(invalid(OperandId::RCX));
    }
    if m.sys.state.load() != SysState::InitPending {
        return Err(TdxStatus::SYS_INIT_NOT_PENDING);
    }
    let checked = m.platform.events.platform_check(call.lp);
    checked.map_err(|fault| match fault {
        PlatformFault::Cpuid { leaf, subleaf } => {
            call.r.rcx = u64::from(leaf) | u64::from(subleaf) << 32;
            TdxStatus::INCORRECT_CPUID_VALUE
        }
        PlatformFault::Msr { index } => TdxStatus::INCORRECT_MSR_VALUE.with_details(index),
    })?;
    m.platform
        .events
        .random(call.lp)
        .ok_or(TdxStatus::RND_NO_ENTROPY)?;
    m.sys.state.store(SysState::InitDone);
    Ok(())
}
