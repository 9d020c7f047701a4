//! ioctls of a VM.

use std::sync::Arc;

use seamlock_tdx_abi::kvm::{
    Errno, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, KvmClockData, KvmCreateDevice,
    KvmCreateGuestMemfd, KvmEnableCap, KvmEncRegion, KvmMemoryAttributes, KvmPmuEventFilter,
    KvmUserspaceMemoryRegion, KvmUserspaceMemoryRegion2,
};
use zerocopy::{FromZeros, IntoBytes};

use super::caps;
use crate::error::{Result, fail};
use crate::gmem;
use crate::task::Task;
use crate::tdx;
use crate::vcpu::kvm_vm_ioctl_create_vcpu;
use crate::vm::{KVM_MAX_VCPU_IDS, Kvm};

type Vm = Arc<Kvm>;

const SITE: &str = "virt/kvm/kvm_main.c:5205 kvm_vm_ioctl";
const ARCH_SITE: &str = "arch/x86/kvm/x86.c:4390 kvm_arch_vm_ioctl";

/// With TSC scaling a guest may go far above the host (`kvm_caps.max_guest_tsc_khz`).
pub(super) const MAX_GUEST_TSC_KHZ: u32 = i32::MAX as u32;

pub(super) fn check_extension(_task: &Task, kvm: &Vm, arg: u64) -> Result<i64> {
    Ok(caps::check_extension(&kvm.host, Some(kvm), arg))
}

pub(super) fn enable_cap(task: &Task, kvm: &Vm, arg: u64) -> Result<i64> {
    let cap: KvmEnableCap = task.get(arg, SITE)?;
    caps::enable_cap(kvm, &cap).map(|()| 0)
}

pub(super) fn create_vcpu(task: &Task, kvm: &Vm, arg: u64) -> Result<i64> {
    kvm_vm_ioctl_create_vcpu(task, kvm, arg)
}

pub(super) fn set_user_memory_region(task: &Task, kvm: &Vm, arg: u64) -> Result<i64> {
    let old: KvmUserspaceMemoryRegion = task.get(arg, SITE)?;
    if old.flags & !(KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY) != 0 {
        const SITE: &str = "virt/kvm/kvm_main.c:5256 kvm_vm_ioctl";
        return fail(
            Errno::EINVAL,
            SITE,
            "a flag that only SET_USER_MEMORY_REGION2 knows",
        );
    }
    let region = KvmUserspaceMemoryRegion2 {
        slot: old.slot,
        flags: old.flags,
        guest_phys_addr: old.guest_phys_addr,
        memory_size: old.memory_size,
        userspace_addr: old.userspace_addr,
        ..KvmUserspaceMemoryRegion2::new_zeroed()
    };
    crate::vm::set_memory_region(task, kvm, &region).map(|()| 0)
}

pub(super) fn set_user_memory_region2(task: &Task, kvm: &Vm, arg: u64) -> Result<i64> {
    let region: KvmUserspaceMemoryRegion2 = task.get(arg, SITE)?;
    crate::vm::set_memory_region(task, kvm, &region).map(|()| 0)
}

pub(super) fn set_memory_attributes(task: &Task, kvm: &Vm, arg: u64) -> Result<i64> {
    let attrs: KvmMemoryAttributes = task.get(arg, SITE)?;
    crate::vm::set_memory_attributes(task, kvm, &attrs).map(|()| 0)
}

pub(super) fn create_guest_memfd(task: &Task, kvm: &Vm, arg: u64) -> Result<i64> {
    let args: KvmCreateGuestMemfd = task.get(arg, SITE)?;
    gmem::create(task, kvm, &args)
}

/// `vt_mem_enc_ioctl`.
pub(super) fn memory_encrypt_op(task: &Task, kvm: &Vm, arg: u64) -> Result<i64> {
    if !kvm.is_td() {
        const SITE: &str = "arch/x86/kvm/vmx/main.c:855 vt_mem_enc_ioctl";
        return fail(Errno::ENOTTY, SITE, "the VM is no TD");
    }
    tdx::tdx_vm_ioctl(task, kvm, arg)
}

/// KVM_MEMORY_ENCRYPT_REG_REGION and its opposite: SEV's.
pub(super) fn memory_encrypt_region(task: &Task, _kvm: &Vm, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c:4698 kvm_arch_vm_ioctl";
    let _: KvmEncRegion = task.get(arg, SITE)?;
    fail(Errno::ENOTTY, SITE, "Intel has no such operation")
}

/// Frequency for vCPUs that are created later; 0 is the host's.
pub(super) fn set_tsc_khz(_task: &Task, kvm: &Vm, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c:4659 kvm_arch_vm_ioctl";
    let khz = arg as u32;
    if khz >= MAX_GUEST_TSC_KHZ {
        return fail(Errno::EINVAL, SITE, "beyond what TSC scaling reaches");
    }
    let _lock = kvm.lock.lock();
    if kvm.created_vcpus.load() != 0 {
        return fail(Errno::EINVAL, SITE, "the VM has vCPUs already");
    }
    let host = (kvm.host.module().platform().native_tsc_hz / 1000) as u32;
    kvm.arch
        .with(|arch| arch.default_tsc_khz = if khz == 0 { host } else { khz });
    Ok(0)
}

pub(super) fn get_tsc_khz(_task: &Task, kvm: &Vm, _arg: u64) -> Result<i64> {
    Ok(kvm.arch.with(|arch| i64::from(arch.default_tsc_khz)))
}

pub(super) fn set_tss_addr(_task: &Task, _kvm: &Vm, arg: u64) -> Result<i64> {
    if arg > u64::from(u32::MAX - 3 * 4096 + 1) {
        const SITE: &str = "arch/x86/kvm/x86.c:3909 kvm_vm_ioctl_set_tss_addr";
        return fail(
            Errno::EINVAL,
            SITE,
            "the three pages do not lie below 4 GiB",
        );
    }
    Ok(0)
}

pub(super) fn set_identity_map_addr(task: &Task, kvm: &Vm, arg: u64) -> Result<i64> {
    let _lock = kvm.lock.lock();
    if kvm.created_vcpus.load() != 0 {
        return fail(Errno::EINVAL, ARCH_SITE, "the VM has vCPUs already");
    }
    task.get::<u64>(arg, ARCH_SITE).map(|_| 0)
}

/// kvmclock stands still: no clock is read.
pub(super) fn get_clock(task: &Task, _kvm: &Vm, arg: u64) -> Result<i64> {
    task.put(
        arg,
        &KvmClockData::default(),
        "arch/x86/kvm/x86.c kvm_vm_ioctl_get_clock",
    )?;
    Ok(0)
}

pub(super) fn set_clock(task: &Task, _kvm: &Vm, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c kvm_vm_ioctl_set_clock";
    let data: KvmClockData = task.get(arg, SITE)?;
    if data.flags & !14 != 0 {
        return fail(Errno::EINVAL, SITE, "an unknown flag is set");
    }
    Ok(0)
}

pub(super) fn set_boot_cpu_id(_task: &Task, kvm: &Vm, arg: u64) -> Result<i64> {
    let _lock = kvm.lock.lock();
    if kvm.created_vcpus.load() != 0 {
        return fail(Errno::EBUSY, ARCH_SITE, "the VM has vCPUs already");
    }
    kvm.arch.with(|arch| {
        let max = u64::from(arch.max_vcpu_ids);
        if arg > u64::from(KVM_MAX_VCPU_IDS) || (max != 0 && arg > max) {
            return fail(Errno::EINVAL, ARCH_SITE, "beyond the highest vCPU id");
        }
        arch.bsp_vcpu_id = arg as u32;
        Ok(0)
    })
}

pub(super) fn coalesced_mmio(task: &Task, _kvm: &Vm, arg: u64) -> Result<i64> {
    const SITE: &str = "virt/kvm/coalesced_mmio.c kvm_vm_ioctl_register_coalesced_mmio";
    let [_, _, _, pio]: [u32; 4] = task.get(arg, SITE)?;
    if pio > 1 {
        return fail(Errno::EINVAL, SITE, "pio is neither 0 nor 1");
    }
    Ok(0)
}

/// `kvm_ioctl_create_device`, of a kernel that has no VFIO: there is no other device on x86.
pub(super) fn create_device(task: &Task, _kvm: &Vm, arg: u64) -> Result<i64> {
    const SITE: &str = "virt/kvm/kvm_main.c kvm_ioctl_create_device";
    task.get::<KvmCreateDevice>(arg, SITE)?;
    fail(Errno::ENODEV, SITE, "no such type of device")
}

/// Shadow pages that KVM may have at least; nothing here has any.
pub(super) fn set_nr_mmu_pages(_task: &Task, kvm: &Vm, arg: u64) -> Result<i64> {
    const KVM_MIN_ALLOC_MMU_PAGES: u64 = 64;
    if arg < KVM_MIN_ALLOC_MMU_PAGES {
        const SITE: &str = "arch/x86/kvm/x86.c:3920 kvm_vm_ioctl_set_nr_mmu_pages";
        return fail(Errno::EINVAL, SITE, "fewer than KVM_MIN_ALLOC_MMU_PAGES");
    }
    let _slots = kvm.slots_lock.lock();
    Ok(0)
}

/// `kvm_vm_ioctl_set_pmu_event_filter`. The PMU of a TD is the module's, so nothing comes of it.
pub(super) fn set_pmu_event_filter(task: &Task, kvm: &Vm, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/pmu.c:1243 kvm_vm_ioctl_set_pmu_event_filter";
    const MAX_EVENTS: u32 = 300;
    let filter: KvmPmuEventFilter = task.get(arg, SITE)?;
    if filter.action > 1 || filter.flags > 1 {
        return fail(Errno::EINVAL, SITE, "an unknown action or flag");
    }
    if filter.nevents > MAX_EVENTS {
        return fail(Errno::E2BIG, SITE, "more than 300 events");
    }
    let mut events = vec![0u64; filter.nevents as usize];
    let at = arg.wrapping_add(size_of::<KvmPmuEventFilter>() as u64);
    task.get_bytes(at, events.as_mut_bytes(), SITE)?;
    // Event, unit mask, its mask, and EXCLUDE.
    const MASKED_ENTRY: u64 = 0xff80_0000_0000_ffff;
    if filter.flags == 1 && events.iter().any(|event| event & !MASKED_ENTRY != 0) {
        return fail(Errno::EINVAL, SITE, "a masked event has an unknown bit");
    }
    let _lock = kvm.lock.lock();
    Ok(0)
}
