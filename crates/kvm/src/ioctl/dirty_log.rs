//! Dirty page tracking, as far as its refusals: a TD's private memory is never logged, and what shared
//! memory a guest writes is not seen here, so that a log is always clean.
//!
//! Source: Linux v7.3.4 `virt/kvm/kvm_main.c`.

use std::sync::Arc;

use seamlock_tdx_abi::kvm::{Errno, KVM_MEM_LOG_DIRTY_PAGES, KvmClearDirtyLog, KvmDirtyLog};

use crate::error::{Result, fail};
use crate::task::Task;
use crate::vm::{KVM_USER_MEM_SLOTS, Kvm, Slot};

type Vm = Arc<Kvm>;

fn logged_slot(kvm: &Kvm, slot: u32, first_page: u64, site: &'static str) -> Result<Arc<Slot>> {
    let (as_id, id) = (slot >> 16, slot & 0xffff);
    let address_spaces = if kvm.has_private_mem() { 1 } else { 2 };
    if as_id >= address_spaces || id >= KVM_USER_MEM_SLOTS {
        return fail(Errno::EINVAL, site, "no such address space or slot id");
    }
    if first_page & 63 != 0 {
        return fail(Errno::EINVAL, site, "first_page is not a multiple of 64");
    }
    let slot = kvm.memslots.of_id(as_id, id);
    match slot.filter(|slot| slot.flags & KVM_MEM_LOG_DIRTY_PAGES != 0) {
        Some(slot) => Ok(slot),
        None => fail(Errno::ENOENT, site, "no such slot, or it is not logged"),
    }
}

fn bitmap_bytes(pages: u64) -> usize {
    pages.div_ceil(64) as usize * 8
}

pub(super) fn get_dirty_log(task: &Task, kvm: &Vm, arg: u64) -> Result<i64> {
    const SITE: &str = "virt/kvm/kvm_main.c:2257 kvm_get_dirty_log_protect";
    let log: KvmDirtyLog = task.get(arg, SITE)?;
    let _slots = kvm.slots_lock.lock();
    let slot = logged_slot(kvm, log.slot, 0, SITE)?;
    task.put(
        log.dirty_bitmap,
        &vec![0u8; bitmap_bytes(slot.npages)][..],
        SITE,
    )?;
    Ok(0)
}

pub(super) fn clear_dirty_log(task: &Task, kvm: &Vm, arg: u64) -> Result<i64> {
    const SITE: &str = "virt/kvm/kvm_main.c:2367 kvm_clear_dirty_log_protect";
    let log: KvmClearDirtyLog = task.get(arg, SITE)?;
    let _slots = kvm.slots_lock.lock();
    let slot = logged_slot(kvm, log.slot, log.first_page, SITE)?;
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
    task.get_bytes(log.dirty_bitmap, &mut vec![0; bitmap_bytes(pages)], SITE)?;
    Ok(0)
}

/// KVM_CAP_DIRTY_LOG_RING is not offered, so that no VM has rings.
pub(super) fn reset_dirty_rings(_task: &Task, _kvm: &Vm, _arg: u64) -> Result<i64> {
    const SITE: &str = "virt/kvm/kvm_main.c:5037 kvm_vm_ioctl_reset_dirty_pages";
    fail(Errno::EINVAL, SITE, "the VM has no dirty rings")
}
