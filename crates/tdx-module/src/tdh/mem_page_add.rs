//! `TDH.MEM.PAGE.ADD` (leaf 2): adds a page to a TD that is being built, with content, and measures
//! its address.
//!
//! RCX = GPA and level 0, RDX = TDR, R8 = new page, R9 = source page. Holds the TDR alone.

use seamlock_sync::Mode;
use seamlock_tdx_abi::addr::PAGE_SIZE;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::pamt::PageType;
use seamlock_tdx_abi::sept::SeptState;
use seamlock_tdx_abi::status::TdxStatus;

use crate::call::{Call, Done};
use crate::operand::{check_mapping, check_private_gpa, check_td};
use crate::sept::leaf_entry;
use crate::tables::sept_state_allows;

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let m = call.m;
    let (mapping, tdr) = (call.r.rcx, call.r.rdx);
    (call.r.rcx, call.r.rdx) = (0, 0);
    let tdr = m.hold_tdr(tdr, Mode::Exclusive, OperandId::RDX)?;
    let td = tdr.td;
    check_td(td, Leaf::MEM_PAGE_ADD)?;
    let (gpa, _) = check_mapping(mapping, 0..=0)?;
    check_private_gpa(td, gpa, OperandId::RCX)?;
    let walk_failed = TdxStatus::EPT_WALK_FAILED.with(OperandId::RCX);
    let slot = m.walk_alone(td, gpa).ok_or(walk_failed)?;
    if slot.level != 0 {
        slot.report(call.r);
        return Err(walk_failed);
    }
    if !sept_state_allows(Leaf::MEM_PAGE_ADD, slot.load().state()) {
        slot.report(call.r);
        return Err(TdxStatus::EPT_ENTRY_STATE_INCORRECT.with(OperandId::RCX));
    }
    let source = m.check_shared_hpa(call.r.r9, PAGE_SIZE, OperandId::R9)?;
    let page = m.hold_page(call.r.r8, Mode::Exclusive, PageType::NDA, OperandId::R8)?;
    m.memory.copy_page(source, page.pa());
    slot.store(leaf_entry(page.pa(), SeptState::MAPPED));
    td.launch.with(|launch| launch.page_add(gpa));
    // Nobody else counts now: who holds the TDR alone need not pay for an atomic sum.
    td.chldcnt.store(td.chldcnt.load() + 1);
    page.entry().assign(PageType::REG, td.tdr);
    Ok(())
}
