//! `TDH.PHYMEM.PAGE.WBINVD` (leaf 41): writes back and drops a page's cache lines.
//!
//! RCX = page, with the HKID whose lines are meant. The page must not be in use; it is held shared.

use seamlock_sync::Mode;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::pamt::PageType;

use crate::call::{Call, Done};

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let m = call.m;
    let page = call.r.rcx & !m.platform.hkid_mask();
    m.hold_page(page, Mode::Shared, PageType::NDA, OperandId::RCX)?;
    Ok(())
}
