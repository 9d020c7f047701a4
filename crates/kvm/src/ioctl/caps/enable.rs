//! KVM_ENABLE_CAP of a VM.

use seamlock_tdx_abi::kvm::*;

use super::{
    DIRTY_LOG_MANUAL_CAPS, DISABLE_EXITS, HYPERCALL_MASK, MAX_IRQ_ROUTES, MOST_RING_BYTES, QUIRKS,
};
use crate::error::{Result, fail};
use crate::vm::{Irqchip, KVM_MAX_VCPU_IDS, Kvm};

/// `KVM_MSR_EXIT_REASON_VALID_MASK`.
const MSR_EXIT_MASK: u64 = 7;

const SITE: &str = "arch/x86/kvm/x86.c:3951 kvm_vm_ioctl_enable_cap";

/// `kvm_vm_ioctl_enable_cap_generic`.
pub(in crate::ioctl) fn enable_cap(kvm: &Kvm, cap: &KvmEnableCap) -> Result<()> {
    let arg = cap.args[0];
    // The only one whose flags nobody looks at.
    if matches!(
        cap.cap,
        KVM_CAP_DIRTY_LOG_RING | KVM_CAP_DIRTY_LOG_RING_ACQ_REL
    ) {
        return dirty_log_ring(kvm, arg as u32);
    }
    if cap.flags != 0 {
        return fail(Errno::EINVAL, SITE, "flags are not zero");
    }
    match cap.cap {
        KVM_CAP_SPLIT_IRQCHIP => split_irqchip(kvm, arg),
        KVM_CAP_MAX_VCPU_ID => max_vcpu_id(kvm, arg),
        KVM_CAP_X86_APIC_BUS_CYCLES_NS => apic_bus_cycles_ns(kvm, arg),
        KVM_CAP_X86_NOTIFY_VMEXIT => notify_vmexit(kvm, arg),
        KVM_CAP_EXIT_HYPERCALL => {
            check_mask(arg, HYPERCALL_MASK)?;
            kvm.arch.with(|arch| arch.hypercall_exit_enabled = arg);
            Ok(())
        }
        KVM_CAP_X86_BUS_LOCK_EXIT => {
            check_mask(arg, 3)?;
            if arg == 3 {
                return fail(Errno::EINVAL, SITE, "bus locks can't be off and exit");
            }
            kvm.arch
                .with(|arch| arch.bus_lock_detection |= arg == KVM_BUS_LOCK_DETECTION_EXIT);
            Ok(())
        }
        KVM_CAP_PMU_CAPABILITY => pmu_capability(kvm, arg),
        KVM_CAP_X2APIC_API => x2apic_api(kvm, arg),
        KVM_CAP_X86_DISABLE_EXITS => disable_exits(kvm, arg),
        KVM_CAP_VM_DISABLE_NX_HUGE_PAGES => disable_nx_huge_pages(kvm, arg),
        KVM_CAP_DISABLE_QUIRKS2 => check_mask(arg, QUIRKS).map(|()| disable_quirks(kvm, arg)),
        KVM_CAP_DISABLE_QUIRKS => {
            disable_quirks(kvm, arg);
            Ok(())
        }
        KVM_CAP_X86_USER_SPACE_MSR => {
            check_mask(arg, MSR_EXIT_MASK).map(|()| keep(kvm, cap.cap, arg))
        }
        KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 => {
            let allowed = if arg & 1 != 0 {
                DIRTY_LOG_MANUAL_CAPS
            } else {
                1
            };
            check_mask(arg, allowed).map(|()| keep(kvm, cap.cap, arg))
        }
        KVM_CAP_EXIT_ON_EMULATION_FAILURE => check_mask(arg, 1).map(|()| keep(kvm, cap.cap, arg)),
        KVM_CAP_HALT_POLL => check_mask(arg, 0xffff_ffff).map(|()| keep(kvm, cap.cap, arg)),
        KVM_CAP_MSR_PLATFORM_INFO | KVM_CAP_EXCEPTION_PAYLOAD | KVM_CAP_X86_TRIPLE_FAULT_EVENT => {
            keep(kvm, cap.cap, arg);
            Ok(())
        }
        _ => fail(
            Errno::EINVAL,
            SITE,
            "the capability can't be enabled on this VM",
        ),
    }
}

/// `kvm_vm_ioctl_enable_dirty_log_ring`.
fn dirty_log_ring(kvm: &Kvm, bytes: u32) -> Result<()> {
    const SITE: &str = "virt/kvm/kvm_main.c:4999 kvm_vm_ioctl_enable_dirty_log_ring";
    /// PML_LOG_NR_ENTRIES, which one exit may bring; a TD's private memory is not logged.
    const PML: u32 = 512;
    let reserved = KVM_DIRTY_RING_RSVD_ENTRIES + if kvm.is_td() { 0 } else { PML };
    let least = (reserved * size_of::<KvmDirtyGfn>() as u32).max(4096);
    if !bytes.is_power_of_two() || bytes < least {
        return fail(Errno::EINVAL, SITE, "no power of two, or too small");
    }
    if bytes > MOST_RING_BYTES {
        return fail(Errno::E2BIG, SITE, "more than KVM_DIRTY_RING_MAX_ENTRIES");
    }
    if kvm.arch.with(|arch| arch.dirty_ring_size) != 0 {
        return fail(Errno::EINVAL, SITE, "the VM has dirty rings already");
    }
    let _lock = kvm.lock.lock();
    if kvm.created_vcpus.load() != 0 {
        return fail(Errno::EINVAL, SITE, "the VM has vCPUs already");
    }
    kvm.arch.with(|arch| arch.dirty_ring_size = bytes);
    Ok(())
}

fn check_mask(arg: u64, mask: u64) -> Result<()> {
    if arg & !mask != 0 {
        return fail(Errno::EINVAL, SITE, "the argument has an unknown bit");
    }
    Ok(())
}

/// A setting that nothing here depends on.
fn keep(kvm: &Kvm, cap: u32, arg: u64) {
    kvm.arch.with(|arch| arch.enabled.insert(cap, arg));
}

/// What is disabled stays so.
fn disable_quirks(kvm: &Kvm, quirks: u64) {
    let _lock = kvm.lock.lock();
    kvm.arch
        .with(|arch| arch.disabled_quirks |= quirks & QUIRKS);
}

fn split_irqchip(kvm: &Kvm, pins: u64) -> Result<()> {
    let _lock = kvm.lock.lock();
    if pins > MAX_IRQ_ROUTES {
        return fail(Errno::EINVAL, SITE, "more pins than KVM_MAX_IRQ_ROUTES");
    }
    let created = kvm.created_vcpus.load();
    kvm.arch.with(|arch| {
        if arch.irqchip != Irqchip::None || created != 0 {
            return fail(Errno::EEXIST, SITE, "an irqchip or a vCPU exists already");
        }
        arch.irqchip = Irqchip::Split;
        Ok(())
    })
}

fn max_vcpu_id(kvm: &Kvm, max: u64) -> Result<()> {
    if max > u64::from(KVM_MAX_VCPU_IDS) {
        return fail(Errno::EINVAL, SITE, "more than KVM_MAX_VCPU_IDS");
    }
    let _lock = kvm.lock.lock();
    kvm.arch.with(|arch| {
        let max = max as u32;
        if arch.bsp_vcpu_id > max || (arch.max_vcpu_ids != 0 && arch.max_vcpu_ids != max) {
            return fail(
                Errno::EINVAL,
                SITE,
                "below the BSP's id, or set to another value already",
            );
        }
        arch.max_vcpu_ids = max;
        Ok(())
    })
}

fn apic_bus_cycles_ns(kvm: &Kvm, ns: u64) -> Result<()> {
    if ns == 0 || ns.checked_mul(0xffff_ffff * 128).is_none() {
        return fail(
            Errno::EINVAL,
            SITE,
            "zero, or so long that a timer overflows",
        );
    }
    let _lock = kvm.lock.lock();
    let created = kvm.created_vcpus.load();
    kvm.arch.with(|arch| {
        if arch.irqchip == Irqchip::None {
            return fail(Errno::ENXIO, SITE, "there is no irqchip in the kernel");
        }
        if created != 0 {
            return fail(Errno::EINVAL, SITE, "the VM has vCPUs already");
        }
        arch.apic_bus_cycle_ns = ns;
        Ok(())
    })
}

fn notify_vmexit(kvm: &Kvm, arg: u64) -> Result<()> {
    let flags = arg & 0xffff_ffff;
    if flags & !3 != 0 || flags & KVM_X86_NOTIFY_VMEXIT_ENABLED == 0 {
        return fail(
            Errno::EINVAL,
            SITE,
            "an unknown flag is set, or ENABLED is not",
        );
    }
    let _lock = kvm.lock.lock();
    if kvm.created_vcpus.load() != 0 {
        return fail(Errno::EINVAL, SITE, "the VM has vCPUs already");
    }
    kvm.arch.with(|arch| arch.notify_vmexit = arg);
    Ok(())
}

fn pmu_capability(kvm: &Kvm, arg: u64) -> Result<()> {
    check_mask(arg, KVM_PMU_CAP_DISABLE)?;
    if kvm.is_td() && arg != KVM_PMU_CAP_DISABLE {
        return fail(Errno::EINVAL, SITE, "a TD's PMU is the module's");
    }
    before_vcpus(kvm, KVM_CAP_PMU_CAPABILITY, arg)
}

fn disable_exits(kvm: &Kvm, arg: u64) -> Result<()> {
    check_mask(arg, DISABLE_EXITS)?;
    before_vcpus(kvm, KVM_CAP_X86_DISABLE_EXITS, arg)
}

/// The process is taken to have CAP_SYS_BOOT.
fn disable_nx_huge_pages(kvm: &Kvm, arg: u64) -> Result<()> {
    check_mask(arg, 0)?;
    before_vcpus(kvm, KVM_CAP_VM_DISABLE_NX_HUGE_PAGES, 1)
}

fn before_vcpus(kvm: &Kvm, cap: u32, arg: u64) -> Result<()> {
    let _lock = kvm.lock.lock();
    if kvm.created_vcpus.load() != 0 {
        return fail(Errno::EINVAL, SITE, "the VM has vCPUs already");
    }
    keep(kvm, cap, arg);
    Ok(())
}

fn x2apic_api(kvm: &Kvm, arg: u64) -> Result<()> {
    const ENABLE_SUPPRESS: u64 = 1 << 2;
    const DISABLE_SUPPRESS: u64 = 1 << 3;
    check_mask(arg, 0xf)?;
    let split = kvm.arch.with(|arch| arch.irqchip == Irqchip::Split);
    let both = arg & ENABLE_SUPPRESS != 0 && arg & DISABLE_SUPPRESS != 0;
    if both || (arg & ENABLE_SUPPRESS != 0 && !split) {
        return fail(
            Errno::EINVAL,
            SITE,
            "EOI suppression both ways, or without a split irqchip",
        );
    }
    let before = kvm.arch.with(|arch| arch.enabled(KVM_CAP_X2APIC_API));
    // What was switched on once stays on.
    keep(kvm, KVM_CAP_X2APIC_API, before.unwrap_or(0) | arg);
    Ok(())
}
