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
use crate::sept::{Ordered, leaf_entry};
use crate::tables::sept_state_allows;

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let (m, operands) = (call.m, *call.r);
    (call.r.rcx, call.r.rdx) = (0, 0);
    let tdr = m.hold_tdr(operands.rdx, Mode::Exclusive, OperandId::RDX)?;
    let td = tdr.td;
    check_td(td, Leaf::MEM_PAGE_ADD)?;
    let (gpa, level) = check_mapping(operands.rcx, 0..=0)?;
    check_private_gpa(td, gpa, OperandId::RCX)?;
    let walk_failed = TdxStatus::EPT_WALK_FAILED.with(OperandId::RCX);
    let walk = m.walk(td, gpa, level, Ordered::ByTdr).ok_or(walk_failed)?;
    if walk.level != level {
        walk.report(call.r);
        return Err(walk_failed);
    }
    if !sept_state_allows(Leaf::MEM_PAGE_ADD, walk.entry.state()) {
        walk.report(call.r);
        return Err(TdxStatus::EPT_ENTRY_STATE_INCORRECT.with(OperandId::RCX));
    }
    let source = m.check_shared_hpa(operands.r9, PAGE_SIZE, OperandId::R9)?;
    let page = m.hold_page(operands.r8, Mode::Exclusive, PageType::NDA, OperandId::R8)?;
    m.memory.copy_page(source, page.pa());
    walk.store(leaf_entry(page.pa(), SeptState::MAPPED));
    td.launch.with(|launch| launch.page_add(gpa));
    td.chldcnt.fetch_add(1);
    page.entry().assign(PageType::REG, td.tdr);
    Ok(())
}
