//! Which memslots use which pages of a guest_memfd.
//!
//! # Locking
//! `filemap_invalidate_lock`, exclusive, to change bindings.

use std::collections::BTreeMap;
use std::sync::Arc;

use seamlock_tdx_abi::PAGE_SIZE;
use seamlock_tdx_abi::kvm::{Errno, GUEST_MEMFD_FLAG_MMAP, KvmUserspaceMemoryRegion2};

use super::Gmem;
use crate::error::{Error, Result, fail};
use crate::file::{File, Kind};
use crate::task::Task;
use crate::vm::{Kvm, Slot};

/// Bound slots by their first page (`f->bindings`).
#[derive(Debug, Default)]
pub struct Bindings(BTreeMap<u64, Arc<Slot>>);

impl Bindings {
    /// Slots that use a page of `start..end`.
    pub fn in_range(&self, start: u64, end: u64) -> Vec<Arc<Slot>> {
        let overlaps = |slot: &&Arc<Slot>| slot.gmem_pgoff + slot.npages > start;
        self.0
            .range(..end)
            .map(|(_, slot)| slot)
            .filter(overlaps)
            .cloned()
            .collect()
    }

    fn has(&self, index: u64, slot: &Slot) -> bool {
        let bound = self.0.range(..=index).next_back();
        bound.is_some_and(|(_, bound)| {
            std::ptr::eq(&**bound, slot) && index < bound.gmem_pgoff + bound.npages
        })
    }
}

impl Gmem {
    /// Slots that use a page of `start..end`.
    pub(crate) fn slots_in(&self, start: u64, end: u64) -> Vec<Arc<Slot>> {
        self.bindings.with(|bindings| bindings.in_range(start, end))
    }

    pub(super) fn is_bound(&self, index: u64, slot: &Slot) -> bool {
        self.bindings.with(|bindings| bindings.has(index, slot))
    }
}

/// `kvm_gmem_supports_mmap`: then shared memory is in the file as well.
pub(crate) fn supports_mmap(file: &File) -> bool {
    matches!(file.kind(), Kind::Gmem(gmem) if gmem.flags() & GUEST_MEMFD_FLAG_MMAP != 0)
}

/// `kvm_gmem_prepare_memory_region`: the file for a new slot, with a reference.
pub(crate) fn prepare_memory_region(
    task: &Task,
    kvm: &Arc<Kvm>,
    mem: &KvmUserspaceMemoryRegion2,
) -> Result<Arc<File>> {
    const SITE: &str = "virt/kvm/guest_memfd.c:606 kvm_gmem_prepare_memory_region";
    let Some(file) = File::of(task, mem.guest_memfd as i32) else {
        return fail(Errno::EBADF, SITE, "guest_memfd is not an open descriptor");
    };
    let refused = match file.kind() {
        Kind::Gmem(gmem) if !Arc::ptr_eq(&gmem.kvm, kvm) => Some("the file is another VM's"),
        Kind::Gmem(gmem) => {
            let end = mem.guest_memfd_offset.checked_add(mem.memory_size);
            let past = end.is_none_or(|end| end > gmem.size);
            let unaligned = !mem.guest_memfd_offset.is_multiple_of(PAGE_SIZE);
            (past || unaligned).then_some("the slot reaches beyond the file")
        }
        _ => Some("the descriptor is not a guest_memfd"),
    };
    match refused {
        None => Ok(file),
        Some(why) => {
            file.fput(task);
            fail(Errno::EINVAL, SITE, why)
        }
    }
}

/// `kvm_gmem_commit_memory_region`: binds a new slot.
pub(crate) fn commit_memory_region(slot: &Arc<Slot>) -> Result<()> {
    const SITE: &str = "virt/kvm/guest_memfd.c:674 kvm_gmem_commit_memory_region";
    let file = slot
        .gmem_file
        .with(|file| file.as_ref().and_then(|f| f.upgrade()));
    let Some(Kind::Gmem(gmem)) = file.as_deref().map(File::kind) else {
        return Ok(());
    };
    let _filemap = gmem.invalidate_lock.write();
    gmem.bindings.with(|bindings| {
        let (start, end) = (slot.gmem_pgoff, slot.gmem_pgoff + slot.npages);
        if !bindings.in_range(start, end).is_empty() {
            let reason = "the pages of the file are bound to another slot";
            return Err(Error::new(Errno::EEXIST, SITE, reason));
        }
        bindings.0.insert(start, slot.clone());
        Ok(())
    })
}

/// `kvm_gmem_unbind`: the slot is gone.
pub(crate) fn unbind(slot: &Slot) {
    let file = slot
        .gmem_file
        .with(|file| file.as_ref().and_then(|f| f.upgrade()));
    let Some(Kind::Gmem(gmem)) = file.as_deref().map(File::kind) else {
        return;
    };
    let _filemap = gmem.invalidate_lock.write();
    gmem.bindings
        .with(|bindings| bindings.0.remove(&slot.gmem_pgoff));
    slot.lose_gmem();
}

impl Gmem {
    /// Takes all bindings away: the file is being closed.
    pub(super) fn unbind_all(&self) {
        let slots = self.slots_in(0, u64::MAX);
        for slot in slots {
            slot.lose_gmem();
        }
        self.bindings.with(|bindings| bindings.0.clear());
    }
}
