//! `TDH.MEM.PAGE.AUG` (leaf 6): gives a TD a page that the guest has to accept.
//!
//! RCX = GPA and level (4 KiB or 2 MiB), RDX = TDR, R8 = new page, whose content stays as it is until
//! the guest accepts it.

use seamlock_sync::Mode;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::pamt::PageType;
use seamlock_tdx_abi::sept::SeptState;
use seamlock_tdx_abi::status::TdxStatus;

use crate::call::{Call, Done};
use crate::pamt::PageSize;
use crate::sept::{Named, Target, leaf_entry};

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let (m, operands) = (call.m, *call.r);
    (call.r.rcx, call.r.rdx) = (0, 0);
    let mut target = Target::hold(call, Named::of(&operands), 0..=1, Mode::Shared)?;
    target.check_state(call)?;
    let size = PageSize::of_level(target.level);
    let (alone, free) = (Mode::Exclusive, PageType::NDA);
    let page = m.hold_page_of(operands.r8, size, alone, free, OperandId::R8)?;
    if size == PageSize::M2 && !page.chain().is_free_2m() {
        return Err(TdxStatus::PAGE_METADATA_INCORRECT.with(OperandId::R8));
    }
    target.store(leaf_entry(page.pa(), SeptState::PENDING));
    target.td().chldcnt.fetch_add(size.pages());
    page.entry().assign(PageType::REG, target.td().tdr);
    Ok(())
}
