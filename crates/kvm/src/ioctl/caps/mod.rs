//! Capabilities: what KVM_CHECK_EXTENSION answers and KVM_ENABLE_CAP sets.

mod enable;
mod known;

use seamlock_tdx_abi::kvm::*;

use super::nested;
use super::supported_cpuid::xsave2_bytes;
use super::xen;
use crate::gmem;
use crate::host::Host;
use crate::vm::{Irqchip, KVM_MAX_VCPU_IDS, KVM_MAX_VCPUS, Kvm};

pub(super) use enable::enable_cap;
use known::PRESENT;
pub use known::{OFF, X86};

/// `KVM_EXIT_HYPERCALL_VALID_MASK`.
const HYPERCALL_MASK: u64 = 1 << KVM_HC_MAP_GPA_RANGE;
/// `KVM_MAX_IRQ_ROUTES`.
const MAX_IRQ_ROUTES: u64 = 4096;
/// Quirks that can be disabled (`KVM_X86_VALID_QUIRKS`), on a processor that snoops its own caches.
const QUIRKS: u64 = 0xfff;
/// `KVM_DIRTY_LOG_MANUAL_CAPS`.
const DIRTY_LOG_MANUAL_CAPS: u64 = 3;
/// Bytes of the largest dirty ring.
const MOST_RING_BYTES: u32 = KVM_DIRTY_RING_MAX_ENTRIES * size_of::<KvmDirtyGfn>() as u32;
/// `KVM_CLOCK_VALID_FLAGS`.
const CLOCK_FLAGS: i64 = 14;
/// `KVM_GUESTDBG_VALID_MASK`.
const GUESTDBG_MASK: i64 = 0x1f_0003;

/// `kvm_get_allowed_disable_exits`: MWAIT, HLT, PAUSE, CSTATE, APERFMPERF.
const DISABLE_EXITS: u64 = 0x1f;

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
        KVM_CAP_DIRTY_LOG_RING | KVM_CAP_DIRTY_LOG_RING_ACQ_REL => MOST_RING_BYTES.into(),
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
        KVM_CAP_XEN_HVM => xen::FEATURES,
        KVM_CAP_NESTED_STATE => nested::MOST_BYTES as i64,
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
