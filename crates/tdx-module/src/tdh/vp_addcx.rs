//! `TDH.VP.ADDCX` (leaf 4): adds a page to the TDVPS of a vCPU.
//!
//! RCX = new page and RDX = TDVPR, both held alone; the owner TDR shared.

use seamlock_sync::Mode;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::lifecycle::VcpuState;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::pamt::PageType;
use seamlock_tdx_abi::status::TdxStatus;

use crate::call::{Call, Done};
use crate::operand::hold_op_state;
use crate::vp::MAX_TDVPS_PAGES;

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let m = call.m;
    let (vp, tdvpr) = m.hold_tdvpr(call.r.rdx, Mode::Exclusive, OperandId::RDX)?;
    let owner = m.hold_owner(tdvpr.entry().owner(), Mode::Shared)?;
    let td = owner.td;
    let _op_state = hold_op_state(td, Leaf::VP_ADDCX)?;
    if vp.state() != VcpuState::UNINITIALIZED {
        return Err(TdxStatus::VCPU_STATE_INCORRECT);
    }
    let pages = vp.pages.load();
    if pages >= MAX_TDVPS_PAGES {
        return Err(TdxStatus::TDCX_NUM_INCORRECT);
    }
    let page = m.hold_page(call.r.rcx, Mode::Exclusive, PageType::NDA, OperandId::RCX)?;
    m.memory.fill_page(page.pa(), 0);
    vp.set_tdvps(pages as usize, page.pa());
    vp.pages.store(pages + 1);
    td.chldcnt.fetch_add(1);
    page.entry().assign(PageType::TDCX, td.tdr);
    Ok(())
}
