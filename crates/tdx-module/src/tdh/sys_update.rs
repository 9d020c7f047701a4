//! `TDH.SYS.UPDATE` (leaf 53): takes over what a module left at TDH.SYS.SHUTDOWN.
//!
//! No operands. Holds the global lock alone. This module is never loaded in the place of another,
//! so there is no handoff data to find.

use seamlock_sync::Mode;
use seamlock_tdx_abi::status::TdxStatus;

use crate::call::{Call, Done};
use crate::locks::{GLOBAL, SharexGuard};
use crate::sys::SysState;

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let m = call.m;
    let _global = SharexGuard::try_take(&m.sys.global, Mode::Exclusive, GLOBAL.only())
        .ok_or(TdxStatus::SYS_BUSY)?;
    let all_lps = m.sys.lps_initialized.load() >= m.platform.lps;
    if m.sys.state.load() != SysState::InitDone || !all_lps {
        return Err(TdxStatus::SYS_STATE_INCORRECT);
    }
    Err(TdxStatus::SYS_INVALID_HANDOFF)
}
