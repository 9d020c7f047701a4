//! `TDG.VP.RD` (leaf 9): reads one element of the vCPU's metadata.
//!
//! RCX = 0, RDX = field id. Out: RDX = id of the next element, R8 = value. Takes no lock.

use seamlock_tdx_abi::field::FieldId;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::status::TdxStatus;

use crate::call::invalid;
use crate::metadata::{check_single, is_null, next, read_vp};
use crate::tdg::{Done, GuestCall};

pub(super) fn run(call: &mut GuestCall<'_, '_>) -> Done {
    let raw = call.r.rdx;
    (call.r.rdx, call.r.r8) = (FieldId::NULL.0, 0);
    if call.r.rcx != 0 {
        return Err(invalid(OperandId::RCX).into());
    }
    let access = call.vp_access();
    let scope = access.scope();
    let id = scope.id(raw);
    if is_null(id) {
        call.r.rdx = next(scope, id, access.accessor).0;
        return Err(TdxStatus::METADATA_FIRST_FIELD_ID_IN_CONTEXT.into());
    }
    check_single(id)?;
    call.r.r8 = read_vp(&access, id)?;
    call.r.rdx = next(scope, id, access.accessor).0;
    Ok(())
}
