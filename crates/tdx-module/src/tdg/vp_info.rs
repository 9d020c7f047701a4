//! `TDG.VP.INFO` (leaf 1): tells the guest about its TD.
//!
//! Out: RCX = GPA width, RDX = ATTRIBUTES, R8 = number of vCPUs in 31:0 and their maximum in 63:32,
//! R9 = index of this vCPU, R10 bit 0 = TDG.SYS.RD exists, R11 = 0.

use crate::tdg::{Done, GuestCall};

const SYS_RD_AVAILABLE: u64 = 1;

pub(super) fn run(call: &mut GuestCall<'_, '_>) -> Done {
    let td = call.at.td;
    let max_vcpus = u64::from(td.max_vcpus.load());
    call.r.rcx = if td.gpaw_52.load() { 52 } else { 48 };
    call.r.rdx = td.attributes.load();
    call.r.r8 = u64::from(td.num_vcpus.load()) | max_vcpus << 32;
    call.r.r9 = call.at.vp.index.load().into();
    call.r.r10 = SYS_RD_AVAILABLE;
    call.r.r11 = 0;
    Ok(())
}
