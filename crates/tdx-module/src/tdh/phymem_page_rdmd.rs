//! `TDH.PHYMEM.PAGE.RDMD` (leaf 24): reads a page's metadata.
//!
//! RCX = page, held shared. Out: RCX type, RDX owner, R8 size, R9 BEPOCH.

use seamlock_sync::Mode;
use seamlock_tdx_abi::addr::PAGE_SIZE;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::pamt::PageType;

use crate::call::{Call, Done};
use crate::pamt::PageSize;

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let m = call.m;
    let pa = call.r.rcx;
    (call.r.rcx, call.r.rdx, call.r.r8) = (0, 0, 0);
    (call.r.r9, call.r.r10, call.r.r11) = (0, 0, 0);
    let page = m.hold_any_page(pa, PAGE_SIZE, PageSize::K4, Mode::Shared, OperandId::RCX)?;
    let entry = page.entry();
    let page_type = entry.page_type();
    call.r.rcx = u64::from(page_type.0);
    // A page that was given back keeps its last owner.
    call.r.rdx = entry.owner().0;
    call.r.r8 = page.size() as u64;
    if page_type == PageType::REG || page_type == PageType::EPT {
        call.r.r9 = entry.bepoch();
    }
    Ok(())
}
