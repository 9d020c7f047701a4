//! Memory: slots, attributes, guest_memfd, and what the host does to it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use seamlock_kvm::file::Kind;
use seamlock_kvm::gmem::{FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, Gmem};
use seamlock_kvm::{Result, fallocate};
use seamlock_tdx_abi::kvm::*;
use seamlock_tdx_abi::{Gfn, PAGE_SIZE};

use crate::stress::client::MM;
use crate::stress::replay;
use crate::stress::worker::Worker;
use crate::stress::world::{GUEST_PAGES, Open, Vm, WINDOW_PAGES, WINDOWS, gpa_of};

type Done = Option<Result<i64>>;

/// guest_memfds of a VM at a time.
const GMEMS: usize = 2;
/// Memslots without a guest_memfd, which can be moved.
const PLAIN_SLOTS: u32 = 2;

pub(super) fn create_gmem(worker: &mut Worker, vm: &Arc<Vm>) -> Done {
    if vm.gmems.with(|gmems| gmems.len()) >= GMEMS {
        return None;
    }
    let size = GUEST_PAGES * PAGE_SIZE;
    let mut made = None;
    let result = worker.timed(|client| {
        let (fd, file) = client.gmem(&vm.open.file, size)?;
        made = Some(Open { fd, file });
        Ok(0)
    });
    if let Some(open) = made {
        if worker.is_current(vm) {
            vm.gmems.with(|gmems| gmems.push(open));
        } else {
            worker.close(&open);
        }
    }
    Some(result)
}

/// Creates, deletes, moves or changes a memslot.
pub(super) fn memslot(worker: &mut Worker, vm: &Arc<Vm>) -> Done {
    let region = if worker.rng.u32(..4) == 0 {
        plain(worker)
    } else {
        private(worker, vm)?
    };
    Some(worker.timed(|client| client.with(&vm.open.file, KVM_SET_USER_MEMORY_REGION2, &region)))
}

/// A window of private memory: made if it is not there, else taken away at times.
fn private(worker: &mut Worker, vm: &Arc<Vm>) -> Option<KvmUserspaceMemoryRegion2> {
    let window = worker.rng.u64(..WINDOWS);
    let gmem = worker.any_of(&vm.gmems)?;
    let mut region = replay::slot(window, gmem.fd, worker.rng.u64(..WINDOWS));
    let there = vm.kvm.memslots().of_id(0, window as u32).is_some();
    if there && worker.rng.u32(..8) == 0 {
        (region.memory_size, region.flags) = (0, 0);
    } else if there && worker.rng.u32(..4) != 0 {
        return None;
    }
    Some(region)
}

/// Shared memory, of one of two sizes, addresses and flags.
fn plain(worker: &mut Worker) -> KvmUserspaceMemoryRegion2 {
    let rng = &mut worker.rng;
    let slot = WINDOWS as u32 + rng.u32(..PLAIN_SLOTS);
    KvmUserspaceMemoryRegion2 {
        slot,
        flags: u32::from(rng.bool()) * KVM_MEM_LOG_DIRTY_PAGES,
        guest_phys_addr: 0xc000_0000 + rng.u64(..4) * 8 * PAGE_SIZE,
        memory_size: [0, 8, 8, 8, 8, 16][rng.usize(..6)] * PAGE_SIZE,
        userspace_addr: 0x2000_0000 + u64::from(slot) * (1 << 24),
        ..KvmUserspaceMemoryRegion2::default()
    }
}

/// Some pages of a window: the first and how many. Of two the one that was added last is the first.
fn range(rng: &mut fastrand::Rng, vm: &Vm) -> (u64, u64) {
    let first = match rng.bool() {
        true => vm.latest_page.load(Relaxed),
        false => rng.u64(..GUEST_PAGES),
    };
    let room = WINDOW_PAGES - first % WINDOW_PAGES;
    (first, rng.u64(1..=room.min(4)))
}

pub(super) fn attributes(worker: &mut Worker, vm: &Arc<Vm>) -> Done {
    let (first, pages) = range(&mut worker.rng, vm);
    let (first, pages, private) = match worker.rng.u32(..8) {
        0..4 => (first - first % WINDOW_PAGES, WINDOW_PAGES, true),
        4..6 => (first, pages, true),
        _ => (first, pages, false),
    };
    let (gpa, size) = (gpa_of(first).0, pages * PAGE_SIZE);
    Some(worker.timed(|client| client.attributes(&vm.open.file, gpa, size, private)))
}

/// The guest_memfd behind a guest page, and where in it; else any of the VM's.
fn behind(worker: &mut Worker, vm: &Vm, page: u64) -> Option<(Open, u64)> {
    let any = worker.any_of(&vm.gmems)?;
    let gfn = Gfn(gpa_of(page).0 / PAGE_SIZE);
    let slot = vm.kvm.memslots().of_gfn(gfn);
    let there = slot.and_then(|slot| {
        let file = slot.gmem_file()?;
        let all = vm.gmems.with(|gmems| gmems.clone());
        let open = all
            .into_iter()
            .find(|open| Arc::ptr_eq(&open.file, &file))?;
        Some((open, slot.gmem_index(gfn) * PAGE_SIZE))
    });
    Some(there.unwrap_or((any, page * PAGE_SIZE)))
}

fn change(worker: &mut Worker, vm: &Arc<Vm>, mode: i32) -> Done {
    let (first, pages) = range(&mut worker.rng, vm);
    let (gmem, at) = behind(worker, vm, first)?;
    let len = pages * PAGE_SIZE;
    Some(worker.timed(|client| {
        let task = client.task(MM);
        // By descriptor: it may be another file by now, which is a VMM's fault and must hurt nobody.
        fallocate(&task, gmem.fd, mode, at, len).map(|()| 0)
    }))
}

pub(super) fn punch_hole(worker: &mut Worker, vm: &Arc<Vm>) -> Done {
    change(worker, vm, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)
}

pub(super) fn allocate(worker: &mut Worker, vm: &Arc<Vm>) -> Done {
    change(worker, vm, FALLOC_FL_KEEP_SIZE)
}

/// The guest_memfd of a file.
pub fn gmem_of(open: &Open) -> Option<&Arc<Gmem>> {
    match open.file.kind() {
        Kind::Gmem(gmem) => Some(gmem),
        _ => None,
    }
}

/// Memory goes bad, rarely.
pub(super) fn memory_failure(worker: &mut Worker, vm: &Arc<Vm>) -> Done {
    if worker.rng.u32(..4) != 0 {
        return None;
    }
    let (page, _) = range(&mut worker.rng, vm);
    let (open, at) = behind(worker, vm, page)?;
    let gmem = gmem_of(&open)?;
    if !open.file.get() {
        return None;
    }
    let result = worker.timed(|client| {
        let task = client.task(MM);
        gmem.memory_failure(&task, at);
        open.file.put(&task);
        Ok(0)
    });
    Some(result)
}

/// User memory goes, and the MMU notifier tells KVM.
pub(super) fn munmap(worker: &mut Worker, vm: &Arc<Vm>) -> Done {
    if !vm.open.file.get() {
        return None;
    }
    let start = 0x1000_0000 + worker.rng.u64(..WINDOWS) * (1 << 24);
    let result = worker.timed(|client| {
        let task = client.task(MM);
        vm.kvm.mmu_notifier_invalidate(start, start + PAGE_SIZE);
        vm.open.file.put(&task);
        Ok(0)
    });
    Some(result)
}

pub(super) fn close_gmem(worker: &mut Worker, vm: &Arc<Vm>) -> Done {
    if worker.rng.u32(..4) != 0 {
        return None;
    }
    let at = worker.rng.usize(..);
    let open = vm.gmems.with(|gmems| {
        let len = gmems.len();
        (len != 0).then(|| gmems.swap_remove(at % len))
    })?;
    Some(worker.timed_close(&open))
}
