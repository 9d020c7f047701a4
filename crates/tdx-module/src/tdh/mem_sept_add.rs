//! `TDH.MEM.SEPT.ADD` (leaf 3): adds a table to the secure EPT.
//!
//! RCX = GPA and level of the parent entry, RDX = TDR with bit 0 "allow existing", R8 = new page.

use seamlock_sync::Mode;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::status::TdxStatus;

use crate::call::{Call, Done};

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let _ = (call, Mode::Shared, Leaf::MEM_SEPT_ADD, OperandId::RCX);
    Err(TdxStatus::OPERAND_INVALID)
}
