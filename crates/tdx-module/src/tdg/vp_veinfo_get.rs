//! `TDG.VP.VEINFO.GET` (leaf 3): reads what the last #VE is about, and lets the next one come.
//!
//! Out: RCX = exit reason, RDX = exit qualification, R8 = guest linear address, R9 = guest physical
//! address, R10 = instruction length in 31:0 and instruction information in 63:32.

use seamlock_tdx_abi::status::TdxStatus;

use crate::guest::VeInfo;
use crate::tdg::{Done, GuestCall};

pub(super) fn run(call: &mut GuestCall<'_, '_>) -> Done {
    let info = call.at.vp.guest.with(|guest| {
        let info = guest.ve_info;
        guest.ve_info.valid = false;
        info
    });
    let shown = if info.valid { info } else { VeInfo::default() };
    call.r.rcx = shown.reason.into();
    call.r.rdx = shown.qual;
    call.r.r8 = shown.gla;
    call.r.r9 = shown.gpa;
    call.r.r10 = u64::from(shown.instruction_length) | u64::from(shown.instruction_info) << 32;
    if info.valid {
        Ok(())
    } else {
        Err(TdxStatus::NO_VALID_VE_INFO.into())
    }
}
