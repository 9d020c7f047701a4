//! The mirror's other half: what an entry that changes does to the secure EPT.
//!
//! # Locking
//! Adding: `mmu_lock` for reading; a busy lock word of the module makes the caller retry. Removing:
//! `mmu_lock` for writing; a busy word is tried once more after all vCPUs left the guest, and must be
//! free then.

use seamlock_sync::{Name, ReadGuard, WriteGuard};
use seamlock_tdx_abi::sept::SeptEntry;
use seamlock_tdx_abi::{Gfn, Hkid, Hpa, Leaf as Seam, OperandId, TdxStatus};
use seamlock_tdx_module::locks as module_locks;

use super::seamcall::{
    Extended, On, tdh_mem_page_add, tdh_mem_page_aug, tdh_mem_page_remove, tdh_mem_range_block,
    tdh_mem_sept_add, tdh_mem_track, tdh_phymem_page_wbinvd,
};
use super::state::TdState;
use crate::discipline::Population;
use crate::mmu::{InTheWay, Leaf};
use crate::task::Task;
use crate::vcpu::{REQ_OUTSIDE_GUEST_MODE, Vcpu};
use crate::vm::Kvm;

/// How the secure EPT took a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum External {
    /// It was made.
    Done,
    /// It was not (-EBUSY, or -EIO with the VM bugged): the mirror's entry goes back.
    Failed(InTheWay),
}

/// `tdx_operand_busy`.
pub(crate) fn tdx_operand_busy(status: TdxStatus) -> bool {
    status.is(TdxStatus::OPERAND_BUSY)
}

/// BUSY is tolerated: somebody else, or the guest, has the word. All else is a bug.
#[inline]
fn add_outcome(kvm: &Kvm, leaf: Seam, site: &'static str, out: Extended) -> External {
    if out.status == TdxStatus::SUCCESS {
        return External::Done;
    }
    if !tdx_operand_busy(out.status) {
        kvm.tdx_bug_on(out.status, leaf, site, out.operands());
        return External::Failed(InTheWay::Past);
    }
    External::Failed(InTheWay::Word(busy_word(kvm, out.status)))
}

/// The lock word that a BUSY status tells of, as far as KVM can tell: what a retry waits for.
pub(crate) fn busy_word(kvm: &Kvm, status: TdxStatus) -> Name {
    let tdr = kvm.tdx.tdr().unwrap_or_default().0;
    match status.operand() {
        Some(OperandId::SEPT_TREE) => module_locks::SEPT_TREE.at(tdr),
        _ => module_locks::PAMT_4K.at(tdr),
    }
}

/// `tdx_sept_map_nonleaf_spte`: TDH.MEM.SEPT.ADD for an entry of `level` (2 maps 2 MiB).
pub(crate) fn tdx_sept_map_nonleaf_spte(
    task: &Task,
    kvm: &Kvm,
    gfn: u64,
    level: u8,
    page: Hpa,
    _mmu: &ReadGuard<()>,
) -> External {
    const SITE: &str = "tdx.c:1714 tdx_sept_map_nonleaf_spte";
    let Some(tdr) = kvm.tdx.tdr() else {
        kvm.bug_on(true, SITE, "the TD has no TDR");
        return External::Failed(InTheWay::Past);
    };
    let on = kvm.on_this_cpu(task);
    // The module counts levels from 0.
    let out = tdh_mem_sept_add(on, tdr, Gfn(gfn).gpa(), level - 1, page);
    add_outcome(kvm, Seam::MEM_SEPT_ADD, SITE, out)
}

/// `tdx_sept_map_leaf_spte`: PAGE.ADD before the TD is finalized, PAGE.AUG after. Where pages are
/// premapped, PAGE.ADD follows when the mirror is done.
#[inline]
pub(crate) fn tdx_sept_map_leaf_spte(
    task: &Task,
    kvm: &Kvm,
    leaf: Leaf,
    _mmu: &ReadGuard<()>,
) -> External {
    let Some(tdr) = kvm.tdx.tdr() else {
        kvm.bug_on(
            true,
            "tdx.c:1718 tdx_sept_map_leaf_spte",
            "the TD has no TDR",
        );
        return External::Failed(InTheWay::Past);
    };
    let on = kvm.on_this_cpu(task);
    if kvm.tdx.state() == TdState::Runnable {
        let out = tdh_mem_page_aug(on, tdr, Gfn(leaf.gfn).gpa(), leaf.page);
        return add_outcome(kvm, Seam::MEM_PAGE_AUG, "tdx.c:1679 tdx_mem_page_aug", out);
    }
    match kvm.discipline.population {
        Population::MapGivenPfn => tdx_mem_page_add(kvm, on, tdr, leaf),
        Population::Premap => {
            kvm.tdx.nr_premapped.fetch_add(1);
            External::Done
        }
    }
}

#[inline]
fn tdx_mem_page_add(kvm: &Kvm, on: On, tdr: Hpa, leaf: Leaf) -> External {
    const SITE: &str = "tdx.c:1652 tdx_mem_page_add";
    const ADDED: &str = "tdx.c:1661 tdx_mem_page_add";
    let source = kvm.tdx.page_add_src.load();
    if kvm.bug_on(
        kvm.pre_fault_allowed.load(),
        SITE,
        "pre-faulting is allowed already",
    ) || kvm.bug_on(source == 0, SITE, "there is no source page")
    {
        return External::Failed(InTheWay::Past);
    }
    let out = tdh_mem_page_add(on, tdr, Gfn(leaf.gfn).gpa(), leaf.page, Hpa(source));
    add_outcome(kvm, Seam::MEM_PAGE_ADD, ADDED, out)
}

/// `tdh_do_no_vcpus`: once, and when busy once more with all vCPUs out of the guest.
fn tdh_do_no_vcpus(
    task: &Task,
    kvm: &Kvm,
    _mmu: &WriteGuard<()>,
    seamcall: impl Fn(On) -> Extended,
) -> Extended {
    let on = kvm.on_this_cpu(task);
    let first = seamcall(on);
    if !tdx_operand_busy(first.status) {
        return first;
    }
    kvm.tdx.wait_for_sept_zap.store(true);
    kvm.kick_all_out_of_guest();
    let second = seamcall(on);
    kvm.tdx.wait_for_sept_zap.store(false);
    second
}

/// `tdx_track`: advances the TLB epoch of a TD that may be running.
fn tdx_track(task: &Task, kvm: &Kvm, tdr: Hpa, mmu: &WriteGuard<()>) {
    if kvm.tdx.state() != TdState::Runnable {
        return;
    }
    let out = tdh_do_no_vcpus(task, kvm, mmu, |on| tdh_mem_track(on, tdr));
    kvm.tdx_bug_on(out.status, Seam::MEM_TRACK, "tdx.c:1791 tdx_track", [0; 3]);
    kvm.kick_all_out_of_guest();
}

/// `tdx_sept_remove_leaf_spte`: BLOCK, TRACK, REMOVE, WBINVD. Whether the page is the host's again.
pub(crate) fn tdx_sept_remove_leaf_spte(
    task: &Task,
    kvm: &Kvm,
    gfn: u64,
    page: Hpa,
    mmu: &WriteGuard<()>,
) -> bool {
    const SITE: &str = "tdx.c:1811 tdx_sept_remove_leaf_spte";
    const BLOCKED: &str = "tdx.c:1820 tdx_sept_remove_leaf_spte";
    const REMOVED: &str = "tdx.c:1836 tdx_sept_remove_leaf_spte";
    const WRITTEN_BACK: &str = "tdx.c:1840 tdx_sept_remove_leaf_spte";
    let (Some(tdr), Some(hkid)) = (kvm.tdx.tdr(), kvm.tdx.hkid()) else {
        kvm.bug_on(true, SITE, "a private page is zapped without an HKID");
        return false;
    };
    let gpa = Gfn(gfn).gpa();
    let out = tdh_do_no_vcpus(task, kvm, mmu, |on| tdh_mem_range_block(on, tdr, gpa));
    if is_premapped(kvm, &out) {
        kvm.tdx.nr_premapped.fetch_sub(1);
        return true;
    }
    if kvm.tdx_bug_on(out.status, Seam::MEM_RANGE_BLOCK, BLOCKED, out.operands()) {
        return false;
    }
    tdx_track(task, kvm, tdr, mmu);
    let out = tdh_do_no_vcpus(task, kvm, mmu, |on| tdh_mem_page_remove(on, tdr, gpa));
    if kvm.tdx_bug_on(out.status, Seam::MEM_PAGE_REMOVE, REMOVED, out.operands()) {
        return false;
    }
    write_back(task, kvm, page, hkid, WRITTEN_BACK)
}

/// `tdx_is_sept_zap_err_due_to_premap` of v6.16: the page never entered the secure EPT.
fn is_premapped(kvm: &Kvm, block: &Extended) -> bool {
    let entry = SeptEntry::from_bits_retain(block.entry);
    let mapped = entry.contains(SeptEntry::LEAF) && entry.intersects(SeptEntry::RWX);
    kvm.discipline.population == Population::Premap
        && block.status == TdxStatus::EPT_ENTRY_STATE_INCORRECT.with(OperandId::RCX)
        && kvm.tdx.state() != TdState::Runnable
        && !mapped
        && kvm.tdx.nr_premapped.load() != 0
}

fn write_back(task: &Task, kvm: &Kvm, page: Hpa, hkid: Hkid, site: &'static str) -> bool {
    let status = tdh_phymem_page_wbinvd(kvm.on_this_cpu(task), page, hkid);
    if kvm.tdx_bug_on(status, Seam::PHYMEM_PAGE_WBINVD, site, [page.0, 0, 0]) {
        return false;
    }
    kvm.reclaimed.private_page();
    true
}

impl Kvm {
    /// `kvm_make_all_cpus_request(KVM_REQ_OUTSIDE_GUEST_MODE)`: returns when every vCPU has been
    /// outside of the guest.
    pub(crate) fn kick_all_out_of_guest(&self) {
        let seen: Vec<(&Vcpu, u64)> = self.vcpus().map(|vcpu| (vcpu, vcpu.exits())).collect();
        self.make_all_cpus_request(REQ_OUTSIDE_GUEST_MODE);
        for (vcpu, exits) in seen {
            vcpu.wait_for_exit(exits);
        }
    }
}
