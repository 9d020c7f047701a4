//! Capabilities: what KVM_CHECK_EXTENSION answers and KVM_ENABLE_CAP sets.

use seamlock_tdx_abi::kvm::*;

use super::supported_cpuid::xsave2_bytes;
use crate::error::{Result, fail};
use crate::gmem;
use crate::host::Host;
use crate::vm::{Irqchip, KVM_MAX_VCPU_IDS, KVM_MAX_VCPUS, Kvm};

/// `KVM_EXIT_HYPERCALL_VALID_MASK`.
const HYPERCALL_MASK: u64 = 1 << KVM_HC_MAP_GPA_RANGE;
/// `KVM_MSR_EXIT_REASON_VALID_MASK`.
const MSR_EXIT_MASK: u64 = 7;
/// `KVM_MAX_IRQ_ROUTES`.
const MAX_IRQ_ROUTES: u64 = 4096;
/// Quirks that can be disabled (`KVM_X86_VALID_QUIRKS`).
const QUIRKS: u64 = 0x3ff;
/// `KVM_DIRTY_LOG_MANUAL_CAPS`.
const DIRTY_LOG_MANUAL_CAPS: u64 = 3;
/// `KVM_CLOCK_VALID_FLAGS`.
const CLOCK_FLAGS: i64 = 14;
/// `KVM_GUESTDBG_VALID_MASK`.
const GUESTDBG_MASK: i64 = 0x1f_0003;

/// `kvm_get_allowed_disable_exits`: MWAIT, HLT, PAUSE, CSTATE, APERFMPERF.
const DISABLE_EXITS: u64 = 0x1f;

/// Capabilities that are simply there.
const PRESENT: &[u32] = &[
    KVM_CAP_IRQCHIP,
    KVM_CAP_HLT,
    KVM_CAP_MMU_SHADOW_CACHE_CONTROL,
    KVM_CAP_USER_MEMORY,
    KVM_CAP_SET_TSS_ADDR,
    KVM_CAP_VAPIC,
    KVM_CAP_EXT_CPUID,
    KVM_CAP_CLOCKSOURCE,
    KVM_CAP_PIT,
    KVM_CAP_PIT2,
    KVM_CAP_PIT_STATE2,
    KVM_CAP_REINJECT_CONTROL,
    KVM_CAP_NOP_IO_DELAY,
    KVM_CAP_MP_STATE,
    KVM_CAP_SYNC_MMU,
    KVM_CAP_USER_NMI,
    KVM_CAP_DESTROY_MEMORY_REGION_WORKS,
    KVM_CAP_SET_GUEST_DEBUG,
    KVM_CAP_IRQ_INJECT_STATUS,
    KVM_CAP_JOIN_MEMORY_REGIONS_WORKS,
    KVM_CAP_IRQFD,
    KVM_CAP_SET_BOOT_CPU_ID,
    KVM_CAP_IOEVENTFD,
    KVM_CAP_SET_IDENTITY_MAP_ADDR,
    KVM_CAP_INTERNAL_ERROR_DATA,
    KVM_CAP_VCPU_EVENTS,
    KVM_CAP_PCI_SEGMENT,
    KVM_CAP_DEBUGREGS,
    KVM_CAP_X86_ROBUST_SINGLESTEP,
    KVM_CAP_XSAVE,
    KVM_CAP_XCRS,
    KVM_CAP_ENABLE_CAP,
    KVM_CAP_GET_TSC_KHZ,
    KVM_CAP_TSC_CONTROL,
    KVM_CAP_TSC_DEADLINE_TIMER,
    KVM_CAP_KVMCLOCK_CTRL,
    KVM_CAP_SIGNAL_MSI,
    KVM_CAP_IRQFD_RESAMPLE,
    KVM_CAP_DEVICE_CTRL,
    KVM_CAP_EXT_EMUL_CPUID,
    KVM_CAP_IOAPIC_POLARITY_IGNORED,
    KVM_CAP_ENABLE_CAP_VM,
    KVM_CAP_IOEVENTFD_NO_LENGTH,
    KVM_CAP_CHECK_EXTENSION_VM,
    KVM_CAP_DISABLE_QUIRKS,
    KVM_CAP_SPLIT_IRQCHIP,
    KVM_CAP_IOEVENTFD_ANY_LENGTH,
    KVM_CAP_IMMEDIATE_EXIT,
    KVM_CAP_GET_MSR_FEATURES,
    KVM_CAP_MSR_PLATFORM_INFO,
    KVM_CAP_COALESCED_PIO,
    KVM_CAP_EXCEPTION_PAYLOAD,
    KVM_CAP_PMU_EVENT_FILTER,
    KVM_CAP_LAST_CPU,
    KVM_CAP_HALT_POLL,
    KVM_CAP_X86_USER_SPACE_MSR,
    KVM_CAP_X86_MSR_FILTER,
    KVM_CAP_ENFORCE_PV_FEATURE_CPUID,
    KVM_CAP_VM_COPY_ENC_CONTEXT_FROM,
    KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM,
    KVM_CAP_SREGS2,
    KVM_CAP_EXIT_ON_EMULATION_FAILURE,
    KVM_CAP_VCPU_ATTRIBUTES,
    KVM_CAP_SYS_ATTRIBUTES,
    KVM_CAP_VM_TSC_CONTROL,
    KVM_CAP_SYSTEM_EVENT_DATA,
    KVM_CAP_X86_TRIPLE_FAULT_EVENT,
    KVM_CAP_X86_NOTIFY_VMEXIT,
    KVM_CAP_VM_DISABLE_NX_HUGE_PAGES,
    KVM_CAP_USER_MEMORY2,
    KVM_CAP_MEMORY_FAULT_INFO,
    KVM_CAP_GUEST_MEMFD,
    KVM_CAP_PRE_FAULT_MEMORY,
    KVM_CAP_ONE_REG,
    KVM_CAP_X86_GUEST_MODE,
    KVM_CAP_ASYNC_PF,
    KVM_CAP_ASYNC_PF_INT,
    KVM_CAP_PMU_EVENT_MASKED_EVENTS,
];

/// Capabilities that x86's KVM_CHECK_EXTENSION looks at, whatever it answers; all others are 0.
/// Source: v7.3.4 `kvm_vm_ioctl_check_extension` (x86.c) and `…_generic` (kvm_main.c).
pub const X86: &[u32] = &[
    KVM_CAP_ADJUST_CLOCK,
    KVM_CAP_ASYNC_PF,
    KVM_CAP_ASYNC_PF_INT,
    KVM_CAP_BINARY_STATS_FD,
    KVM_CAP_CHECK_EXTENSION_VM,
    KVM_CAP_CLOCKSOURCE,
    KVM_CAP_COALESCED_MMIO,
    KVM_CAP_COALESCED_PIO,
    KVM_CAP_DEBUGREGS,
    KVM_CAP_DESTROY_MEMORY_REGION_WORKS,
    KVM_CAP_DEVICE_CTRL,
    KVM_CAP_DIRTY_LOG_RING,
    KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
    KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP,
    KVM_CAP_DISABLE_QUIRKS,
    KVM_CAP_DISABLE_QUIRKS2,
    KVM_CAP_ENABLE_CAP,
    KVM_CAP_ENABLE_CAP_VM,
    KVM_CAP_ENFORCE_PV_FEATURE_CPUID,
    KVM_CAP_EXCEPTION_PAYLOAD,
    KVM_CAP_EXIT_HYPERCALL,
    KVM_CAP_EXIT_ON_EMULATION_FAILURE,
    KVM_CAP_EXT_CPUID,
    KVM_CAP_EXT_EMUL_CPUID,
    KVM_CAP_GET_MSR_FEATURES,
    KVM_CAP_GET_TSC_KHZ,
    KVM_CAP_GUEST_MEMFD,
    KVM_CAP_GUEST_MEMFD_FLAGS,
    KVM_CAP_HALT_POLL,
    KVM_CAP_HLT,
    KVM_CAP_HYPERV,
    KVM_CAP_HYPERV_CPUID,
    KVM_CAP_HYPERV_DIRECT_TLBFLUSH,
    KVM_CAP_HYPERV_ENFORCE_CPUID,
    KVM_CAP_HYPERV_ENLIGHTENED_VMCS,
    KVM_CAP_HYPERV_EVENTFD,
    KVM_CAP_HYPERV_SEND_IPI,
    KVM_CAP_HYPERV_SPIN,
    KVM_CAP_HYPERV_SYNIC,
    KVM_CAP_HYPERV_SYNIC2,
    KVM_CAP_HYPERV_TIME,
    KVM_CAP_HYPERV_TLBFLUSH,
    KVM_CAP_HYPERV_VAPIC,
    KVM_CAP_HYPERV_VP_INDEX,
    KVM_CAP_IMMEDIATE_EXIT,
    KVM_CAP_INTERNAL_ERROR_DATA,
    KVM_CAP_IOAPIC_POLARITY_IGNORED,
    KVM_CAP_IOEVENTFD,
    KVM_CAP_IOEVENTFD_ANY_LENGTH,
    KVM_CAP_IOEVENTFD_NO_LENGTH,
    KVM_CAP_IRQCHIP,
    KVM_CAP_IRQFD,
    KVM_CAP_IRQFD_RESAMPLE,
    KVM_CAP_IRQ_INJECT_STATUS,
    KVM_CAP_IRQ_ROUTING,
    KVM_CAP_JOIN_MEMORY_REGIONS_WORKS,
    KVM_CAP_KVMCLOCK_CTRL,
    KVM_CAP_LAST_CPU,
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
    KVM_CAP_MAX_VCPUS,
    KVM_CAP_MAX_VCPU_ID,
    KVM_CAP_MCE,
    KVM_CAP_MEMORY_ATTRIBUTES,
    KVM_CAP_MEMORY_FAULT_INFO,
    KVM_CAP_MMU_SHADOW_CACHE_CONTROL,
    KVM_CAP_MP_STATE,
    KVM_CAP_MSR_PLATFORM_INFO,
    KVM_CAP_MULTI_ADDRESS_SPACE,
    KVM_CAP_NESTED_STATE,
    KVM_CAP_NOP_IO_DELAY,
    KVM_CAP_NR_MEMSLOTS,
    KVM_CAP_NR_VCPUS,
    KVM_CAP_ONE_REG,
    KVM_CAP_PCI_SEGMENT,
    KVM_CAP_PIT,
    KVM_CAP_PIT2,
    KVM_CAP_PIT_STATE2,
    KVM_CAP_PMU_CAPABILITY,
    KVM_CAP_PMU_EVENT_FILTER,
    KVM_CAP_PMU_EVENT_MASKED_EVENTS,
    KVM_CAP_PRE_FAULT_MEMORY,
    KVM_CAP_PV_MMU,
    KVM_CAP_READONLY_MEM,
    KVM_CAP_REINJECT_CONTROL,
    KVM_CAP_SET_BOOT_CPU_ID,
    KVM_CAP_SET_GUEST_DEBUG,
    KVM_CAP_SET_GUEST_DEBUG2,
    KVM_CAP_SET_IDENTITY_MAP_ADDR,
    KVM_CAP_SET_TSS_ADDR,
    KVM_CAP_SGX_ATTRIBUTE,
    KVM_CAP_SIGNAL_MSI,
    KVM_CAP_SMALLER_MAXPHYADDR,
    KVM_CAP_SPLIT_IRQCHIP,
    KVM_CAP_SREGS2,
    KVM_CAP_STEAL_TIME,
    KVM_CAP_SYNC_MMU,
    KVM_CAP_SYNC_REGS,
    KVM_CAP_SYSTEM_EVENT_DATA,
    KVM_CAP_SYS_ATTRIBUTES,
    KVM_CAP_SYS_HYPERV_CPUID,
    KVM_CAP_TSC_CONTROL,
    KVM_CAP_TSC_DEADLINE_TIMER,
    KVM_CAP_USER_MEMORY,
    KVM_CAP_USER_MEMORY2,
    KVM_CAP_USER_NMI,
    KVM_CAP_VAPIC,
    KVM_CAP_VCPU_ATTRIBUTES,
    KVM_CAP_VCPU_EVENTS,
    KVM_CAP_VM_COPY_ENC_CONTEXT_FROM,
    KVM_CAP_VM_DISABLE_NX_HUGE_PAGES,
    KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM,
    KVM_CAP_VM_TSC_CONTROL,
    KVM_CAP_VM_TYPES,
    KVM_CAP_X2APIC_API,
    KVM_CAP_X86_APIC_BUS_CYCLES_NS,
    KVM_CAP_X86_BUS_LOCK_EXIT,
    KVM_CAP_X86_DISABLE_EXITS,
    KVM_CAP_X86_GUEST_MODE,
    KVM_CAP_X86_MSR_FILTER,
    KVM_CAP_X86_NOTIFY_VMEXIT,
    KVM_CAP_X86_ROBUST_SINGLESTEP,
    KVM_CAP_X86_SMM,
    KVM_CAP_X86_TRIPLE_FAULT_EVENT,
    KVM_CAP_X86_USER_SPACE_MSR,
    KVM_CAP_XCRS,
    KVM_CAP_XEN_HVM,
    KVM_CAP_XSAVE,
    KVM_CAP_XSAVE2,
];

/// `kvm_vm_ioctl_check_extension_generic` on a VM, or on `/dev/kvm`.
pub(super) fn check_extension(host: &Host, kvm: Option<&Kvm>, cap: u64) -> i64 {
    if let Some(answer) = crate::arch::check_extension(host.arch(), cap) {
        return answer;
    }
    let Ok(cap) = u32::try_from(cap) else {
        return 0;
    };
    if PRESENT.contains(&cap) {
        return 1;
    }
    let td = kvm.is_some_and(Kvm::is_td);
    let private_mem = kvm.is_none_or(Kvm::has_private_mem);
    let arch = kvm.map(|kvm| kvm.arch.with(|arch| arch.clone()));
    match cap {
        KVM_CAP_NR_VCPUS => host.cpus().len().min(KVM_MAX_VCPUS as usize) as i64,
        KVM_CAP_MAX_VCPUS => arch.map_or(KVM_MAX_VCPUS, |a| a.max_vcpus).into(),
        KVM_CAP_MAX_VCPU_ID => KVM_MAX_VCPU_IDS.into(),
        KVM_CAP_NR_MEMSLOTS => 32764,
        KVM_CAP_VM_TYPES => host.arch().vm_types() as i64,
        KVM_CAP_MEMORY_ATTRIBUTES if private_mem => KVM_MEMORY_ATTRIBUTE_PRIVATE as i64,
        KVM_CAP_GUEST_MEMFD_FLAGS => kvm.map_or(3, gmem::supported_flags) as i64,
        KVM_CAP_MULTI_ADDRESS_SPACE => {
            if kvm.is_some_and(Kvm::has_private_mem) {
                1
            } else {
                2
            }
        }
        KVM_CAP_READONLY_MEM => i64::from(!td),
        KVM_CAP_X86_SMM => i64::from(!td),
        KVM_CAP_EXIT_HYPERCALL => HYPERCALL_MASK as i64,
        KVM_CAP_X86_BUS_LOCK_EXIT => 3,
        KVM_CAP_X86_APIC_BUS_CYCLES_NS => arch.map_or(1, |a| a.apic_bus_cycle_ns) as i64,
        KVM_CAP_X2APIC_API => x2apic_flags(arch.map(|a| a.irqchip)),
        KVM_CAP_DISABLE_QUIRKS2 => QUIRKS as i64,
        KVM_CAP_PMU_CAPABILITY => KVM_PMU_CAP_DISABLE as i64,
        KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 => DIRTY_LOG_MANUAL_CAPS as i64,
        KVM_CAP_IRQ_ROUTING => MAX_IRQ_ROUTES as i64,
        KVM_CAP_COALESCED_MMIO => KVM_COALESCED_MMIO_PAGE_OFFSET as i64,
        KVM_CAP_MCE => 32,
        KVM_CAP_XSAVE2 => xsave2_bytes(host.module().platform()).into(),
        KVM_CAP_ADJUST_CLOCK => CLOCK_FLAGS,
        KVM_CAP_SET_GUEST_DEBUG2 => GUESTDBG_MASK,
        KVM_CAP_SYNC_REGS if !td => 7,
        KVM_CAP_X86_DISABLE_EXITS => DISABLE_EXITS as i64,
        KVM_CAP_STEAL_TIME => 1,
        _ => 0,
    }
}

fn x2apic_flags(irqchip: Option<Irqchip>) -> i64 {
    // ENABLE_SUPPRESS_EOI_BROADCAST needs a split irqchip.
    if irqchip.is_some_and(|i| i != Irqchip::Split) {
        0xb
    } else {
        0xf
    }
}

const SITE: &str = "arch/x86/kvm/x86.c:3951 kvm_vm_ioctl_enable_cap";

/// `kvm_vm_ioctl_enable_cap_generic`.
pub(super) fn enable_cap(kvm: &Kvm, cap: &KvmEnableCap) -> Result<()> {
    let arg = cap.args[0];
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
        KVM_CAP_DISABLE_QUIRKS2 => check_mask(arg, QUIRKS).map(|()| keep(kvm, cap.cap, arg)),
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
        KVM_CAP_DISABLE_QUIRKS
        | KVM_CAP_MSR_PLATFORM_INFO
        | KVM_CAP_EXCEPTION_PAYLOAD
        | KVM_CAP_X86_TRIPLE_FAULT_EVENT => {
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
