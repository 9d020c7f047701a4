//! `TDG.MR.RTMR.EXTEND` (leaf 2): extends a run-time measurement register.
//!
//! RCX = private GPA of 48 bytes, 64-byte aligned; RDX = index of the register. The registers' lock
//! is held alone. New value = SHA-384 of the old one followed by the bytes.

use openssl::sha::sha384;
use seamlock_sync::Mode;
use seamlock_tdx_abi::addr::Gpa;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::report::NUM_RTMRS;

use crate::call::invalid;
use crate::guest::Reach;
use crate::locks::{HpGuard, RTMR};
use crate::measure::Digest;
use crate::tdg::{Done, GuestCall, busy};

const ALIGN: u64 = 64;

pub(super) fn run(call: &mut GuestCall<'_, '_>) -> Done {
    let gpa = call.r.rcx;
    if gpa & (ALIGN - 1) != 0 {
        return Err(invalid(OperandId::RCX).into());
    }
    let pa = call
        .at
        .translate(Gpa(gpa), Reach::ReadPrivate, OperandId::RCX)?;
    let index = call.r.rdx as usize;
    if call.r.rdx >= NUM_RTMRS as u64 {
        return Err(invalid(OperandId::RDX).into());
    }
    let mut both = [0; 96];
    call.at.read(pa, &mut both[48..]);
    let td = call.at.td;
    let _rtmr = HpGuard::try_guest(&td.rtmr_lock, Mode::Exclusive, RTMR.at(td.tdr.0))
        .map_err(|why| busy(why, OperandId::RTMR))?;
    td.config.with(|config| {
        both[..48].copy_from_slice(&config.rtmr[index].0);
        config.rtmr[index] = Digest(sha384(&both));
        config.tee_info_hash = None;
    });
    Ok(())
}
