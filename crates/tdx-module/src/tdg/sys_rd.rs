//! `TDG.SYS.RD` (leaf 11): reads one element of the module's metadata.
//!
//! RDX = field id. Out: RDX = id of the next element, R8 = value. Takes no lock.

use seamlock_tdx_abi::field::FieldId;
use seamlock_tdx_abi::status::TdxStatus;

use crate::metadata::{Accessor, Scope, check_single, is_null, next, read_sys};
use crate::tdg::{Done, GuestCall};

pub(super) fn run(call: &mut GuestCall<'_, '_>) -> Done {
    let id = Scope::Sys.id(call.r.rdx);
    (call.r.rdx, call.r.r8) = (FieldId::NULL.0, 0);
    if is_null(id) {
        call.r.rdx = next(Scope::Sys, id, Accessor::Guest).0;
        return Err(TdxStatus::METADATA_FIRST_FIELD_ID_IN_CONTEXT.into());
    }
    check_single(id)?;
    call.r.r8 = read_sys(call.at.m, id, Accessor::Guest)?;
    call.r.rdx = next(Scope::Sys, id, Accessor::Guest).0;
    Ok(())
}
