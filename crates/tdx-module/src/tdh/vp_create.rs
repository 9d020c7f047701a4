//! `TDH.VP.CREATE` (leaf 10): makes a page the TDVPR of a new vCPU.
//!
//! RCX = new page, held alone; RDX = TDR, shared. Does not count against MAX_VCPUS: VP.INIT does.

use seamlock_sync::Mode;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::pamt::PageType;

use crate::call::{Call, Done};
use crate::operand::hold_op_state;

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let m = call.m;
    let tdr = m.hold_tdr(call.r.rdx, Mode::Shared, OperandId::RDX)?;
    let td = tdr.td;
    let _op_state = hold_op_state(td, Leaf::VP_CREATE)?;
    let page = m.hold_page(call.r.rcx, Mode::Exclusive, PageType::NDA, OperandId::RCX)?;
    m.memory.fill_page(page.pa(), 0);
    page.page().new_vp(page.pa()).create();
    td.chldcnt.fetch_add(1);
    page.entry().assign(PageType::TDVPR, td.tdr);
    Ok(())
}
