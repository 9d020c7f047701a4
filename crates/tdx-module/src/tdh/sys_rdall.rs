//! `TDH.SYS.RDALL` (leaf 37): reads as much of the module's metadata as fits a page.
//!
//! RDX = page for the list, R8 = id of the first field, or null. Out: R8 = id of the next field,
//! null when all are read. Takes no lock.

use seamlock_tdx_abi::addr::PAGE_SIZE;
use seamlock_tdx_abi::field::FieldId;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::status::TdxStatus;

use crate::call::{Call, Done};
use crate::metadata::{Accessor, Scope, list_sys};

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let (m, operands) = (call.m, *call.r);
    call.r.r8 = FieldId::NULL.0;
    if !m.sys.lps[call.lp as usize].initialized.load() {
        return Err(TdxStatus::SYS_LP_INIT_NOT_DONE);
    }
    let page = m.check_shared_hpa(operands.rdx, PAGE_SIZE, OperandId::RDX)?;
    let first = Scope::Sys.id(operands.r8);
    let host = Accessor::Host { debug: false };
    let (list, next) = list_sys(m, first, host, PAGE_SIZE as usize)?;
    // What lies in no memory is lost, as every write to a hole is.
    let _ = m.memory.write(page, &list);
    call.r.r8 = next.0;
    if next == FieldId::NULL {
        Ok(())
    } else {
        Err(TdxStatus::METADATA_LIST_OVERFLOW)
    }
}
