//! `TDG.SYS.RDALL` (leaf 12): reads as much of the module's metadata as fits a page.
//!
//! RDX = private GPA of a page for the list, R8 = id of the first field, or null. Out: R8 = id of
//! the next field, null when all are read. Takes no lock.

use seamlock_tdx_abi::addr::{Gpa, PAGE_SIZE};
use seamlock_tdx_abi::field::FieldId;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::status::TdxStatus;

use crate::call::invalid;
use crate::guest::Reach;
use crate::metadata::{Accessor, Scope, list_sys};
use crate::tdg::{Done, GuestCall};

pub(super) fn run(call: &mut GuestCall<'_, '_>) -> Done {
    let (gpa, first) = (call.r.rdx, Scope::Sys.id(call.r.r8));
    call.r.r8 = FieldId::NULL.0;
    if gpa & (PAGE_SIZE - 1) != 0 {
        return Err(invalid(OperandId::RDX).into());
    }
    let at = call.at;
    let page = at.translate(Gpa(gpa), Reach::WritePrivate, OperandId::RDX)?;
    let (list, next) = list_sys(at.m, first, Accessor::Guest, PAGE_SIZE as usize)?;
    at.write(page, &list);
    call.r.r8 = next.0;
    if next == FieldId::NULL {
        Ok(())
    } else {
        Err(TdxStatus::METADATA_LIST_OVERFLOW.into())
    }
}
