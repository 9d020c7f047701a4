//! `TDG.MR.VERIFYREPORT` (leaf 22): tells whether a REPORTMACSTRUCT was made on this machine.
//!
//! RCX = private GPA of 256 bytes, aligned to their size. Here every seamlock is this machine: see
//! [`FAKE_MAC_KEY`](crate::report::FAKE_MAC_KEY).

use seamlock_tdx_abi::addr::Gpa;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::report::ReportMac;
use seamlock_tdx_abi::status::TdxStatus;
use zerocopy::{FromZeros, IntoBytes};

use crate::call::invalid;
use crate::guest::Reach;
use crate::report::{FAKE_CPU_SVN, is_authentic};
use crate::tdg::{Done, GuestCall};

pub(super) fn run(call: &mut GuestCall<'_, '_>) -> Done {
    let gpa = call.r.rcx;
    if gpa & (size_of::<ReportMac>() as u64 - 1) != 0 {
        return Err(invalid(OperandId::RCX).into());
    }
    let at = call.at;
    let pa = at.translate(Gpa(gpa), Reach::ReadPrivate, OperandId::RCX)?;
    let mut head = ReportMac::new_zeroed();
    at.read(pa, head.as_mut_bytes());
    if head.cpu_svn != FAKE_CPU_SVN {
        return Err(TdxStatus::INVALID_CPUSVN.into());
    }
    if !is_authentic(&head) {
        return Err(TdxStatus::INVALID_REPORTMACSTRUCT.into());
    }
    Ok(())
}
