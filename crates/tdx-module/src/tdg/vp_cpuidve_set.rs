//! `TDG.VP.CPUIDVE.SET` (leaf 5): makes every CPUID of this vCPU raise #VE.
//!
//! RCX bit 0 = in supervisor mode, bit 1 = in user mode.

use seamlock_tdx_abi::operand::OperandId;

use crate::call::invalid;
use crate::tdg::{Done, GuestCall};

const SUPERVISOR: u64 = 1;
const USER: u64 = 2;

pub(super) fn run(call: &mut GuestCall<'_, '_>) -> Done {
    let modes = call.r.rcx;
    if modes & !(SUPERVISOR | USER) != 0 {
        return Err(invalid(OperandId::RCX).into());
    }
    call.at.vp.guest.with(|guest| {
        guest.cpuid_supervisor_ve = modes & SUPERVISOR != 0;
        guest.cpuid_user_ve = modes & USER != 0;
    });
    Ok(())
}
