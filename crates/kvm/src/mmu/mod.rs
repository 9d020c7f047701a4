//! The mirror EPT: KVM's copy of a TD's secure EPT, and the ways in and out of it.
//!
//! # Locking
//! Entries are added under `mmu_lock` for reading, by compare-and-exchange through the FROZEN value,
//! and removed under `mmu_lock` for writing. `mmu_invalidate_in_progress` and `mmu_invalidate_seq`
//! change under `mmu_lock` for writing.

mod map;
mod mirror;
mod reload;
mod zap;

use std::sync::OnceLock;

use seamlock_sync::{Shared, WriteGuard};

use crate::locks::cells;

pub(crate) use map::{InTheWay, Leaf, Mapped, kvm_tdp_mmu_map, no_memory};
pub use mirror::{FROZEN, Spte, Table};
pub(crate) use reload::kvm_mmu_reload;

/// The mirror page tables of a VM and their invalidation counters.
#[derive(Debug)]
pub struct Mirror {
    vm: u64,
    root: OnceLock<Table>,
    invalidate_in_progress: Shared<u64>,
    invalidate_seq: Shared<u64>,
}

impl Mirror {
    pub(crate) fn new(vm: u64) -> Mirror {
        Mirror {
            vm,
            root: OnceLock::new(),
            invalidate_in_progress: Shared::new(cells::INVALIDATE_IN_PROGRESS.at(vm), 0),
            invalidate_seq: Shared::new(cells::INVALIDATE_SEQ.at(vm), 0),
        }
    }

    /// The root, if a vCPU has loaded its page tables yet.
    pub fn root(&self) -> Option<&Table> {
        self.root.get()
    }

    /// `kvm_tdp_mmu_alloc_root` for the mirror: 4 or 5 levels.
    pub(crate) fn root_or_alloc(&self, levels: u8) -> &Table {
        self.root.get_or_init(|| Table::new(self.vm, levels, 0))
    }

    /// `kvm_mmu_invalidate_start`: faults that began before will retry.
    pub(crate) fn invalidate_begin(&self, _mmu: &WriteGuard<()>) {
        self.invalidate_in_progress.fetch_add(1);
    }

    /// `kvm_mmu_invalidate_end`.
    pub(crate) fn invalidate_end(&self, _mmu: &WriteGuard<()>) {
        self.invalidate_seq.fetch_add(1);
        self.invalidate_in_progress.fetch_sub(1);
    }

    /// `mmu_invalidate_seq`, read before a fault looks up its page.
    pub(crate) fn seq(&self) -> u64 {
        self.invalidate_seq.load()
    }

    /// Whether a fault that read `seq` is stale. Coarser than the kernel's, which looks at the range
    /// that is being invalidated.
    pub(crate) fn is_stale(&self, seq: u64) -> bool {
        self.invalidate_in_progress.load() != 0 || self.invalidate_seq.load() != seq
    }

    /// What a fault that is stale waits for: the end of the invalidation, if that is still going on.
    pub(crate) fn invalidation(&self) -> InTheWay {
        match self.invalidate_in_progress.load() {
            0 => InTheWay::Past,
            _ => InTheWay::Cell(cells::INVALIDATE_IN_PROGRESS.at(self.vm)),
        }
    }

    /// Leaves that are mapped: guest frame and physical page, ascending.
    pub fn leaves(&self) -> Vec<(u64, u64)> {
        let mut leaves = Vec::new();
        if let Some(root) = self.root.get() {
            root.for_each_leaf(0, u64::MAX, &mut |gfn, spte| {
                if let Spte::Present(pa) = Spte::of(spte.peek()) {
                    leaves.push((gfn, pa.0));
                }
            });
        }
        leaves
    }
}
