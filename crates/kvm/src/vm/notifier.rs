//! MMU notifiers: the process changes its memory, and KVM's page tables follow.
//!
//! # Locking
//! The process has its mappings locked. Between start and end a change of memslots waits, so nothing
//! in between takes `slots_lock` or `slots_arch_lock`; memslots are read under `kvm->srcu`, and
//! `mmu_lock` is taken for writing.

use seamlock_sync::Section;
use seamlock_tdx_abi::PAGE_SIZE;

use super::Kvm;
use crate::locks;

impl Kvm {
    /// `kvm_mmu_notifier_invalidate_range_start` and `…_end` around a change of the user memory
    /// `start..end`, such as munmap(2). Only what is mapped shared goes, which has no tables here: an
    /// MMU notifier never reaches the mirror. What it does to a TD is that faults under way retry.
    pub fn mmu_notifier_invalidate(&self, start: u64, end: u64) {
        let _entered = self.host.enter();
        let _mmap = Section::enter(locks::MMAP_LOCK.at(self.mm));
        let _notifier = Section::enter(locks::MMU_NOTIFIER.at(self.number));
        if !self.has_slot_at(start, end) {
            return;
        }
        self.mirror.invalidate_begin(&self.mmu_lock.write());
        self.mirror.invalidate_end(&self.mmu_lock.write());
    }

    /// Whether a memslot's user memory overlaps the range (`kvm_handle_hva_range`).
    fn has_slot_at(&self, start: u64, end: u64) -> bool {
        let _srcu = self.srcu.read();
        self.memslots.all().iter().any(|slot| {
            let first = slot.userspace_addr;
            first < end && start < first + slot.npages * PAGE_SIZE
        })
    }
}
