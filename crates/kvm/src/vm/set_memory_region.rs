//! KVM_SET_USER_MEMORY_REGION and KVM_SET_USER_MEMORY_REGION2.
//!
//! # Locking
//! `slots_lock` throughout; `slots_arch_lock` until the new set is active; then `synchronize_srcu`;
//! `mmu_lock` for write around the zap; `filemap_invalidate_lock` around binding and unbinding.

use std::sync::Arc;

use seamlock_sync::Private;
use seamlock_tdx_abi::PAGE_SIZE;
use seamlock_tdx_abi::kvm::{
    Errno, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_INITIALLY_SET, KVM_MEM_GUEST_MEMFD,
    KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, KvmUserspaceMemoryRegion2,
};

use super::memslots::{Change, KVM_MEM_MAX_NR_PAGES, KVM_USER_MEM_SLOTS, Slot};
use super::{DirtyBitmap, Kvm};
use crate::error::{Result, fail};
use crate::file::File;
use crate::gmem;
use crate::task::Task;

/// What user addresses may not reach (`access_ok` with 47-bit user space).
const TASK_SIZE_MAX: u64 = (1 << 47) - PAGE_SIZE;

/// Changes memslots as `mem` says.
///
/// # Errors
/// EINVAL, EEXIST, EBADF, ENOMEM; each names its check.
pub(crate) fn set_memory_region(
    task: &Task,
    kvm: &Arc<Kvm>,
    mem: &KvmUserspaceMemoryRegion2,
) -> Result<()> {
    if mem.slot & 0xffff >= KVM_USER_MEM_SLOTS {
        const SITE: &str = "virt/kvm/kvm_main.c:2179 kvm_vm_ioctl_set_memory_region";
        return fail(Errno::EINVAL, SITE, "slot id beyond KVM_USER_MEM_SLOTS");
    }
    let _slots = kvm.slots_lock.lock();
    check_flags(kvm, mem)?;
    check_ranges(kvm, mem)?;
    let old = kvm.memslots.of_id(mem.slot >> 16, mem.slot & 0xffff);
    let Some((change, new)) = decide(task, kvm, mem, old.as_ref())? else {
        return Ok(());
    };
    let result = set_memslot(
        task,
        kvm,
        old.as_ref(),
        new.as_ref().map(|n| &n.slot),
        change,
    );
    if let Some(New {
        file: Some(file), ..
    }) = &new
    {
        // The file pins the VM, not the other way round.
        file.fput(task);
    }
    result
}

fn check_flags(kvm: &Kvm, mem: &KvmUserspaceMemoryRegion2) -> Result<()> {
    const SITE: &str = "virt/kvm/kvm_main.c:1590 check_memory_region_flags";
    let gmem = mem.flags & KVM_MEM_GUEST_MEMFD != 0;
    let mut valid = KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_GUEST_MEMFD;
    if gmem {
        valid &= !KVM_MEM_LOG_DIRTY_PAGES;
    } else if !kvm.is_td() {
        valid |= KVM_MEM_READONLY;
    }
    if mem.flags & !valid != 0 {
        return fail(
            Errno::EINVAL,
            SITE,
            "a flag is unknown or not allowed for this VM and slot",
        );
    }
    Ok(())
}

fn check_ranges(kvm: &Kvm, mem: &KvmUserspaceMemoryRegion2) -> Result<()> {
    const SITE: &str = "virt/kvm/kvm_main.c:2042 kvm_set_memory_region";
    let aligned = |v: u64| v.is_multiple_of(PAGE_SIZE);
    let size = mem.memory_size;
    if !aligned(size) || !aligned(mem.guest_phys_addr) {
        return fail(
            Errno::EINVAL,
            SITE,
            "size or guest address is not page aligned",
        );
    }
    let user_end = mem.userspace_addr.checked_add(size);
    if !aligned(mem.userspace_addr) || user_end.is_none_or(|end| end > TASK_SIZE_MAX) {
        return fail(
            Errno::EINVAL,
            SITE,
            "user address is not page aligned or not a user address",
        );
    }
    let offset = mem.guest_memfd_offset;
    let gmem = mem.flags & KVM_MEM_GUEST_MEMFD != 0;
    if gmem && (!aligned(offset) || offset.checked_add(size).is_none()) {
        return fail(
            Errno::EINVAL,
            SITE,
            "guest_memfd offset is not page aligned or wraps",
        );
    }
    let address_spaces = if kvm.has_private_mem() { 1 } else { 2 };
    if mem.slot >> 16 >= address_spaces {
        return fail(Errno::EINVAL, SITE, "no such address space");
    }
    if mem.guest_phys_addr.checked_add(size).is_none() {
        return fail(Errno::EINVAL, SITE, "the guest range wraps");
    }
    if size / PAGE_SIZE > KVM_MEM_MAX_NR_PAGES {
        return fail(Errno::EINVAL, SITE, "more than KVM_MEM_MAX_NR_PAGES");
    }
    Ok(())
}

struct New {
    slot: Arc<Slot>,
    file: Option<Arc<File>>,
}

/// What to do and the new slot; None when nothing changes.
fn decide(
    task: &Task,
    kvm: &Arc<Kvm>,
    mem: &KvmUserspaceMemoryRegion2,
    old: Option<&Arc<Slot>>,
) -> Result<Option<(Change, Option<New>)>> {
    const SITE: &str = "virt/kvm/kvm_main.c:2080 kvm_set_memory_region";
    if mem.memory_size == 0 {
        return match old {
            None => fail(Errno::EINVAL, SITE, "there is no slot to delete"),
            Some(_) => Ok(Some((Change::Delete, None))),
        };
    }
    let base_gfn = mem.guest_phys_addr / PAGE_SIZE;
    let npages = mem.memory_size / PAGE_SIZE;
    let change = match old {
        None => Change::Create,
        Some(old) => match modification(mem, old)? {
            None => return Ok(None),
            Some(change) => change,
        },
    };
    if matches!(change, Change::Create | Change::Move) {
        let id = mem.slot & 0xffff;
        let overlap = kvm
            .memslots
            .in_range(mem.slot >> 16, base_gfn, base_gfn + npages);
        if overlap.iter().any(|slot| slot.id != id) {
            return fail(
                Errno::EEXIST,
                "virt/kvm/kvm_main.c:2119",
                "overlaps another slot",
            );
        }
    }
    let mut new = Slot {
        vm: kvm.number,
        id: mem.slot & 0xffff,
        as_id: mem.slot >> 16,
        base_gfn,
        npages,
        flags: mem.flags,
        userspace_addr: mem.userspace_addr,
        gmem_pgoff: 0,
        gmem_only: false,
        invalid: false,
        dirty: dirty_bitmap(kvm, mem, old),
        gmem_file: Private::default(),
    };
    let mut file = None;
    if change == Change::Create && new.has_gmem() {
        let backing = gmem::prepare_memory_region(task, kvm, mem)?;
        new.gmem_pgoff = mem.guest_memfd_offset / PAGE_SIZE;
        new.gmem_only = gmem::supports_mmap(&backing);
        new.gmem_file = Private::new(Some(Arc::downgrade(&backing)));
        file = Some(backing);
    }
    Ok(Some((
        change,
        Some(New {
            slot: Arc::new(new),
            file,
        }),
    )))
}

/// `kvm_prepare_memory_region`: a slot that was logged keeps its log.
fn dirty_bitmap(
    kvm: &Kvm,
    mem: &KvmUserspaceMemoryRegion2,
    old: Option<&Arc<Slot>>,
) -> Option<Arc<DirtyBitmap>> {
    if mem.flags & KVM_MEM_LOG_DIRTY_PAGES == 0 {
        return None;
    }
    let (ring, manual) = kvm.arch.with(|arch| {
        let manual = arch.enabled(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
        (arch.dirty_ring_size, manual.unwrap_or(0))
    });
    let pages = mem.memory_size / PAGE_SIZE;
    let new = || DirtyBitmap::new(pages, manual & KVM_DIRTY_LOG_INITIALLY_SET != 0);
    let kept = old.and_then(|old| old.dirty.clone());
    kept.or_else(|| (ring == 0).then(|| new().into()))
}

fn modification(mem: &KvmUserspaceMemoryRegion2, old: &Slot) -> Result<Option<Change>> {
    const SITE: &str = "virt/kvm/kvm_main.c:2104 kvm_set_memory_region";
    if mem.flags & KVM_MEM_GUEST_MEMFD != 0 {
        return fail(
            Errno::EINVAL,
            SITE,
            "a slot with guest_memfd can only be deleted",
        );
    }
    let fixed = KVM_MEM_READONLY | KVM_MEM_GUEST_MEMFD;
    if mem.userspace_addr != old.userspace_addr
        || mem.memory_size / PAGE_SIZE != old.npages
        || (mem.flags ^ old.flags) & fixed != 0
    {
        return fail(
            Errno::EINVAL,
            SITE,
            "user address, size or kind of an existing slot differ",
        );
    }
    if mem.guest_phys_addr / PAGE_SIZE != old.base_gfn {
        Ok(Some(Change::Move))
    } else if mem.flags != old.flags {
        Ok(Some(Change::FlagsOnly))
    } else {
        Ok(None)
    }
}

/// `__x86_set_memory_region`: makes or deletes a slot of KVM's own, of one page. Under `slots_lock`.
///
/// # Errors
/// EEXIST when the frame is another slot's.
pub(crate) fn set_internal_memslot(
    task: &Task,
    kvm: &Arc<Kvm>,
    slot: u32,
    gfn: Option<u64>,
) -> Result<()> {
    let mut mem = KvmUserspaceMemoryRegion2 {
        slot,
        ..Default::default()
    };
    if let Some(gfn) = gfn {
        mem.guest_phys_addr = gfn * PAGE_SIZE;
        mem.memory_size = PAGE_SIZE;
    }
    let old = kvm.memslots.of_id(0, slot);
    let Some((change, new)) = decide(task, kvm, &mem, old.as_ref())? else {
        return Ok(());
    };
    set_memslot(
        task,
        kvm,
        old.as_ref(),
        new.as_ref().map(|n| &n.slot),
        change,
    )
}

/// `kvm_set_memslot`: for DELETE and MOVE the old slot is made invalid and zapped first.
fn set_memslot(
    task: &Task,
    kvm: &Kvm,
    old: Option<&Arc<Slot>>,
    new: Option<&Arc<Slot>>,
    change: Change,
) -> Result<()> {
    let arch = kvm.slots_arch_lock.lock();
    if let (Change::Delete | Change::Move, Some(old)) = (change, old) {
        let invalid = Arc::new(old.invalidated());
        kvm.memslots.replace(Some(old), Some(invalid.clone()));
        drop(arch);
        kvm.srcu.synchronize();
        zap_memslot(task, kvm, old);
        let arch = kvm.slots_arch_lock.lock();
        if let Err(error) = prepare(kvm, new, change) {
            kvm.memslots.replace(Some(&invalid), Some(old.clone()));
            drop(arch);
            kvm.srcu.synchronize();
            return Err(error);
        }
        kvm.memslots.replace(Some(&invalid), new.cloned());
        drop(arch);
        kvm.srcu.synchronize();
        if change == Change::Delete {
            gmem::unbind(old);
        }
        return Ok(());
    }
    prepare(kvm, new, change)?;
    if let (Change::Create, Some(new)) = (change, new) {
        gmem::commit_memory_region(new)?;
    }
    kvm.memslots.replace(old, new.cloned());
    drop(arch);
    kvm.srcu.synchronize();
    Ok(())
}

/// `kvm_arch_prepare_memory_region`.
fn prepare(kvm: &Kvm, new: Option<&Arc<Slot>>, change: Change) -> Result<()> {
    const SITE: &str = "arch/x86/kvm/x86.c:10216 kvm_arch_prepare_memory_region";
    let (Change::Create | Change::Move, Some(new)) = (change, new) else {
        return Ok(());
    };
    let last = new.end_gfn() - 1;
    if last > kvm.max_gfn() {
        return fail(
            Errno::EINVAL,
            SITE,
            "the slot ends beyond the host's MAXPHYADDR",
        );
    }
    if kvm.tdx.is_shared_gfn(last) {
        return fail(
            Errno::EINVAL,
            SITE,
            "the slot ends in the shared half of the GPA space",
        );
    }
    Ok(())
}

/// `kvm_arch_flush_shadow_memslot`: a TD zaps the leaves of the slot, and nothing else.
fn zap_memslot(task: &Task, kvm: &Kvm, slot: &Slot) {
    let mmu = kvm.mmu_lock.write();
    kvm.zap_gfn_range(task, &mmu, slot.base_gfn, slot.end_gfn());
}
