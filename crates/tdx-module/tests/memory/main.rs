//! The leaves that give a TD memory, measure it, and take it away.

#[path = "../bed/mod.rs"]
mod bed;

mod big_pages;
mod blocking;
mod building;
mod debugging;
mod huge_pages;
mod tables;
mod watched;

use bed::Bed;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::status::TdxStatus;

/// Page types, as PHYMEM.PAGE.RDMD reports them.
const NDA: u64 = 0;
const REG: u64 = 3;
const EPT: u64 = 8;

/// States of entries, as RDX reports them.
const FREE: u8 = 0;
const BLOCKED: u8 = 1;
const PENDING: u8 = 2;
const PENDING_BLOCKED: u8 = 3;
const MAPPED: u8 = 4;
const TABLE_BLOCKED: u8 = 129;
const TABLE: u8 = 132;

/// A status about the operand in RCX.
fn rcx(status: TdxStatus) -> TdxStatus {
    status.with(OperandId::RCX)
}

/// The answer of a call: status, RCX and RDX.
fn answer(regs: Regs) -> (TdxStatus, u64, u64) {
    (regs.status(), regs.rcx, regs.rdx)
}

/// Every lock word is free, and every page in its place.
fn settled(bed: &Bed) {
    assert_eq!(bed.m.audit().err(), None);
}
