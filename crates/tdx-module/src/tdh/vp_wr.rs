//! `TDH.VP.WR` (leaf 43): writes one element of a vCPU's metadata, and associates the vCPU with
//! this LP.
//!
//! RCX = TDVPR, shared; RDX = field id, R8 = value, R9 = bits to write. Out: R8 = what was there.
//! The owner TDR is held shared.

use seamlock_sync::Mode;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::operand::OperandId;

use crate::call::{Call, Done};
use crate::metadata::{Accessor, VpAccess, check_single, write_vp};
use crate::operand::{check_and_associate, check_tdvps_pages, hold_op_state};

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let (m, operands) = (call.m, *call.r);
    call.r.r8 = 0;
    let (vp, tdvpr) = m.hold_tdvpr(operands.rcx, Mode::Shared, OperandId::RCX)?;
    let owner = m.hold_owner(tdvpr.entry().owner(), Mode::Shared)?;
    let td = owner.td;
    let _op_state = hold_op_state(td, Leaf::VP_WR)?;
    check_tdvps_pages(td, vp)?;
    check_and_associate(td, vp, call.lp, false)?;
    let access = VpAccess {
        m,
        td,
        vp,
        accessor: Accessor::Host {
            debug: td.is_debug(),
        },
    };
    let id = access.scope().id(operands.rdx);
    check_single(id)?;
    call.r.r8 = write_vp(&access, id, operands.r8, operands.r9)?;
    Ok(())
}
