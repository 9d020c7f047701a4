//! Hyper-V: which of it KVM offers to guests, and eventfds for their HvSignalEvent.
//!
//! Source: Linux v7.3.4 `arch/x86/kvm/hyperv.c`; bits of `include/hyperv/hvgdk.h`.

use std::sync::Arc;

use seamlock_tdx_abi::kvm::{
    Errno, KVM_HYPERV_EVENTFD_DEASSIGN, KvmCpuid2, KvmCpuidEntry2, KvmHypervEventfd,
};

use super::eventfd::eventfd;
use crate::error::{Result, fail};
use crate::host::Host;
use crate::task::Task;
use crate::vcpu::VcpuRef;
use crate::vm::{Irqchip, KVM_MAX_VCPUS, Kvm};

/// `KVM_HYPERV_CONN_ID_MASK`.
const CONN_ID_MASK: u32 = 0x00ff_ffff;
/// Lowest and highest version of the enlightened VMCS that KVM has, as `evmcs_ver`.
pub(super) const EVMCS_VERSIONS: u16 = 1 << 8 | 1;

/// "Linux KVM Hv" in EBX, ECX and EDX.
const SIGNATURE: [u32; 3] = [
    u32::from_le_bytes(*b"Linu"),
    u32::from_le_bytes(*b"x KV"),
    u32::from_le_bytes(*b"M Hv"),
];

/// What Hyper-V's leaves say, EAX to EDX: `evmcs` is 0 where the vCPU has not enabled the enlightened
/// VMCS; with the local APIC in the kernel there are direct timers and cluster IPIs too.
fn leaves(host: &Host, evmcs: u16, lapic_in_kernel: bool) -> [(u32, [u32; 4]); 10] {
    /// NO_NONARCH_CORESHARING: no two vCPUs ever share a core.
    const NO_CORE_SHARING: u32 = 1 << 18;
    // `cpu_smt_possible`: EBX of this leaf is how many threads a core has.
    let has_smt = host.module().platform().cpuid(0xb, 0)[1] > 1;
    let core_sharing = if has_smt { 0 } else { NO_CORE_SHARING };
    let [b, c, d] = SIGNATURE;
    let stimer_direct = u32::from(lapic_in_kernel) << 19;
    let cluster_ipi = u32::from(lapic_in_kernel) << 10;
    let recommends_evmcs = u32::from(evmcs != 0) << 14;
    // Of MSRs: VP_RUNTIME to RESET, REFERENCE_TSC, FREQUENCY, REENLIGHTENMENT, TSC_INVARIANT.
    let msrs = 0xaaff;
    // POST_MESSAGES, SIGNAL_EVENTS, DEBUGGING, EXTENDED_HYPERCALLS.
    let privileges = 1 << 4 | 1 << 5 | 1 << 11 | 1 << 20;
    // GUEST_DEBUGGING, XMM_INPUT, FREQUENCY_MSRS, GUEST_CRASH_MSR, DEBUG_MSRS, EXT_GVA_RANGES_FLUSH.
    let features = 1 << 1 | 1 << 4 | 1 << 8 | 1 << 10 | 1 << 11 | 1 << 14;
    // REMOTE_TLB_FLUSH, APIC_ACCESS, RELAXED_TIMING, DEPRECATING_AEOI, EX_PROCESSOR_MASKS.
    let recommendations = 1 << 2 | 1 << 3 | 1 << 5 | 1 << 9 | 1 << 11;
    [
        (0x4000_0000, [0x4000_0082, b, c, d]),
        (0x4000_0001, [u32::from_le_bytes(*b"Hv#1"), 0, 0, 0]),
        (0x4000_0002, [0x3839, 0x000a_0000, 0, 0]),
        (0x4000_0003, [msrs, privileges, 0, features | stimer_direct]),
        (
            0x4000_0004,
            [
                recommendations | core_sharing | cluster_ipi | recommends_evmcs,
                0xfff,
                0,
                0,
            ],
        ),
        (0x4000_0005, [KVM_MAX_VCPUS, 64, 0, 0]),
        (0x4000_0080, [0, b, c, d]),
        (0x4000_0081, [u32::from_le_bytes(*b"VS#1"), 0, 0, 0]),
        // ALLOW_KERNEL_DEBUGGING.
        (0x4000_0082, [1 << 1, 0, 0, 0]),
        // DIRECT_FLUSH, MSR_BITMAP; EVMCS1_PERF_GLOBAL_CTRL.
        (0x4000_000a, [u32::from(evmcs) | 1 << 17 | 1 << 19, 1, 0, 0]),
    ]
}

/// `kvm_ioctl_get_supported_hv_cpuid` of the machine.
pub(super) fn get_cpuid(task: &Task, host: &Arc<Host>, arg: u64) -> Result<i64> {
    copy_out(task, arg, leaves(host, EVMCS_VERSIONS, true))
}

/// As [`get_cpuid`] of one vCPU.
pub(super) fn get_vcpu_cpuid(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    let in_kernel = vcpu.kvm().arch.with(|arch| arch.irqchip) != Irqchip::None;
    let evmcs = vcpu.state.with(|state| state.nested.evmcs_enabled);
    let versions = if evmcs { EVMCS_VERSIONS } else { 0 };
    copy_out(task, arg, leaves(&vcpu.kvm().host, versions, in_kernel))
}

fn copy_out(task: &Task, arg: u64, leaves: [(u32, [u32; 4]); 10]) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/hyperv.c:2811 kvm_get_hv_cpuid";
    let mut header: KvmCpuid2 = task.get(arg, SITE)?;
    if (header.nent as usize) < leaves.len() {
        return fail(Errno::E2BIG, SITE, "room for fewer entries than there are");
    }
    header.nent = leaves.len() as u32;
    let entries = leaves.map(|(function, [eax, ebx, ecx, edx])| KvmCpuidEntry2 {
        function,
        eax,
        ebx,
        ecx,
        edx,
        ..KvmCpuidEntry2::default()
    });
    let at = arg.wrapping_add(size_of::<KvmCpuid2>() as u64);
    task.put(at, &entries[..], SITE)?;
    task.put(arg, &header, SITE)?;
    Ok(0)
}

/// `kvm_vm_ioctl_hv_eventfd`.
pub(super) fn hv_eventfd(task: &Task, kvm: &Arc<Kvm>, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/hyperv.c:2781 kvm_vm_ioctl_hv_eventfd";
    let args: KvmHypervEventfd = task.get(arg, "arch/x86/kvm/x86.c:4723 kvm_arch_vm_ioctl")?;
    if args.flags & !KVM_HYPERV_EVENTFD_DEASSIGN != 0 || args.conn_id & !CONN_ID_MASK != 0 {
        return fail(
            Errno::EINVAL,
            SITE,
            "an unknown flag, or a connection beyond 24 bits",
        );
    }
    if args.flags == KVM_HYPERV_EVENTFD_DEASSIGN {
        kvm.eventfds.deassign_hyperv(args.conn_id)?;
        kvm.srcu.synchronize();
        return Ok(0);
    }
    let eventfd = eventfd(task, args.fd as u32)?;
    kvm.eventfds.assign_hyperv(args.conn_id, eventfd)?;
    Ok(0)
}
