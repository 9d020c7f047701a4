//! Faults: those of KVM_PRE_FAULT_MEMORY, and what a guest's access comes to.
//!
//! # Locking
//! `vcpu->mutex` is held by the dispatcher. Memslots are read under `kvm->srcu`; a page enters the mirror
//! under `mmu_lock` for reading.

use seamlock_tdx_abi::kvm::{Errno, KVM_MEMORY_EXIT_FLAG_PRIVATE, KvmPreFaultMemory};
use seamlock_tdx_abi::{Gfn, Gpa, PAGE_SIZE};

use super::exit::prepare_memory_fault;
use super::{Vcpu, VcpuRef, VcpuTdState};
use crate::discipline::InvalidSlot;
use crate::error::{Error, Result, fail};
use crate::gmem;
use crate::locks::cells;
use crate::mmu::{self, InTheWay, Leaf, Mapped};
use crate::task::Task;
use crate::vm::{Kvm, Slot};

/// KVM_PRE_FAULT_MEMORY: maps the range, page by page. The rest of the range is given back; success
/// when at least one page was mapped.
pub(crate) fn kvm_vcpu_pre_fault_memory(
    task: &Task,
    vcpu: &VcpuRef,
    range: &mut KvmPreFaultMemory,
) -> Result<()> {
    const SITE: &str = "virt/kvm/kvm_main.c:4392 kvm_vcpu_pre_fault_memory";
    if range.flags != 0 {
        return fail(Errno::EINVAL, SITE, "flags are not zero");
    }
    let aligned = range.gpa.is_multiple_of(PAGE_SIZE) && range.size.is_multiple_of(PAGE_SIZE);
    if !aligned || range.gpa.wrapping_add(range.size) <= range.gpa {
        return fail(
            Errno::EINVAL,
            SITE,
            "the range is not page aligned, empty or wraps",
        );
    }
    let _loaded = vcpu.load(task);
    let _srcu = vcpu.kvm().srcu.read();
    let full = range.size;
    let mut result = Ok(());
    while range.size != 0 {
        result = if task.signal_pending() {
            fail(Errno::EINTR, SITE, "a signal is pending")
        } else {
            pre_fault_page(task, vcpu.kvm(), vcpu, range.gpa)
        };
        if result.is_err() {
            break;
        }
        range.gpa += PAGE_SIZE;
        range.size -= PAGE_SIZE;
        task.resched();
    }
    if range.size == full { result } else { Ok(()) }
}

/// `kvm_arch_vcpu_pre_fault_memory` of one page. Its attributes say which half of the guest's memory is
/// meant.
fn pre_fault_page(task: &Task, kvm: &Kvm, vcpu: &Vcpu, gpa: u64) -> Result<()> {
    const SITE: &str = "arch/x86/kvm/mmu/mmu.c:5104 kvm_arch_vcpu_pre_fault_memory";
    if !kvm.pre_fault_allowed.load() {
        return fail(Errno::EOPNOTSUPP, SITE, "the TD is not finalized");
    }
    if !kvm.tdx.is_private_gpa(gpa) {
        return fail(Errno::EINVAL, SITE, "the address has the shared bit");
    }
    let seal = kvm.discipline.seal;
    if seal.prefault_wants_init && kvm.is_td() && vcpu.td_state() != VcpuTdState::Initialized {
        const SITE: &str = "seamlock: docs/findings.md F10";
        return fail(Errno::EINVAL, SITE, "the module does not know the vCPU");
    }
    mmu::kvm_mmu_reload(task, kvm, vcpu)?;
    let private = kvm.is_td() && kvm.attributes.is_private(Gpa(gpa).gfn());
    kvm_tdp_page_prefault(task, kvm, vcpu, Gpa(gpa), private)
}

/// `kvm_tdp_page_prefault`, to v6.16 `kvm_tdp_map_page`: simulated faults until one is not to be
/// retried.
pub(crate) fn kvm_tdp_page_prefault(
    task: &Task,
    kvm: &Kvm,
    vcpu: &Vcpu,
    gpa: Gpa,
    private: bool,
) -> Result<()> {
    const SITE: &str = "arch/x86/kvm/mmu/mmu.c:5051 kvm_tdp_page_prefault";
    loop {
        if task.signal_pending() {
            return fail(Errno::EINTR, SITE, "a signal is pending");
        }
        if vcpu.is_vm_dead_requested() {
            return fail(Errno::EIO, SITE, "the VM is dead");
        }
        task.resched();
        match kvm_mmu_do_page_fault(task, kvm, vcpu, gpa, private)? {
            Mapped::Retry(busy) => busy.relax(),
            Mapped::Fixed | Mapped::Spurious => return Ok(()),
            Mapped::Emulate => return fail(Errno::ENOENT, SITE, "no memslot is at this address"),
            Mapped::NoMemory => return Err(mmu::no_memory()),
        }
    }
}

/// `kvm_mmu_do_page_fault`: one fault, at an address without the shared bit. What user space has to know
/// of a fault that can't be served is in `struct kvm_run` afterwards.
pub(super) fn kvm_mmu_do_page_fault(
    task: &Task,
    kvm: &Kvm,
    vcpu: &Vcpu,
    gpa: Gpa,
    private: bool,
) -> Result<Mapped> {
    const SITE: &str = "arch/x86/kvm/mmu/mmu.c:4718 kvm_mmu_faultin_pfn";
    let gfn = gpa.gfn();
    let seq = kvm.mirror.seq();
    let told = |error: Error| {
        let flags = if private {
            KVM_MEMORY_EXIT_FLAG_PRIVATE
        } else {
            0
        };
        prepare_memory_fault(vcpu, gpa.0, flags);
        error
    };
    if private != (kvm.is_td() && kvm.attributes.is_private(gfn)) {
        let reason = match private {
            true => "the guest uses memory as private that is not",
            false => "the guest uses private memory as shared",
        };
        return Err(told(Error::new(Errno::EFAULT, SITE, reason)));
    }
    let Some(slot) = kvm.memslots.of_gfn(gfn) else {
        if !private {
            return Ok(Mapped::Emulate);
        }
        const SITE: &str = "arch/x86/kvm/mmu/mmu.c:3582 kvm_handle_noslot_fault";
        let reason = "no memslot is at a private address";
        return Err(told(Error::new(Errno::EFAULT, SITE, reason)));
    };
    if slot.invalid {
        return invalid_slot(kvm);
    }
    if !private && !slot.gmem_only {
        return fault_in_user_page(task, &slot, gfn);
    }
    let page = gmem::kvm_gmem_get_pfn(task, kvm, &slot, gfn).map_err(told)?;
    if !private {
        // The shared EPT is the host's own and not modelled.
        return Ok(Mapped::Fixed);
    }
    let mmu = kvm.mmu_lock.read();
    if kvm.mirror.is_stale(seq) {
        return Ok(Mapped::Retry(kvm.mirror.invalidation()));
    }
    let leaf = Leaf { gfn: gfn.0, page };
    Ok(mmu::kvm_tdp_mmu_map(task, kvm, vcpu, leaf, &mmu))
}

/// A fault in a memslot that is being deleted or moved.
fn invalid_slot(kvm: &Kvm) -> Result<Mapped> {
    const SITE: &str = "arch/x86/kvm/mmu/mmu.c:4734 kvm_mmu_faultin_pfn";
    match kvm.discipline.invalid_slot {
        InvalidSlot::Retries => {
            let memslots = cells::MEMSLOTS.at(kvm.number);
            Ok(Mapped::Retry(InTheWay::Cell(memslots)))
        }
        InvalidSlot::GivesUp => {
            const WHY: &str = "the memslot is being deleted or moved";
            fail(Errno::EAGAIN, SITE, WHY)
        }
    }
}

/// `__kvm_faultin_pfn` of shared memory outside of a guest_memfd. What is there needs nothing: the
/// shared EPT is the host's own and not modelled.
fn fault_in_user_page(task: &Task, slot: &Slot, gfn: Gfn) -> Result<Mapped> {
    const SITE: &str = "arch/x86/kvm/mmu/mmu.c:3555 kvm_handle_error_pfn";
    let hva = slot.userspace_addr + (gfn.0 - slot.base_gfn) * PAGE_SIZE;
    task.get::<u8>(hva, SITE).map(|_| Mapped::Fixed)
}
