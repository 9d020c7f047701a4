//! Out of the mirror: leaves are removed under `mmu_lock` for writing, and that can't fail.

use seamlock_sync::WriteGuard;

use super::mirror::Spte;
use crate::stats;
use crate::task::Task;
use crate::tdx::sept;
use crate::vm::Kvm;

impl Kvm {
    /// `kvm_tdp_mmu_unmap_gfn_range` of the mirror root: removes the leaves of `start..end`.
    pub(crate) fn zap_gfn_range(&self, task: &Task, mmu: &WriteGuard<()>, start: u64, end: u64) {
        let Some(root) = self.mirror.root() else {
            return;
        };
        root.for_each_leaf(start, end, &mut |gfn, entry| {
            let Spte::Present(page) = Spte::of(entry.load()) else {
                return;
            };
            // The entry goes first; a secure EPT that does not follow bugs the VM.
            entry.store(0);
            self.stats.add(stats::PAGES_4K, -1);
            sept::tdx_sept_remove_leaf_spte(task, self, gfn, page, mmu);
        });
    }
}
