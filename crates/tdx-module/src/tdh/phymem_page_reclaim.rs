//! `TDH.PHYMEM.PAGE.RECLAIM` (leaf 28): takes a page back from a TD that is torn down.
//!
//! RCX = page, held alone. Out: RCX type, RDX owner, R8 size; R9 to R11 = 0. The TDR
//! goes last.

use seamlock_sync::Mode;
use seamlock_tdx_abi::lifecycle::LifecycleState;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::pamt::PageType;
use seamlock_tdx_abi::status::TdxStatus;

use crate::call::{Call, Done, invalid};
use crate::pamt::PageSize;

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let m = call.m;
    let pa = call.r.rcx;
    (call.r.rcx, call.r.rdx, call.r.r8) = (0, 0, 0);
    (call.r.r9, call.r.r10, call.r.r11) = (0, 0, 0);
    let page = m.hold_any_page(pa, 4096, PageSize::K4, Mode::Exclusive, OperandId::RCX)?;
    let entry = page.entry();
    let page_type = entry.page_type();
    if page_type == PageType::NDA || page_type == PageType::RSVD {
        return Err(TdxStatus::PAGE_METADATA_INCORRECT.with(OperandId::RCX));
    }
    call.r.rcx = u64::from(page_type.0);
    call.r.rdx = entry.owner().0;
    call.r.r8 = page.size() as u64;
    if pa & (page.size().bytes() - 1) != 0 {
        return Err(invalid(OperandId::RCX));
    }
    if page_type == PageType::TDR {
        let td = page.page().td().ok_or(TdxStatus::PAGE_METADATA_INCORRECT)?;
        if td.lifecycle() != LifecycleState::TEARDOWN {
            return Err(TdxStatus::LIFECYCLE_STATE_INCORRECT);
        }
        if td.chldcnt.load() != 0 {
            return Err(TdxStatus::TD_ASSOCIATED_PAGES_EXIST);
        }
    } else {
        let owner = m.hold_owner(entry.owner(), Mode::Shared)?;
        if owner.td.lifecycle() != LifecycleState::TEARDOWN {
            return Err(TdxStatus::LIFECYCLE_STATE_INCORRECT);
        }
        owner.td.chldcnt.fetch_sub(page.size().bytes() >> 12);
    }
    entry.set_type(PageType::NDA);
    Ok(())
}
