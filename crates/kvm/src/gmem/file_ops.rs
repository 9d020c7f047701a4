//! What user space and the memory-failure code do to a guest_memfd: fallocate, errors, close.

use std::sync::Arc;

use seamlock_sync::WriteGuard;
use seamlock_tdx_abi::PAGE_SIZE;
use seamlock_tdx_abi::kvm::Errno;

use super::{Gmem, NoFolio};
use crate::error::{Result, fail};
use crate::file::{File, Kind};
use crate::task::Task;
use crate::vm::{Kvm, Slot};

/// Keep the file's size (`FALLOC_FL_KEEP_SIZE`).
pub const FALLOC_FL_KEEP_SIZE: i32 = 1;
/// Free the range (`FALLOC_FL_PUNCH_HOLE`).
pub const FALLOC_FL_PUNCH_HOLE: i32 = 2;

const SITE: &str = "virt/kvm/guest_memfd.c:265 kvm_gmem_fallocate";

/// `fallocate(2)` on any of KVM's files.
///
/// # Errors
/// EBADF, ENODEV for a file that is no guest_memfd, and those of `kvm_gmem_fallocate`.
pub fn fallocate(task: &Task, fd: i32, mode: i32, offset: u64, len: u64) -> Result<()> {
    let Some(file) = File::of(task, fd) else {
        return fail(
            Errno::EBADF,
            "fs/open.c fallocate",
            "the descriptor is not open",
        );
    };
    let result = match file.kind() {
        Kind::Gmem(gmem) => gmem.fallocate(task, mode, offset, len),
        _ => fail(
            Errno::ENODEV,
            "fs/open.c vfs_fallocate",
            "the file is no guest_memfd",
        ),
    };
    file.put(task);
    result
}

impl Gmem {
    /// `kvm_gmem_fallocate`, with the checks that the VFS makes first.
    ///
    /// # Errors
    /// EINVAL, EFBIG, EOPNOTSUPP, EINTR, ENOMEM.
    pub fn fallocate(&self, task: &Task, mode: i32, offset: u64, len: u64) -> Result<()> {
        let _entered = self.kvm.host.enter();
        let end = i64::try_from(offset).ok().zip(i64::try_from(len).ok());
        let Some((start, length)) = end.filter(|(_, len)| *len > 0) else {
            return fail(
                Errno::EINVAL,
                "fs/open.c vfs_fallocate",
                "offset or length is negative",
            );
        };
        if !vfs_knows(mode) {
            return fail(
                Errno::EOPNOTSUPP,
                "fs/open.c vfs_fallocate",
                "mode is no mode of fallocate",
            );
        }
        if start.checked_add(length).is_none() {
            return fail(Errno::EFBIG, "fs/open.c vfs_fallocate", "the range wraps");
        }
        if mode & FALLOC_FL_KEEP_SIZE == 0
            || mode & !(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE) != 0
        {
            return fail(
                Errno::EOPNOTSUPP,
                SITE,
                "mode lacks KEEP_SIZE or has an unknown bit",
            );
        }
        if !offset.is_multiple_of(PAGE_SIZE) || !len.is_multiple_of(PAGE_SIZE) {
            return fail(Errno::EINVAL, SITE, "the range is not page aligned");
        }
        let (start, end) = (offset / PAGE_SIZE, (offset + len) / PAGE_SIZE);
        if mode & FALLOC_FL_PUNCH_HOLE != 0 {
            self.punch_hole(task, start, end);
            Ok(())
        } else {
            self.allocate(task, start, end)
        }
    }

    /// `kvm_gmem_punch_hole`: neither `kvm->lock` nor `slots_lock` is taken.
    fn punch_hole(&self, task: &Task, start: u64, end: u64) {
        let filemap = self.invalidate_lock.write();
        let slots = self.slots_in(start, end);
        self.invalidate_begin(task, &slots, start, end);
        self.folios.truncate(&self.kvm.host, start, end);
        self.invalidate_end(&slots);
        drop(filemap);
    }

    fn allocate(&self, task: &Task, start: u64, end: u64) -> Result<()> {
        const SITE: &str = "virt/kvm/guest_memfd.c:225 kvm_gmem_allocate";
        if end * PAGE_SIZE > self.size {
            return fail(Errno::EINVAL, SITE, "the range ends beyond the file");
        }
        let _filemap = self.invalidate_lock.read();
        for index in start..end {
            if task.signal_pending() {
                return fail(Errno::EINTR, SITE, "a signal is pending");
            }
            // A poisoned page is there.
            if self.folios.get_or_alloc(&self.kvm.host, index) == Err(NoFolio::NoMemory) {
                return fail(Errno::ENOMEM, SITE, "memory is exhausted");
            }
            task.resched();
        }
        Ok(())
    }

    /// `kvm_gmem_error_folio`: the page at `offset` had a memory error. It leaves the guest's page
    /// tables; who touches it next gets EHWPOISON, until PUNCH_HOLE makes room for another page.
    /// `memory_failure` has the folio locked all the while.
    pub fn memory_failure(&self, task: &Task, offset: u64) {
        let _entered = self.kvm.host.enter();
        let index = offset / PAGE_SIZE;
        let in_order = self.kvm.discipline.seal.error_unlocks_folio;
        self.folios.poison(index);
        let mut folio = self.folios.lock(index);
        if in_order {
            drop(folio.take());
        }
        let filemap = self.invalidate_lock.read();
        if in_order {
            folio = self.folios.lock(index);
        }
        let slots = self.slots_in(index, index + 1);
        self.invalidate_begin(task, &slots, index, index + 1);
        self.invalidate_end(&slots);
        drop(filemap);
        drop(folio);
    }

    /// `kvm_gmem_release`: the last reference to the file is gone.
    pub(crate) fn release(self: &Arc<Gmem>, task: &Task) {
        let kvm = &self.kvm;
        {
            let _slots_lock = kvm.slots_lock.lock();
            let _filemap = self.invalidate_lock.write();
            let slots = self.slots_in(0, u64::MAX);
            for slot in &slots {
                slot.lose_gmem();
            }
            self.invalidate_begin(task, &slots, 0, u64::MAX);
            self.invalidate_end(&slots);
            self.unbind_all();
        }
        // The inode goes with its only file.
        self.folios.evict(&kvm.host);
        kvm.put(task);
    }

    /// `__kvm_gmem_invalidate_start`: takes what slots map of `start..end` out of the page tables.
    fn invalidate_begin(&self, task: &Task, slots: &[Arc<Slot>], start: u64, end: u64) {
        if slots.is_empty() {
            return;
        }
        let kvm = &self.kvm;
        let mmu = kvm.mmu_lock.write();
        kvm.mirror.invalidate_begin(&mmu);
        for slot in slots {
            zap_slot(task, kvm, &mmu, slot, start, end);
        }
    }

    fn invalidate_end(&self, slots: &[Arc<Slot>]) {
        if !slots.is_empty() {
            let mmu = self.kvm.mmu_lock.write();
            self.kvm.mirror.invalidate_end(&mmu);
        }
    }
}

/// Modes that the VFS hands on: one operation, with KEEP_SIZE where it must or must not be.
fn vfs_knows(mode: i32) -> bool {
    const ZERO_RANGE: i32 = 0x10;
    const UNSHARE_RANGE: i32 = 0x40;
    /// COLLAPSE_RANGE, INSERT_RANGE, WRITE_ZEROES.
    const CHANGE_SIZE: [i32; 3] = [8, 0x20, 0x80];
    let keep = mode & FALLOC_FL_KEEP_SIZE != 0;
    match mode & !FALLOC_FL_KEEP_SIZE {
        0 | ZERO_RANGE | UNSHARE_RANGE => true,
        FALLOC_FL_PUNCH_HOLE => keep,
        other => CHANGE_SIZE.contains(&other) && !keep,
    }
}

fn zap_slot(task: &Task, kvm: &Kvm, mmu: &WriteGuard<()>, slot: &Slot, start: u64, end: u64) {
    let first = start.max(slot.gmem_pgoff) - slot.gmem_pgoff;
    let last = end.min(slot.gmem_pgoff + slot.npages) - slot.gmem_pgoff;
    kvm.zap_gfn_range(task, mmu, slot.base_gfn + first, slot.base_gfn + last);
}
