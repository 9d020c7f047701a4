//! `TDG.VP.WR` (leaf 10): writes one element of the vCPU's metadata.
//!
//! RCX = 0, RDX = field id, R8 = value, R9 = bits to write. Out: R8 = what was there. Takes no
//! lock.

use seamlock_tdx_abi::operand::OperandId;

use crate::call::invalid;
use crate::metadata::{check_single, write_vp};
use crate::tdg::{Done, GuestCall};

pub(super) fn run(call: &mut GuestCall<'_, '_>) -> Done {
    let (value, mask) = (call.r.r8, call.r.r9);
    call.r.r8 = 0;
    if call.r.rcx != 0 {
        return Err(invalid(OperandId::RCX).into());
    }
    let access = call.vp_access();
    let id = access.scope().id(call.r.rdx);
    check_single(id)?;
    call.r.r8 = write_vp(&access, id, value, mask)?;
    Ok(())
}
