//! `TDH.MNG.CREATE` (leaf 9): makes a page the TDR of a new TD and gives the TD an HKID.
//!
//! RCX = TDR page, RDX = HKID in 15:0. Holds the page and the key ownership table alone.

use seamlock_sync::Mode;
use seamlock_tdx_abi::addr::{Hkid, Hpa};
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::pamt::PageType;
use seamlock_tdx_abi::status::TdxStatus;

use crate::call::{Call, Done, invalid};
use crate::locks::{KOT, SharexGuard};
use crate::sys::KotState;

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let m = call.m;
    let hkid = Hkid(call.r.rdx as u16);
    if call.r.rdx >> 16 != 0 || !m.platform.is_private(hkid) {
        return Err(invalid(OperandId::RDX));
    }
    let page = m.hold_page(call.r.rcx, Mode::Exclusive, PageType::NDA, OperandId::RCX)?;
    let _kot = SharexGuard::try_take(&m.sys.kot_lock, Mode::Exclusive, KOT.only())
        .ok_or(TdxStatus::OPERAND_BUSY.with(OperandId::KOT))?;
    let entry = m.sys.kot(hkid);
    if entry.state.load() != KotState::Free {
        return Err(TdxStatus::HKID_NOT_FREE);
    }
    let uuid = m
        .platform
        .events
        .random(call.lp)
        .ok_or(TdxStatus::RND_NO_ENTROPY)?;
    m.memory.fill_page(page.pa(), 0);
    entry.state.store(KotState::Assigned);
    let td = page.page().new_td(page.pa());
    td.create(hkid);
    td.config.with(|config| config.uuid = uuid);
    page.entry().assign(PageType::TDR, Hpa(0));
    Ok(())
}
