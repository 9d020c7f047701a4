//! `TDH.SYS.LP.INIT` (leaf 35): initialises this logical processor, once, and compares it with the
//! one that made SYS.INIT.
//!
//! No operands. Out: RCX, RDX, R8 describe a difference, or are zero. Holds the global lock shared.

use seamlock_sync::Mode;
use seamlock_tdx_abi::status::TdxStatus;

use crate::call::{Call, Done};
use crate::locks::{GLOBAL, SharexGuard};
use crate::platform::PlatformFault;
use crate::sys::SysState;

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let m = call.m;
    (call.r.rcx, call.r.rdx, call.r.r8) = (0, 0, 0);
    let _global = SharexGuard::try_take(&m.sys.global, Mode::Shared, GLOBAL.only())
        .ok_or(TdxStatus::SYS_BUSY)?;
    if m.sys.state.load() != SysState::InitDone {
        return Err(TdxStatus::SYS_LP_INIT_NOT_PENDING);
    }
    let lp = &m.sys.lps[call.lp as usize];
    if lp.initialized.load() {
        return Err(TdxStatus::SYS_LP_INIT_DONE);
    }
    let events = &m.platform.events;
    events.random(call.lp).ok_or(TdxStatus::RND_NO_ENTROPY)?;
    let checked = events.platform_check(call.lp);
    checked.map_err(|fault| match fault {
        PlatformFault::Cpuid { leaf, subleaf } => {
            call.r.rcx = u64::from(leaf) | u64::from(subleaf) << 32;
            TdxStatus::INCONSISTENT_CPUID_FIELD
        }
        PlatformFault::Msr { index } => TdxStatus::INCONSISTENT_MSR.with_details(index),
    })?;
    lp.initialized.store(true);
    m.sys.lps_initialized.fetch_add(1);
    Ok(())
}
