//! Dirty page tracking: a TD's private memory is never logged, and what shared memory a guest writes is not
//! seen here, so that a log has what KVM wrote itself.
//!
//! Source: Linux v7.3.4 `virt/kvm/kvm_main.c`.

use std::sync::Arc;

use seamlock_tdx_abi::kvm::{
    Errno, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KvmClearDirtyLog, KvmDirtyLog,
};
use zerocopy::IntoBytes;

use crate::error::{Result, fail};
use crate::task::Task;
use crate::vm::{DirtyBitmap, KVM_USER_MEM_SLOTS, Kvm, Slot};

type Vm = Arc<Kvm>;

type Logged = (Arc<Slot>, Arc<DirtyBitmap>);

fn logged_slot(kvm: &Kvm, slot: u32, first_page: u64, site: &'static str) -> Result<Logged> {
    if kvm.arch.with(|arch| arch.dirty_ring_size) != 0 {
        return fail(Errno::ENXIO, site, "the VM has dirty rings");
    }
    let (as_id, id) = (slot >> 16, slot & 0xffff);
    let address_spaces = if kvm.has_private_mem() { 1 } else { 2 };
    if as_id >= address_spaces || id >= KVM_USER_MEM_SLOTS {
        return fail(Errno::EINVAL, site, "no such address space or slot id");
    }
    if first_page & 63 != 0 {
        return fail(Errno::EINVAL, site, "first_page is not a multiple of 64");
    }
    let slot = kvm.memslots.of_id(as_id, id);
    match slot.and_then(|slot| slot.dirty.clone().map(|log| (slot, log))) {
        Some(logged) => Ok(logged),
        None => fail(Errno::ENOENT, site, "no such slot, or it is not logged"),
    }
}

pub(super) fn get_dirty_log(task: &Task, kvm: &Vm, arg: u64) -> Result<i64> {
    const SITE: &str = "virt/kvm/kvm_main.c:2257 kvm_get_dirty_log_protect";
    let log: KvmDirtyLog = task.get(arg, SITE)?;
    let _slots = kvm.slots_lock.lock();
    let (_, bitmap) = logged_slot(kvm, log.slot, 0, SITE)?;
    let manual = kvm
        .arch
        .with(|arch| arch.enabled(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2));
    let words = bitmap.words();
    if manual.unwrap_or(0) == 0 {
        let dirty = words.iter().enumerate().filter(|(_, word)| **word != 0);
        dirty.for_each(|(at, word)| bitmap.clear(at as u64, *word));
    }
    task.put(log.dirty_bitmap, &words[..], SITE)?;
    Ok(0)
}

pub(super) fn clear_dirty_log(task: &Task, kvm: &Vm, arg: u64) -> Result<i64> {
    const SITE: &str = "virt/kvm/kvm_main.c:2367 kvm_clear_dirty_log_protect";
    let log: KvmClearDirtyLog = task.get(arg, SITE)?;
    let _slots = kvm.slots_lock.lock();
    let (slot, bitmap) = logged_slot(kvm, log.slot, log.first_page, SITE)?;
    let pages = u64::from(log.num_pages);
    let Some(rest) = slot
        .npages
        .checked_sub(log.first_page)
        .filter(|rest| pages <= *rest)
    else {
        return fail(Errno::EINVAL, SITE, "the range ends beyond the slot");
    };
    if pages < rest && pages & 63 != 0 {
        return fail(Errno::EINVAL, SITE, "num_pages is not a multiple of 64");
    }
    let mut words = vec![0u64; pages.div_ceil(64) as usize];
    task.get_bytes(log.dirty_bitmap, words.as_mut_bytes(), SITE)?;
    for (at, word) in words.into_iter().enumerate().filter(|(_, word)| *word != 0) {
        bitmap.clear(log.first_page / 64 + at as u64, word);
    }
    Ok(0)
}

/// Returns how many entries of all vCPUs' rings are free again; a signal ends it early.
pub(super) fn reset_dirty_rings(task: &Task, kvm: &Vm, _arg: u64) -> Result<i64> {
    const SITE: &str = "virt/kvm/kvm_main.c:5043 kvm_vm_ioctl_reset_dirty_pages";
    if kvm.arch.with(|arch| arch.dirty_ring_size) == 0 {
        return fail(Errno::EINVAL, SITE, "the VM has no dirty rings");
    }
    let _slots = kvm.slots_lock.lock();
    let mut cleared = 0;
    // A signal ends it; what was done until then counts.
    let _ = kvm.vcpus().all(|vcpu| vcpu.reset_dirty(task, &mut cleared));
    Ok(i64::from(cleared))
}
