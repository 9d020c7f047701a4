//! `TDH.MNG.WR` (leaf 13): writes one element of a TD's metadata.
//!
//! RCX = TDR, shared; RDX = field id, R8 = value, R9 = bits to write. Out: R8 = what was there.

use seamlock_sync::Mode;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::operand::OperandId;

use crate::call::{Call, Done};
use crate::metadata::{Accessor, Scope, check_single, write_td};
use crate::operand::hold_op_state;

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let (m, operands) = (call.m, *call.r);
    call.r.r8 = 0;
    let tdr = m.hold_tdr(operands.rcx, Mode::Shared, OperandId::RCX)?;
    let td = tdr.td;
    let _op_state = hold_op_state(td, Leaf::MNG_WR)?;
    let scope = Scope::Td {
        l2_vms: td.num_l2_vms.load(),
    };
    let host = Accessor::Host {
        debug: td.is_debug(),
    };
    let id = scope.id(operands.rdx);
    check_single(id)?;
    call.r.r8 = write_td(m, td, id, host, operands.r8, operands.r9)?;
    Ok(())
}
