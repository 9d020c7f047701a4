//! `TDH.MEM.PAGE.REMOVE` (leaf 29): takes a page away from a TD.
//!
//! RCX = GPA and level (4 KiB to 1 GiB), RDX = TDR. Out: RCX = the page. In a TD that runs, the page
//! must be blocked and its block tracked.

use seamlock_sync::Mode;
use seamlock_tdx_abi::pamt::PageType;
use seamlock_tdx_abi::sept::SeptEntry;

use crate::call::{Call, Done};
use crate::pamt::PageSize;
use crate::sept::{Named, Target, l2, leaf_to_hpa, without_accept_counter};

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let (m, operands) = (call.m, *call.r);
    (call.r.rcx, call.r.rdx) = (0, 0);
    let mut target = Target::hold(call, Named::of(&operands), 0..=2, Mode::Shared)?;
    target.check_state(call)?;
    let (td, size) = (target.td(), PageSize::of_level(target.level));
    let entry = without_accept_counter(target.entry.value(), target.level);
    let pa = leaf_to_hpa(entry, target.gpa, target.level);
    let page = m.hold_implicit(pa, size)?;
    target.check_tracked(call, page.entry)?;
    for (_, walk) in m.l2_entries(td, entry, target.gpa, target.level) {
        walk.store_watched(l2::FREE);
    }
    target.store(SeptEntry::FREE);
    td.chldcnt.fetch_sub(size.pages());
    page.entry.set_type(PageType::NDA);
    call.r.rcx = pa.0;
    Ok(())
}
