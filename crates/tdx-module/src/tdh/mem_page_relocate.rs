//! `TDH.MEM.PAGE.RELOCATE` (leaf 5): moves a 4 KiB page of a TD to another place in memory.
//!
//! RCX = GPA and level 0, RDX = TDR, R8 = new page. Out: RCX = the old page. In a TD that runs, the page
//! must be blocked and its block tracked; it is not blocked afterwards.

use seamlock_sync::Mode;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::pamt::PageType;

use crate::call::{Call, Done, invalid};
use crate::pamt::PageSize;
use crate::sept::{Named, Target, l2, leaf_to_hpa, unblocked, with_hpa};
use crate::tables::{SeptTrait, sept_is};

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let (m, operands) = (call.m, *call.r);
    (call.r.rcx, call.r.rdx) = (0, 0);
    let mut target = Target::hold(call, Named::of(&operands), 0..=0, Mode::Shared)?;
    target.check_state(call)?;
    let (td, entry) = (target.td(), target.entry.value());
    let from = leaf_to_hpa(entry, target.gpa, target.level);
    if from.0 == operands.r8 {
        return Err(invalid(OperandId::R8));
    }
    let old = m.hold_implicit(from, PageSize::K4)?;
    target.check_tracked(call, old.entry)?;
    let (alone, free) = (Mode::Exclusive, PageType::NDA);
    let new = m.hold_page(operands.r8, alone, free, OperandId::R8)?;
    let pending = sept_is(entry.state(), SeptTrait::Pending);
    if !pending {
        m.memory.copy_page(from, new.pa());
    }
    old.entry.set_type(PageType::NDA);
    new.entry().assign(PageType::REG, td.tdr);
    // L2 entries go first: a VM exit that meets one blocked finds the L1 entry blocked, too.
    for (_, walk) in m.l2_entries(td, entry, target.gpa, target.level) {
        let moved = with_hpa(walk.entry, new.pa());
        walk.store_watched(if pending { moved } else { l2::unblocked(moved) });
    }
    target.store(unblocked(with_hpa(entry, new.pa())));
    call.r.rcx = from.0;
    Ok(())
}
