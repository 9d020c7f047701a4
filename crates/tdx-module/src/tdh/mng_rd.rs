//! `TDH.MNG.RD` (leaf 11): reads one element of a TD's metadata.
//!
//! RCX = TDR, shared; RDX = field id. Out: R8 = value; version 1: RDX = id of the next element.

use seamlock_sync::Mode;
use seamlock_tdx_abi::field::FieldId;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::status::TdxStatus;

use crate::call::{Call, Done, invalid};
use crate::metadata::{Accessor, Scope, check_single, is_null, next, read_td};
use crate::operand::hold_op_state;

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let (m, versioned) = (call.m, call.version > 0);
    let (rcx, raw) = (call.r.rcx, call.r.rdx);
    if versioned {
        call.r.rdx = FieldId::NULL.0;
    }
    call.r.r8 = 0;
    if call.version > 1 {
        return Err(invalid(OperandId::RAX));
    }
    let tdr = m.hold_tdr(rcx, Mode::Shared, OperandId::RCX)?;
    let td = tdr.td;
    let _op_state = hold_op_state(td, Leaf::MNG_RD)?;
    let scope = Scope::Td {
        l2_vms: td.num_l2_vms.load(),
    };
    let host = Accessor::Host {
        debug: td.is_debug(),
    };
    let id = scope.id(raw);
    if versioned && is_null(id) {
        call.r.rdx = next(scope, id, host).0;
        return Err(TdxStatus::METADATA_FIRST_FIELD_ID_IN_CONTEXT);
    }
    check_single(id)?;
    call.r.r8 = read_td(m, td, id, host)?;
    if versioned {
        call.r.rdx = next(scope, id, host).0;
    }
    Ok(())
}
