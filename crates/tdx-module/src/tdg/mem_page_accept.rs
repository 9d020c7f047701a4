//! `TDG.MEM.PAGE.ACCEPT` (leaf 6): accepts a pending page and fills it with zeros.
//!
//! RCX = GPA (51:12) and level 0 or 1. The secure EPT is walked without the tree lock; the entry is
//! held alone. 2 MiB are filled 4 KiB at a time, counted in the entry, and an interrupt may cut in
//! between.

use seamlock_sync::EntryLock;
use seamlock_tdx_abi::addr::{Hpa, PAGE_SIZE};
use seamlock_tdx_abi::guest_leaf::GuestLeaf;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::sept::{SeptEntry, SeptState};
use seamlock_tdx_abi::status::TdxStatus;

use crate::locks::EntryGuard;
use crate::operand::{check_mapping, check_private_gpa};
use crate::sept::{Ordered, Walk, l2, with_hpa};
use crate::tables::{GUEST_ACCESSIBLE, guest_sept_state_allows};
use crate::tdg::violation::{EEQ_ACCEPT, sept_violation};
use crate::tdg::{Done, GuestCall, Stop, busy};

const CHUNKS_IN_2M: u64 = 512;

pub(super) fn run(call: &mut GuestCall<'_, '_>) -> Done {
    let at = call.at;
    let (gpa, level) = check_mapping(call.r.rcx, 0..=1)?;
    check_private_gpa(at.td, gpa, OperandId::RCX)?;
    let violation = |walk: Option<Walk<'_>>, entry| {
        sept_violation(gpa, level, walk.map(|walk| walk.level), entry, EEQ_ACCEPT)
    };
    let Some(walk) = at.m.walk(at.td, gpa, level, Ordered::No) else {
        return Err(violation(None, SeptEntry::FREE));
    };
    if walk.level != level {
        // The walk ended above: at a bigger page, or where there is no table.
        if GUEST_ACCESSIBLE.contains(&walk.entry.state()) {
            return Err(already_accepted(walk.level));
        }
        return Err(violation(Some(walk), walk.entry));
    }
    let guard =
        EntryGuard::try_guest(walk.slot, walk.name).map_err(|why| busy(why, OperandId::RCX))?;
    let entry = walk.reload();
    let state = entry.state();
    if state != SeptState::FREE && !entry.contains(SeptEntry::LEAF) {
        let status = TdxStatus::PAGE_SIZE_MISMATCH.with_details(level.into());
        return Err(status.into());
    }
    if GUEST_ACCESSIBLE.contains(&state) {
        return Err(already_accepted(level));
    }
    if !guest_sept_state_allows(GuestLeaf::MEM_PAGE_ACCEPT, state) {
        drop(guard);
        return Err(violation(Some(walk), entry));
    }
    let (entry, interrupted) = accept(call, level, entry);
    if !interrupted {
        for (_, l2_walk) in at.m.l2_entries(at.td, entry, gpa, level) {
            l2_walk.store_watched(l2::unblocked(l2_walk.entry));
        }
    }
    walk.store_watched(entry);
    drop(guard);
    if interrupted {
        Err(Stop::Interrupted)
    } else {
        Ok(())
    }
}

/// Fills the page, or some of it. The entry that results, and whether an interrupt cut in.
fn accept(call: &GuestCall<'_, '_>, level: u8, entry: SeptEntry) -> (SeptEntry, bool) {
    let m = call.at.m;
    let base = Hpa(entry.hpa().0 & !((PAGE_SIZE << (9 * level)) - 1));
    if level == 0 {
        m.memory.fill_page(base, 0);
        return (accepted(base, entry), false);
    }
    for chunk in entry.accept_counter().into()..CHUNKS_IN_2M {
        m.memory.fill_page(Hpa(base.0 + chunk * PAGE_SIZE), 0);
        let next = chunk + 1;
        if next < CHUNKS_IN_2M && m.platform.events.interrupt_pending(call.at.lp) {
            return (with_hpa(entry, Hpa(base.0 | next << 12)), true);
        }
    }
    (accepted(base, entry), false)
}

/// The entry of an accepted page: readable, writable, executable.
fn accepted(base: Hpa, entry: SeptEntry) -> SeptEntry {
    let state = if entry.state() == SeptState::PENDING {
        SeptState::MAPPED
    } else {
        SeptState::EXPORTED_DIRTY
    };
    let kept = with_hpa(entry, base).bits() & !SeptEntry::STATE_MASK;
    SeptEntry::from_bits_retain(kept | state.to_bits())
        | SeptEntry::RWX
        | SeptEntry::SUPPRESS_VE
        | SeptEntry::from_bits_retain(EntryLock::LOCK)
}

fn already_accepted(level: u8) -> Stop {
    TdxStatus::PAGE_ALREADY_ACCEPTED
        .with_details(level.into())
        .into()
}
