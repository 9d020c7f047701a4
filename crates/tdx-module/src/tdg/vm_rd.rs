//! `TDG.VM.RD` (leaf 7): reads one element of the TD's metadata.
//!
//! RCX = 0 (the TD itself), RDX = field id. Out: R8 = value; version 1: RDX = id of the next
//! element. Takes no lock.

use seamlock_tdx_abi::field::FieldId;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::status::TdxStatus;

use crate::call::invalid;
use crate::metadata::{Accessor, Scope, check_single, is_null, next, read_td};
use crate::tdg::{Done, GuestCall};

pub(super) fn run(call: &mut GuestCall<'_, '_>) -> Done {
    let versioned = call.version > 0;
    let raw = call.r.rdx;
    if versioned {
        call.r.rdx = FieldId::NULL.0;
    }
    call.r.r8 = 0;
    if call.version > 1 {
        return Err(invalid(OperandId::RAX).into());
    }
    if call.r.rcx != 0 {
        return Err(invalid(OperandId::RCX).into());
    }
    let (m, td) = (call.at.m, call.at.td);
    let scope = Scope::Td {
        l2_vms: td.num_l2_vms.load(),
    };
    let id = scope.id(raw);
    if versioned && is_null(id) {
        call.r.rdx = next(scope, id, Accessor::Guest).0;
        return Err(TdxStatus::METADATA_FIRST_FIELD_ID_IN_CONTEXT.into());
    }
    check_single(id)?;
    call.r.r8 = read_td(m, td, id, Accessor::Guest)?;
    if versioned {
        call.r.rdx = next(scope, id, Accessor::Guest).0;
    }
    Ok(())
}
