//! `TDG.MEM.PAGE.ATTR.WR` (leaf 24): changes what L2 VMs may do with a page.
//!
//! RCX = private GPA and level 0 to 2; RDX = attributes; R8 = mask of those to change, and in bit
//! 15 of each VM whether to flush its translations. Attributes of the TD itself can't be changed.
//! The entry is held alone. When the page is mapped at another level the TD exits, so that the host
//! can demote it.

use seamlock_tdx_abi::addr::Gpa;
use seamlock_tdx_abi::guest_leaf::GuestLeaf;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::sept::{SeptEntry, SeptState};
use seamlock_tdx_abi::status::TdxStatus;

use crate::call::invalid;
use crate::guest::qualification::WRITE;
use crate::locks::EntryGuard;
use crate::operand::{check_mapping, check_private_gpa};
use crate::sept::{Ordered, Walk, is_aliased, l2, with_alias};
use crate::tables::{SeptTrait, guest_sept_state_allows, sept_is};
use crate::td_exit::AsyncExit;
use crate::tdg::attributes::{VALID, is_legal, is_present, leaf, of_vm, replaced, with_vm};
use crate::tdg::mem_page_attr_rd::PENDING;
use crate::tdg::violation::{EEQ_ATTR_WR, EEQ_GPA_DETAILS, sept_violation};
use crate::tdg::{Done, GuestCall, Stop, busy};

/// VM_CTLS of an L2 VM: a missing L2 table is the host's to add.
const EPT_VIOLATION_ON_L2_SEPT_WALK_FAILURE: u64 = 1;

/// An L2 entry to be written.
struct Change<'m> {
    vm: u8,
    walk: Walk<'m>,
    attributes: u16,
}

pub(super) fn run(call: &mut GuestCall<'_, '_>) -> Done {
    let (mapping, new, mask) = (call.r.rcx, call.r.rdx, call.r.r8);
    (call.r.rcx, call.r.rdx) = (0, 0);
    let (at, td) = (call.at, call.at.td);
    check_attributes(td.l2_vms(), new, mask)?;
    let (gpa, level) = check_mapping(mapping, 0..=2)?;
    check_private_gpa(td, gpa, OperandId::RCX)?;
    let violation =
        |found: Option<u8>, entry| sept_violation(gpa, level, found, entry, EEQ_ATTR_WR);
    let Some(walk) = at.m.walk(td, gpa, level, Ordered::No) else {
        return Err(violation(None, SeptEntry::FREE));
    };
    if walk.level != level {
        return Err(violation(Some(walk.level), walk.entry));
    }
    let guard =
        EntryGuard::try_guest(walk.slot, walk.name).map_err(|why| busy(why, OperandId::RCX))?;
    let entry = walk.reload();
    if !entry.contains(SeptEntry::LEAF) && entry.state() != SeptState::FREE {
        let status = TdxStatus::PAGE_SIZE_MISMATCH.with_details(level.into());
        return Err(status.into());
    }
    if !guest_sept_state_allows(GuestLeaf::MEM_PAGE_ATTR_WR, entry.state()) {
        drop(guard);
        return Err(violation(Some(level), entry));
    }
    let (changes, result) = plan(call, gpa, level, entry, (new, mask))?;
    let result = commit(&walk, entry, &changes, result);
    let pending = sept_is(entry.state(), SeptTrait::Pending);
    call.r.rcx = mapping | if pending { PENDING } else { 0 };
    call.r.rdx = result;
    Ok(())
}

/// The TD itself (VM 0) and VMs that do not exist have no attributes.
fn check_attributes(l2_vms: u8, new: u64, mask: u64) -> Result<(), TdxStatus> {
    for vm in 0..=l2::MAX_L2_VMS {
        let (new, mask) = (of_vm(new, vm), of_vm(mask, vm));
        let exists = vm != 0 && vm <= l2_vms;
        if !exists && new != 0 {
            return Err(invalid(OperandId::RDX));
        }
        if !exists && mask != 0 {
            return Err(invalid(OperandId::R8));
        }
        if new != 0 && new & VALID == 0 {
            return Err(invalid(OperandId::RDX));
        }
    }
    Ok(())
}

/// What to write, and the attributes that result. Nothing is written when a combination is illegal;
/// RDX then has the present attributes of that VM.
fn plan<'m>(
    call: &mut GuestCall<'m, '_>,
    gpa: Gpa,
    level: u8,
    entry: SeptEntry,
    (new, mask): (u64, u64),
) -> Result<(Vec<Change<'m>>, u64), Stop> {
    let at = call.at;
    let blocked_for_writing = sept_is(entry.state(), SeptTrait::BlockedForWriting);
    let (mut changes, mut result, mut legal) = (Vec::new(), new, true);
    for vm in 1..=at.td.l2_vms() {
        let mask = of_vm(mask, vm) | VALID;
        let asked = of_vm(new, vm) & mask;
        let aliased = is_aliased(entry, vm);
        if asked & VALID == 0 || (!aliased && !is_present(asked)) {
            continue;
        }
        let walk = at.m.l2_walk(at.td, vm, gpa, level);
        let there = walk.filter(|walk| walk.level == level);
        let current = match there {
            Some(walk) if aliased => l2::attributes(walk.entry, blocked_for_writing),
            _ => 0,
        };
        let attributes = current & !mask | asked;
        if is_present(attributes) && !is_legal(attributes) {
            legal = false;
            result = with_vm(result, vm, current);
            continue;
        }
        result = with_vm(result, vm, attributes);
        match there {
            Some(walk) => changes.push(Change {
                vm,
                walk,
                attributes,
            }),
            None => return Err(l2_walk_failed(call, gpa, vm, walk)),
        }
    }
    if legal {
        return Ok((changes, result));
    }
    call.r.rdx = result;
    Err(TdxStatus::PAGE_ATTR_INVALID.into())
}

/// A table of the L2 tree is missing: the host's business, or the guest's.
fn l2_walk_failed(call: &GuestCall<'_, '_>, gpa: Gpa, vm: u8, walk: Option<Walk<'_>>) -> Stop {
    let td = call.at.td;
    let (level, entry) = walk.map_or((td.top_level(), l2::FREE), |w| (w.level, w.entry));
    let ctls = td.config.with(|config| config.vm_ctls[usize::from(vm)]);
    if ctls & EPT_VIOLATION_ON_L2_SEPT_WALK_FAILURE == 0 {
        return l2::status(TdxStatus::L2_SEPT_WALK_FAILED, vm, level).into();
    }
    let rights = entry.intersection(SeptEntry::RWX).bits();
    let user = u64::from(entry.contains(SeptEntry::XU)) << 6;
    let info = u64::from(level) << 3 | u64::from(vm) << 20;
    let qual = WRITE | rights << 3 | user;
    Stop::Exit(AsyncExit::ept_violation(
        gpa,
        qual,
        EEQ_GPA_DETAILS | info << 32,
    ))
}

/// Writes the L2 entries, and into the L1 entry which of them exist. An entry without any access
/// goes.
fn commit(walk: &Walk<'_>, entry: SeptEntry, changes: &[Change<'_>], mut result: u64) -> u64 {
    let pending = sept_is(entry.state(), SeptTrait::Pending);
    let mut l1 = entry;
    for change in changes {
        let Change { vm, attributes, .. } = *change;
        let aliased = is_aliased(entry, vm);
        let l2_entry = if !is_present(attributes) {
            result = with_vm(result, vm, VALID);
            l1 -= with_alias(SeptEntry::empty(), vm);
            l2::FREE
        } else if aliased {
            replaced(change.walk.entry, attributes)
        } else {
            l1 = with_alias(l1, vm);
            leaf(entry.hpa(), attributes, pending)
        };
        change.walk.store_watched(l2_entry);
    }
    if l1 != entry {
        walk.store_watched(l1);
    }
    result
}
