//! Memslots: which user memory and which guest_memfd back which guest frames.
//!
//! # Locking
//! Changed under `slots_lock` and `slots_arch_lock`; read under `slots_lock` or `kvm->srcu`. The
//! generation cell stands for the pointer `kvm->memslots`, which readers load without a lock.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use seamlock_sync::{Action, Name, Private, Shared, announce};
use seamlock_tdx_abi::Gfn;
use seamlock_tdx_abi::kvm::{KVM_MEM_GUEST_MEMFD, KVM_MEM_LOG_DIRTY_PAGES};

use super::DirtyBitmap;
use crate::file::File;
use crate::locks::cells;

/// Slots that user space may have in an address space (`KVM_USER_MEM_SLOTS`).
pub const KVM_USER_MEM_SLOTS: u32 = 32764;
/// Pages that a user slot may have (`KVM_MEM_MAX_NR_PAGES`).
pub const KVM_MEM_MAX_NR_PAGES: u64 = (1 << 31) - 1;

/// What happens to a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new slot.
    Create,
    /// The slot goes.
    Delete,
    /// The slot moves to another guest address.
    Move,
    /// Only its flags change.
    FlagsOnly,
}

/// One memslot.
#[derive(Debug)]
pub struct Slot {
    /// The VM's number.
    pub vm: u64,
    /// Number in its address space.
    pub id: u32,
    /// Address space.
    pub as_id: u32,
    /// First guest frame.
    pub base_gfn: u64,
    /// Frames.
    pub npages: u64,
    /// `KVM_MEM_*`.
    pub flags: u32,
    /// User address of shared memory.
    pub userspace_addr: u64,
    /// First page in the guest_memfd.
    pub gmem_pgoff: u64,
    /// Shared memory is in the guest_memfd too (`KVM_MEMSLOT_GMEM_ONLY`).
    pub gmem_only: bool,
    /// The slot is being deleted or moved (`KVM_MEMSLOT_INVALID`): faults retry.
    pub invalid: bool,
    /// `dirty_bitmap`: there while the slot is logged, unless the VM has dirty rings.
    pub(crate) dirty: Option<Arc<DirtyBitmap>>,
    /// The guest_memfd. Taken away when the file is closed before the slot.
    pub(crate) gmem_file: Private<Option<Weak<File>>>,
}

impl Slot {
    /// What accesses to `gmem_file` that no lock orders are announced on.
    pub(crate) fn gmem_cell(&self) -> Name {
        cells::SLOT_GMEM_FILE.of(self.vm, u64::from(self.as_id) << 32 | u64::from(self.id))
    }

    /// Takes the file away: it is being closed, or the slot is gone.
    pub(crate) fn lose_gmem(&self) {
        announce(Action::Store, self.gmem_cell(), 0);
        self.gmem_file.with(|file| *file = None);
    }

    /// The frame after the last.
    pub fn end_gfn(&self) -> u64 {
        self.base_gfn + self.npages
    }

    /// `kvm_slot_dirty_track_enabled`.
    pub fn logs_dirty_pages(&self) -> bool {
        self.flags & KVM_MEM_LOG_DIRTY_PAGES != 0
    }

    /// Whether the slot was made with a guest_memfd (`kvm_slot_has_gmem`).
    pub fn has_gmem(&self) -> bool {
        self.flags & KVM_MEM_GUEST_MEMFD != 0
    }

    /// The page of the guest_memfd that backs a frame of the slot.
    pub fn gmem_index(&self, gfn: Gfn) -> u64 {
        gfn.0 - self.base_gfn + self.gmem_pgoff
    }

    /// The slot as others see it while it is being deleted or moved.
    pub(super) fn invalidated(&self) -> Slot {
        let gmem_file = Private::new(self.gmem_file.with(|file| file.clone()));
        Slot {
            invalid: true,
            dirty: self.dirty.clone(),
            gmem_file,
            ..*self
        }
    }

    /// The guest_memfd's file, unless it was closed.
    pub fn gmem_file(&self) -> Option<Arc<File>> {
        self.gmem_file
            .with(|file| file.as_ref().and_then(Weak::upgrade))
    }

    /// `kvm_gmem_get_file`: the file with a reference, unless it is being closed.
    pub(crate) fn gmem(&self) -> Option<Arc<File>> {
        announce(Action::Load, self.gmem_cell(), 0);
        self.gmem_file().filter(|file| file.get())
    }
}

#[derive(Debug, Default)]
struct Set {
    by_id: BTreeMap<(u32, u32), Arc<Slot>>,
    by_gfn: BTreeMap<(u32, u64), Arc<Slot>>,
    pages: u64,
}

/// The active memslots of a VM.
#[derive(Debug)]
pub struct Memslots {
    generation: Shared<u64>,
    set: Private<Set>,
}

impl Memslots {
    pub(super) fn new(vm: u64) -> Memslots {
        Memslots {
            generation: Shared::new(cells::MEMSLOTS.at(vm), 0),
            set: Private::default(),
        }
    }

    /// `gfn_to_memslot` in address space 0.
    #[inline]
    pub fn of_gfn(&self, gfn: Gfn) -> Option<Arc<Slot>> {
        self.generation.load();
        self.set.with(|set| {
            let (_, slot) = set.by_gfn.range((0, 0)..=(0, gfn.0)).next_back()?;
            (gfn.0 < slot.end_gfn()).then(|| slot.clone())
        })
    }

    /// `id_to_memslot`.
    pub fn of_id(&self, as_id: u32, id: u32) -> Option<Arc<Slot>> {
        self.generation.load();
        self.set.with(|set| set.by_id.get(&(as_id, id)).cloned())
    }

    /// Slots that overlap `start..end`, in order.
    pub fn in_range(&self, as_id: u32, start: u64, end: u64) -> Vec<Arc<Slot>> {
        self.generation.load();
        self.set.with(|set| {
            let below = set.by_gfn.range((as_id, 0)..(as_id, start)).next_back();
            let rest = set.by_gfn.range((as_id, start)..(as_id, end));
            let all = below.into_iter().chain(rest).map(|(_, slot)| slot);
            all.filter(|slot| slot.end_gfn() > start).cloned().collect()
        })
    }

    /// Pages in all slots (`nr_memslot_pages`).
    pub fn pages(&self) -> u64 {
        self.set.with(|set| set.pages)
    }

    /// Every slot, by address space and id.
    pub fn all(&self) -> Vec<Arc<Slot>> {
        self.set.with(|set| set.by_id.values().cloned().collect())
    }

    /// Takes `old` out and puts `new` in, in one step.
    pub(super) fn replace(&self, old: Option<&Arc<Slot>>, new: Option<Arc<Slot>>) {
        // First, for this is where a scheduler may let others go on: who looks from then on sees the new set.
        self.generation.fetch_add(1);
        self.set.with(|set| {
            if let Some(old) = old {
                set.by_id.remove(&(old.as_id, old.id));
                set.by_gfn.remove(&(old.as_id, old.base_gfn));
                set.pages -= old.npages;
            }
            if let Some(new) = new {
                set.pages += new.npages;
                set.by_gfn.insert((new.as_id, new.base_gfn), new.clone());
                set.by_id.insert((new.as_id, new.id), new);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(id: u32, base_gfn: u64, npages: u64) -> Arc<Slot> {
        Arc::new(Slot {
            vm: 1,
            id,
            as_id: 0,
            base_gfn,
            npages,
            flags: 0,
            userspace_addr: 0,
            gmem_pgoff: 0,
            gmem_only: false,
            invalid: false,
            dirty: None,
            gmem_file: Private::default(),
        })
    }

    #[test]
    fn a_frame_belongs_to_the_slot_around_it() {
        let slots = Memslots::new(1);
        slots.replace(None, Some(slot(0, 0, 16)));
        slots.replace(None, Some(slot(1, 32, 16)));
        let of = |gfn| slots.of_gfn(Gfn(gfn)).map(|s| s.id);
        assert_eq!(
            (of(0), of(15), of(16), of(31), of(32)),
            (Some(0), Some(0), None, None, Some(1))
        );
        assert_eq!(slots.in_range(0, 15, 33).len(), 2);
        assert_eq!(slots.in_range(0, 16, 32).len(), 0);
        let old = slots.of_id(0, 1);
        slots.replace(old.as_ref(), None);
        assert_eq!((of(32), slots.pages()), (None, 16));
    }
}
