//! `TDH.SYS.TDMR.INIT` (leaf 36): initialises the next part of a TDMR's PAMT.
//!
//! RCX = base of the TDMR. Out: RDX = address up to which whole gigabytes are ready for use. Holds
//! the TDMR's mutex. One call does 4 MiB, as Intel's module does, so a gigabyte takes 256 calls.

use seamlock_tdx_abi::addr::{Hpa, PAGE_SIZE, PAGE_SIZE_1G};
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::status::TdxStatus;

use crate::call::{Call, Done, invalid};
use crate::locks::{MutexWordGuard, TDMR};

/// Bytes of a TDMR whose PAMT one call initialises: 1024 entries of 4 KiB pages.
const STEP: u64 = 1024 * PAGE_SIZE;

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let m = call.m;
    call.r.rdx = 0;
    let base = call.r.rcx;
    if base & (PAGE_SIZE_1G - 1) != 0 || !m.platform.is_plain_address(base) {
        return Err(invalid(OperandId::RCX));
    }
    let tdmr = m.sys.tdmr(Hpa(base)).filter(|t| t.range.base == base);
    let tdmr = tdmr.ok_or(invalid(OperandId::RCX))?;
    let _tdmr = MutexWordGuard::try_take(&tdmr.lock, TDMR.at(base))
        .ok_or(TdxStatus::OPERAND_BUSY.with(OperandId::RCX))?;
    let done = tdmr.initialized.load();
    if done >= tdmr.range.end() {
        return Err(TdxStatus::TDMR_ALREADY_INITIALIZED);
    }
    tdmr.initialized.store(done + STEP);
    call.r.rdx = (done + STEP) & !(PAGE_SIZE_1G - 1);
    Ok(())
}
