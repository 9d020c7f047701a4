//! `TDG.MR.REPORT` (leaf 4): makes a TDREPORT.
//!
//! RCX = GPA of 1024 bytes for the report, aligned to its size; RDX = GPA of 64 bytes of data to go
//! into it, aligned to its size; R8 = subtype, 0. Both may be shared. The RTMR lock is held shared
//! while TDINFO is read. Interruptible after TDINFO was hashed: the hash is kept for the next
//! attempt.

use seamlock_sync::Mode;
use seamlock_tdx_abi::addr::Gpa;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::report::{REPORT_DATA_ALIGN, TD_REPORT_ALIGN};
use zerocopy::IntoBytes;

use crate::call::invalid;
use crate::guest::Reach;
use crate::locks::{HpGuard, RTMR};
use crate::report::{make_report, tee_info_hash};
use crate::tdg::{Done, GuestCall, Stop, busy};

pub(super) fn run(call: &mut GuestCall<'_, '_>) -> Done {
    let (report_gpa, data_gpa) = (call.r.rcx, call.r.rdx);
    if report_gpa & (TD_REPORT_ALIGN - 1) != 0 {
        return Err(invalid(OperandId::RCX).into());
    }
    if data_gpa & (REPORT_DATA_ALIGN - 1) != 0 {
        return Err(invalid(OperandId::RDX).into());
    }
    let at = call.at;
    let data_pa = at.translate(Gpa(data_gpa), Reach::Read, OperandId::RDX)?;
    if call.r.r8 != 0 {
        return Err(invalid(OperandId::R8).into());
    }
    let mut data = [0; 64];
    at.read(data_pa, &mut data);
    let td = at.td;
    let rtmr = HpGuard::try_guest(&td.rtmr_lock, Mode::Shared, RTMR.at(td.tdr.0))
        .map_err(|why| busy(why, OperandId::RTMR))?;
    let (info, hash, fresh) = tee_info_hash(td);
    drop(rtmr);
    if fresh && at.m.platform.events.interrupt_pending(at.lp) {
        return Err(Stop::Interrupted);
    }
    let report = make_report(info, hash, data);
    let report_pa = at.translate(Gpa(report_gpa), Reach::Write, OperandId::RCX)?;
    at.write(report_pa, report.as_bytes());
    Ok(())
}
