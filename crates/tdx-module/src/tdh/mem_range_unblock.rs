//! `TDH.MEM.RANGE.UNBLOCK` (leaf 39): undoes MEM.RANGE.BLOCK.
//!
//! RCX = GPA and level, RDX = TDR. Holds the secure-EPT tree alone.

use seamlock_sync::Mode;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::sept::SeptEntry;
use seamlock_tdx_abi::status::TdxStatus;

use crate::call::{Call, Done};
use crate::pamt::PageSize;
use crate::sept::{Named, Target, l2, leaf_to_hpa, unblocked};
use crate::tables::{SeptTrait, sept_is};

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let (m, operands) = (call.m, *call.r);
    (call.r.rcx, call.r.rdx) = (0, 0);
    let mut target = Target::hold(call, Named::of(&operands), 0..=4, Mode::Exclusive)?;
    target.check_state(call)?;
    let (td, entry) = (target.td(), target.entry.value());
    let (pa, size) = if entry.contains(SeptEntry::LEAF) {
        let pa = leaf_to_hpa(entry, target.gpa, target.level);
        (pa, PageSize::of_level(target.level))
    } else {
        (entry.hpa(), PageSize::K4)
    };
    if target.tracking_required() {
        let bepoch = m.chain(pa).map_or(0, |chain| chain.entry(size).bepoch());
        if !td.is_tracked(bepoch) {
            return Err(TdxStatus::TLB_TRACKING_NOT_DONE.with(OperandId::RCX));
        }
    }
    // L2 entries go first: a VM exit that meets one blocked finds the L1 entry blocked, too. A page
    // that is not accepted has blocked L2 entries, whether it is blocked itself or not.
    if !sept_is(entry.state(), SeptTrait::Pending) {
        for (_, walk) in m.l2_entries(td, entry, target.gpa, target.level) {
            walk.store_watched(l2::unblocked(walk.entry));
        }
    }
    target.store(unblocked(entry));
    Ok(())
}
