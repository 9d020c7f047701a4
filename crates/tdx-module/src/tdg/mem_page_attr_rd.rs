//! `TDG.MEM.PAGE.ATTR.RD` (leaf 23): reads how a page is mapped, for the TD and for its L2 VMs.
//!
//! RCX = private GPA. Out: RCX = GPA and level of the mapping, bit 62 pending; RDX = attributes.
//! The entry is held alone.

use seamlock_tdx_abi::addr::{Gpa, PAGE_SIZE};
use seamlock_tdx_abi::guest_leaf::GuestLeaf;
use seamlock_tdx_abi::operand::OperandId;

use crate::locks::EntryGuard;
use crate::operand::check_private_gpa;
use crate::sept::{Ordered, l2};
use crate::tables::{SeptTrait, guest_sept_state_allows, sept_is};
use crate::td_exit::AsyncExit;
use crate::tdg::attributes::with_vm;
use crate::tdg::{Done, GuestCall, Stop, busy};

/// RCX out: the page is pending.
pub(super) const PENDING: u64 = 1 << 62;

pub(super) fn run(call: &mut GuestCall<'_, '_>) -> Done {
    let gpa = Gpa(call.r.rcx);
    (call.r.rcx, call.r.rdx) = (0, 0);
    let (at, td) = (call.at, call.at.td);
    check_private_gpa(td, gpa, OperandId::RCX)?;
    let exit = Stop::Exit(AsyncExit::ept_violation(gpa, 0, 0));
    let walk = at.m.walk(td, gpa, 0, Ordered::No).ok_or(exit)?;
    let _entry =
        EntryGuard::try_guest(walk.slot, walk.name).map_err(|why| busy(why, OperandId::RCX))?;
    let entry = walk.reload();
    if !guest_sept_state_allows(GuestLeaf::MEM_PAGE_ATTR_RD, entry.state()) {
        return Err(exit);
    }
    let bytes = PAGE_SIZE << (9 * u32::from(walk.level));
    let pending = sept_is(entry.state(), SeptTrait::Pending);
    let blocked_for_writing = sept_is(entry.state(), SeptTrait::BlockedForWriting);
    call.r.rcx = gpa.0 & !(bytes - 1) | u64::from(walk.level) | if pending { PENDING } else { 0 };
    for (vm, l2_walk) in at.m.l2_entries(td, entry, gpa, walk.level) {
        let attributes = l2::attributes(l2_walk.entry, blocked_for_writing);
        call.r.rdx = with_vm(call.r.rdx, vm, attributes);
    }
    Ok(())
}
