//! `TDH.VP.RD` (leaf 26): reads one element of a vCPU's metadata, and associates the vCPU with this
//! LP.
//!
//! RCX = TDVPR, shared; RDX = field id. Out: R8 = value; version 1: RDX = id of the next element.
//! The owner TDR is held shared.

use seamlock_sync::Mode;
use seamlock_tdx_abi::field::FieldId;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::status::TdxStatus;

use crate::call::{Call, Done, invalid};
use crate::metadata::{Accessor, VpAccess, check_single, is_null, next, read_vp};
use crate::operand::{check_and_associate, check_tdvps_pages, hold_op_state};

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
    let (vp, tdvpr) = m.hold_tdvpr(rcx, Mode::Shared, OperandId::RCX)?;
    let owner = m.hold_owner(tdvpr.entry().owner(), Mode::Shared)?;
    let td = owner.td;
    let _op_state = hold_op_state(td, Leaf::VP_RD)?;
    check_tdvps_pages(td, vp)?;
    check_and_associate(td, vp, call.lp, true)?;
    let host = Accessor::Host {
        debug: td.is_debug(),
    };
    let access = VpAccess {
        m,
        td,
        vp,
        accessor: host,
    };
    let scope = access.scope();
    let id = scope.id(raw);
    if versioned && is_null(id) {
        call.r.rdx = next(scope, id, host).0;
        return Err(TdxStatus::METADATA_FIRST_FIELD_ID_IN_CONTEXT);
    }
    check_single(id)?;
    call.r.r8 = read_vp(&access, id)?;
    if versioned {
        call.r.rdx = next(scope, id, host).0;
    }
    Ok(())
}
