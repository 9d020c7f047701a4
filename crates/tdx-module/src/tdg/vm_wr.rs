//! `TDG.VM.WR` (leaf 8): writes one element of the TD's metadata.
//!
//! RCX = 0 (the TD itself), RDX = field id, R8 = value, R9 = bits to write. Out: R8 = what was
//! there. Takes no lock.

use seamlock_tdx_abi::operand::OperandId;

use crate::call::invalid;
use crate::metadata::{Accessor, Scope, check_single, write_td};
use crate::tdg::{Done, GuestCall};

pub(super) fn run(call: &mut GuestCall<'_, '_>) -> Done {
    let (value, mask) = (call.r.r8, call.r.r9);
    call.r.r8 = 0;
    if call.r.rcx != 0 {
        return Err(invalid(OperandId::RCX).into());
    }
    let (m, td) = (call.at.m, call.at.td);
    let scope = Scope::Td {
        l2_vms: td.num_l2_vms.load(),
    };
    let id = scope.id(call.r.rdx);
    check_single(id)?;
    call.r.r8 = write_td(m, td, id, Accessor::Guest, value, mask)?;
    Ok(())
}
