//! `TDH.SYS.RD` (leaf 34): reads one element of the module's metadata.
//!
//! RDX = field id. Out: RDX = id of the next element, R8 = value. Takes no lock.

use seamlock_tdx_abi::field::FieldId;
use seamlock_tdx_abi::status::TdxStatus;

use crate::call::{Call, Done};
use crate::metadata::{Accessor, Scope, check_single, is_null, next, read_sys};

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let m = call.m;
    let host = Accessor::Host { debug: false };
    let id = Scope::Sys.id(call.r.rdx);
    (call.r.rdx, call.r.r8) = (FieldId::NULL.0, 0);
    if !m.sys.lps[call.lp as usize].initialized.load() {
        return Err(TdxStatus::SYS_LP_INIT_NOT_DONE);
    }
    if is_null(id) {
        call.r.rdx = next(Scope::Sys, id, host).0;
        return Err(TdxStatus::METADATA_FIRST_FIELD_ID_IN_CONTEXT);
    }
    check_single(id)?;
    call.r.r8 = read_sys(m, id, host)?;
    call.r.rdx = next(Scope::Sys, id, host).0;
    Ok(())
}
