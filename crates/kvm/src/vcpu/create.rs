//! KVM_CREATE_VCPU.
//!
//! # Locking
//! v7.3: `kvm->lock` from start to end, and `vcpu->mutex` while the vCPU becomes reachable.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use seamlock_tdx_abi::kvm::{
    Errno, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED, KVM_X86_QUIRK_STUFF_FEATURE_MSRS,
};

use super::registers::VmxMsrs;
use super::{Registers, Vcpu, VcpuRef, VcpuTdState};
use crate::discipline::CreateVcpu;
use crate::error::{Error, Result, fail};
use crate::file::{File, Kind};
use crate::task::Task;
use crate::tdx::TdState;
use crate::vm::{Irqchip, KVM_MAX_VCPU_IDS, Kvm};

const SITE: &str = "virt/kvm/kvm_main.c:4214 kvm_vm_ioctl_create_vcpu";

/// Creates the vCPU `id` and returns its descriptor.
///
/// # Errors
/// EINVAL, EEXIST, EIO, EMFILE; each names its check.
pub(crate) fn kvm_vm_ioctl_create_vcpu(task: &Task, kvm: &Arc<Kvm>, id: u64) -> Result<i64> {
    match kvm.discipline.create_vcpu {
        CreateVcpu::UnderKvmLock => under_kvm_lock(task, kvm, id),
        CreateVcpu::UnlockedMiddle => unlocked_middle(task, kvm, id),
    }
}

fn under_kvm_lock(task: &Task, kvm: &Arc<Kvm>, id: u64) -> Result<i64> {
    let _lock = kvm.lock.lock();
    let id = check_id(id)?;
    check_room(kvm)?;
    check_duplicate(kvm, id)?;
    precreate(kvm, id)?;
    kvm.created_vcpus.fetch_add(1);
    let published = build(task, kvm, id).and_then(|vcpu| {
        let fd = publish(task, kvm, &vcpu);
        fd.inspect_err(|_| destroy_unborn(kvm, &vcpu))
            .map(|fd| (vcpu, fd))
    });
    finish(task, kvm, published)
}

/// Until v7.2: the vCPU is built without `kvm->lock`, and a duplicate id is found last.
fn unlocked_middle(task: &Task, kvm: &Arc<Kvm>, id: u64) -> Result<i64> {
    let id = check_id(id)?;
    {
        let _lock = kvm.lock.lock();
        check_room(kvm)?;
        precreate(kvm, id)?;
        kvm.created_vcpus.fetch_add(1);
    }
    let published = build(task, kvm, id).and_then(|vcpu| {
        let fd = {
            let _lock = kvm.lock.lock();
            check_duplicate(kvm, id).and_then(|()| publish(task, kvm, &vcpu))
        };
        fd.inspect_err(|_| destroy_unborn(kvm, &vcpu))
            .map(|fd| (vcpu, fd))
    });
    let _lock = published.is_err().then(|| kvm.lock.lock());
    finish(task, kvm, published)
}

/// The last step of both forms: the vCPU's descriptor, or the count goes back.
fn finish(task: &Task, kvm: &Kvm, vcpu: Result<(VcpuRef, i32)>) -> Result<i64> {
    match vcpu {
        Ok((vcpu, fd)) => {
            postcreate(task, &vcpu);
            Ok(i64::from(fd))
        }
        Err(error) => {
            kvm.created_vcpus.fetch_sub(1);
            Err(error)
        }
    }
}

fn check_id(id: u64) -> Result<u32> {
    if id >= u64::from(KVM_MAX_VCPU_IDS) {
        return fail(Errno::EINVAL, SITE, "id is not below KVM_MAX_VCPU_IDS");
    }
    Ok(id as u32)
}

fn check_room(kvm: &Kvm) -> Result<()> {
    if kvm.created_vcpus.load() >= kvm.arch.with(|arch| arch.max_vcpus) {
        return fail(Errno::EINVAL, SITE, "the VM has its most vCPUs");
    }
    Ok(())
}

fn check_duplicate(kvm: &Kvm, id: u32) -> Result<()> {
    if kvm.vcpu_by_id(id).is_some() {
        return fail(Errno::EEXIST, SITE, "the id is taken");
    }
    Ok(())
}

/// `kvm_arch_vcpu_precreate`.
fn precreate(kvm: &Kvm, id: u32) -> Result<()> {
    let max = kvm.arch.with(|arch| {
        if arch.max_vcpu_ids == 0 {
            arch.max_vcpu_ids = KVM_MAX_VCPU_IDS;
        }
        arch.max_vcpu_ids
    });
    if id >= max {
        const SITE: &str = "arch/x86/kvm/x86.c:9337 kvm_arch_vcpu_precreate";
        return fail(Errno::EINVAL, SITE, "id is not below KVM_CAP_MAX_VCPU_ID");
    }
    Ok(())
}

/// Allocation and `kvm_arch_vcpu_create`, which loads the vCPU once.
fn build(task: &Task, kvm: &Arc<Kvm>, id: u32) -> Result<VcpuRef> {
    let ring_bytes = kvm.arch.with(|arch| arch.dirty_ring_size);
    let run = task.files().run_page(ring_bytes);
    let vcpu = kvm.birth.with(|()| {
        let vcpu = Arc::new(Vcpu::new(kvm, kvm.born.len(), id, (run, ring_bytes)));
        kvm.born.push(vcpu.clone());
        vcpu
    });
    let vcpu = VcpuRef::new(kvm.clone(), vcpu);
    let (irqchip, bsp) = kvm.arch.with(|arch| (arch.irqchip, arch.bsp_vcpu_id));
    let runnable = irqchip == Irqchip::None || id == bsp;
    vcpu.set_mp_state(if runnable {
        KVM_MP_STATE_RUNNABLE
    } else {
        KVM_MP_STATE_UNINITIALIZED
    });
    let has_registers = !kvm.is_td() && kvm.host.arch().has_x86_tables();
    let in_kernel = irqchip != Irqchip::None;
    let unstuffed = kvm.has_quirk_disabled(KVM_X86_QUIRK_STUFF_FEATURE_MSRS);
    let vmx = match unstuffed {
        true => VmxMsrs::default(),
        false => VmxMsrs::supported(kvm.host.module().platform()),
    };
    let registers = has_registers.then(|| Registers::reset(id, id == bsp, in_kernel, vmx));
    vcpu.reset(id == bsp, unstuffed, registers);
    if kvm.is_td() {
        tdx_vcpu_create(kvm, &vcpu)?;
    }
    kvm.host.arch().kvm_arch_vcpu_create(task, kvm, &vcpu)?;
    let tsc_khz = kvm.arch.with(|arch| arch.default_tsc_khz);
    vcpu.state.with(|state| state.tsc_khz = tsc_khz);
    drop(vcpu.load(task));
    Ok(vcpu)
}

/// `tdx_vcpu_create`.
fn tdx_vcpu_create(kvm: &Kvm, vcpu: &Vcpu) -> Result<()> {
    const SITE: &str = "tdx.c:673 tdx_vcpu_create";
    if kvm.tdx.state() != TdState::Initialized {
        return fail(
            Errno::EIO,
            SITE,
            "the TD is not initialized, or finalized already",
        );
    }
    if kvm.arch.with(|arch| arch.irqchip) != Irqchip::Split {
        return fail(Errno::EINVAL, SITE, "a TD needs KVM_CAP_SPLIT_IRQCHIP");
    }
    vcpu.set_td_state(VcpuTdState::Uninitialized);
    Ok(())
}

/// Puts the vCPU into the array and gives it a descriptor; only then it is online.
fn publish(task: &Task, kvm: &Arc<Kvm>, vcpu: &VcpuRef) -> Result<i32> {
    let idx = kvm.online_vcpus.load();
    vcpu.idx.store(i64::from(idx), SeqCst);
    kvm.vcpu_array.with(|array| array.push(vcpu.born_at));
    let mutex = vcpu.mutex.lock();
    kvm.get();
    match task.files().install(&File::new(Kind::Vcpu(vcpu.clone()))) {
        Ok(fd) => {
            kvm.online_vcpus.fetch_add(1);
            drop(mutex);
            Ok(fd)
        }
        Err(errno) => {
            drop(mutex);
            // The creating ioctl holds the VM, so this is not its last reference.
            kvm.users_count.fetch_sub(1);
            kvm.vcpu_array.with(|array| array.pop());
            vcpu.idx.store(-1, SeqCst);
            Err(Error::new(errno, SITE, "no descriptor is free"))
        }
    }
}

/// `kvm_arch_vcpu_destroy` of a vCPU that never became reachable (`tdx_vcpu_free` with the HKID
/// assigned). To v6.16 it stays on the list of the CPU that it was loaded on, and its memory is freed.
fn destroy_unborn(kvm: &Kvm, vcpu: &Vcpu) {
    kvm.host.arch().kvm_arch_vcpu_destroy(kvm, vcpu);
    if !kvm.is_td() {
        return;
    }
    if kvm.discipline.vcpu_free_disassociates {
        vcpu.flush_on_cpu(kvm);
    } else if let Ok(cpu) = usize::try_from(vcpu.cpu())
        && let Some(there) = kvm.host.cpus().get(cpu)
    {
        there.freed_while_listed(vcpu.listed());
    }
}

/// `kvm_arch_vcpu_postcreate`; skipped when a fatal signal ends the wait.
fn postcreate(task: &Task, vcpu: &VcpuRef) {
    if let Ok(_mutex) = vcpu.mutex.lock_killable(None, || task.killed()) {
        drop(vcpu.load(task));
    }
}
