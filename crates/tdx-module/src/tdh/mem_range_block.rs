//! `TDH.MEM.RANGE.BLOCK` (leaf 7): stops new translations of a page or of all that a table maps.
//!
//! RCX = GPA and level, RDX = TDR. Holds the secure-EPT tree alone. Translations that vCPUs have
//! already go with MEM.TRACK and the next TD exit of each; the epoch is noted in the page's metadata.

use seamlock_sync::Mode;
use seamlock_tdx_abi::sept::SeptEntry;
use seamlock_tdx_abi::status::TdxStatus;

use crate::call::{Call, Done};
use crate::pamt::PageSize;
use crate::sept::{Named, Target, blocked, l2};
use crate::tables::{SeptTrait, sept_is};

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let (m, operands) = (call.m, *call.r);
    (call.r.rcx, call.r.rdx) = (0, 0);
    let mut target = Target::hold(call, Named::of(&operands), 0..=4, Mode::Exclusive)?;
    let before = target.entry.value();
    if sept_is(before.state(), SeptTrait::Blocked) {
        return Err(target.fail(call, TdxStatus::GPA_RANGE_ALREADY_BLOCKED));
    }
    target.check_state(call)?;
    let td = target.td();
    target.store(blocked(before, target.level));
    // L2 entries go second: a VM exit that meets the L1 entry blocked is the host's to handle.
    let w_saved = sept_is(before.state(), SeptTrait::BlockedForWriting);
    for (_, walk) in m.l2_entries(td, before, target.gpa, target.level) {
        walk.store_watched(l2::blocked(walk.entry, w_saved));
    }
    let size = if before.contains(SeptEntry::LEAF) {
        PageSize::of_level(target.level)
    } else {
        PageSize::K4
    };
    if let Some(chain) = m.chain(before.hpa()) {
        chain.entry(size).set_bepoch(td.td_epoch.load());
    }
    Ok(())
}
