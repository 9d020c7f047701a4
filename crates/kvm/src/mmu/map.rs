//! Into the mirror: `kvm_tdp_mmu_map`, with the secure EPT changed while an entry is frozen.

use seamlock_sync::{Name, ReadGuard, Shared, relax, relax_until_changed};
use seamlock_tdx_abi::Hpa;
use seamlock_tdx_abi::kvm::Errno;

use super::mirror::{Child, FROZEN, Spte, Table};
use crate::error::Error;
use crate::host::Owner;
use crate::stats;
use crate::task::Task;
use crate::tdx::sept::{self, External};
use crate::vcpu::Vcpu;
use crate::vm::Kvm;

/// What a mapping attempt came to (`RET_PF_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mapped {
    /// The page is mapped now.
    Fixed,
    /// It was mapped before.
    Spurious,
    /// Something was in the way; try again.
    Retry(InTheWay),
    /// There is no memslot: the access is MMIO (`RET_PF_EMULATE`).
    Emulate,
    /// There is no memory for a table (-ENOMEM of `mmu_topup_memory_caches`).
    NoMemory,
}

/// What [`Mapped::NoMemory`] is to user space.
pub(crate) fn no_memory() -> Error {
    const SITE: &str = "arch/x86/kvm/mmu/mmu.c mmu_topup_memory_caches";
    Error::new(Errno::ENOMEM, SITE, "memory is exhausted")
}

/// What a retry loop waits for, where it would otherwise spin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InTheWay {
    /// A lock word of the module: its release.
    Word(Name),
    /// A cell, as it was when the thread looked at it last: a change of it.
    Cell(Name),
    /// Nothing any more.
    Past,
}

impl InTheWay {
    /// Lets others go on.
    #[track_caller]
    pub(crate) fn relax(self) {
        match self {
            InTheWay::Word(word) => relax(word),
            InTheWay::Cell(cell) => relax_until_changed(cell),
            InTheWay::Past => {}
        }
    }
}

/// The page to map.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaf {
    /// Guest frame.
    pub gfn: u64,
    /// Physical page.
    pub page: Hpa,
}

/// `kvm_tdp_mmu_map`: adds missing tables from the top down, then the page.
#[inline]
pub(crate) fn kvm_tdp_mmu_map(
    task: &Task,
    kvm: &Kvm,
    vcpu: &Vcpu,
    leaf: Leaf,
    mmu: &ReadGuard<()>,
) -> Mapped {
    let Some(mut table) = kvm.mirror.root() else {
        return Mapped::Retry(InTheWay::Past);
    };
    loop {
        let index = table.index(leaf.gfn);
        let entry = table.entry(index);
        let old = entry.load();
        if table.level() == 1 {
            return map_leaf(task, kvm, entry, old, leaf, mmu);
        }
        match Spte::of(old) {
            Spte::Frozen => return Mapped::Retry(InTheWay::Cell(entry.name())),
            Spte::Present(_) => {}
            Spte::None => {
                if let Err(instead) = link_table(task, kvm, vcpu, table, index, mmu) {
                    return instead;
                }
            }
        }
        match table.child(index) {
            Some(child) => table = child,
            None => return Mapped::Retry(InTheWay::Cell(entry.name())),
        }
    }
}

/// `tdp_mmu_map_handle_target_level`.
fn map_leaf(
    task: &Task,
    kvm: &Kvm,
    entry: &Shared<u64>,
    old: u64,
    leaf: Leaf,
    mmu: &ReadGuard<()>,
) -> Mapped {
    match Spte::of(old) {
        Spte::Frozen => return Mapped::Retry(InTheWay::Cell(entry.name())),
        Spte::Present(_) => return Mapped::Spurious,
        Spte::None => {}
    }
    if entry.compare_exchange(old, FROZEN).is_err() {
        return Mapped::Retry(InTheWay::Past);
    }
    match sept::tdx_sept_map_leaf_spte(task, kvm, leaf, mmu) {
        External::Done => {
            entry.store(Spte::present(leaf.page));
            kvm.stats.add(stats::PAGES_4K, 1);
            Mapped::Fixed
        }
        External::Failed(busy) => {
            entry.store(old);
            Mapped::Retry(busy)
        }
    }
}

/// `tdp_mmu_link_sp`: a new table below an entry. An error is what the fault comes to instead.
#[cold]
fn link_table(
    task: &Task,
    kvm: &Kvm,
    vcpu: &Vcpu,
    table: &Table,
    index: usize,
    mmu: &ReadGuard<()>,
) -> Result<(), Mapped> {
    let entry = table.entry(index);
    let owner = Owner::vcpu(kvm.number, vcpu.born_at() as u64);
    // The kernel takes it from the vCPU's cache of pages, which was topped up before the fault.
    let Some(sept_page) = kvm.host.alloc_page(owner) else {
        return Err(Mapped::NoMemory);
    };
    if entry.compare_exchange(0, FROZEN).is_err() {
        kvm.host.free_page(owner, sept_page);
        return Err(Mapped::Retry(InTheWay::Past));
    }
    let gfn = table.gfn_of(index);
    match sept::tdx_sept_map_nonleaf_spte(task, kvm, gfn, table.level(), sept_page, mmu) {
        External::Done => {
            let below = Table::new(table.vm(), table.level() - 1, gfn);
            table.set_child(
                index,
                Child {
                    table: below,
                    sept_page,
                    owner,
                },
            );
            entry.store(Spte::present(sept_page));
            Ok(())
        }
        External::Failed(busy) => {
            entry.store(0);
            kvm.host.free_page(owner, sept_page);
            Err(Mapped::Retry(busy))
        }
    }
}
