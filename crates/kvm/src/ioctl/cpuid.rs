//! CPUID tables: what KVM supports, and what a vCPU was given.

use std::sync::Arc;

use seamlock_tdx_abi::kvm::{Errno, KVM_MAX_CPUID_ENTRIES, KvmCpuid2, KvmCpuidEntry2};
use zerocopy::{FromZeros, IntoBytes};

use super::supported_cpuid::supported;
use crate::error::{Result, fail};
use crate::host::Host;
use crate::task::Task;
use crate::vcpu::VcpuRef;

const SITE: &str = "arch/x86/kvm/cpuid.c kvm_dev_ioctl_get_cpuid";

/// Bytes before the entries.
const HEADER: u64 = size_of::<KvmCpuid2>() as u64;

pub(super) fn get_supported_cpuid(task: &Task, host: &Arc<Host>, arg: u64) -> Result<i64> {
    copy_out(task, arg, &supported(host.module().platform()))
}

/// Nothing is emulated that the processor lacks.
pub(super) fn get_emulated_cpuid(task: &Task, _host: &Arc<Host>, arg: u64) -> Result<i64> {
    copy_out(task, arg, &[])
}

/// Nothing is written back when there is no room.
fn copy_out(task: &Task, arg: u64, entries: &[KvmCpuidEntry2]) -> Result<i64> {
    let mut header: KvmCpuid2 = task.get(arg, SITE)?;
    if (header.nent as usize) < entries.len() || header.nent == 0 {
        return fail(Errno::E2BIG, SITE, "room for fewer entries than there are");
    }
    task.put(arg.wrapping_add(HEADER), entries, SITE)?;
    header.nent = entries.len() as u32;
    task.put(arg, &header, SITE)?;
    Ok(0)
}

/// `kvm_vcpu_ioctl_set_cpuid2`.
pub(super) fn set_cpuid2(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/cpuid.c:635 kvm_vcpu_ioctl_set_cpuid2";
    let header: KvmCpuid2 = task.get(arg, SITE)?;
    if header.nent > KVM_MAX_CPUID_ENTRIES {
        return fail(
            Errno::E2BIG,
            SITE,
            "more than KVM_MAX_CPUID_ENTRIES entries",
        );
    }
    let mut entries = vec![KvmCpuidEntry2::new_zeroed(); header.nent as usize];
    task.get_bytes(arg.wrapping_add(HEADER), entries.as_mut_bytes(), SITE)?;
    let changed = vcpu
        .state
        .with(|state| state.has_run && state.cpuid != entries);
    if changed {
        const SITE: &str = "arch/x86/kvm/cpuid.c:555 kvm_set_cpuid";
        return fail(Errno::EINVAL, SITE, "CPUID changes after the vCPU has run");
    }
    check(&entries)?;
    vcpu.state.with(|state| state.cpuid = entries);
    Ok(0)
}

/// `kvm_check_cpuid`: linear addresses have 48 or 57 bits, or the leaf says nothing.
fn check(entries: &[KvmCpuidEntry2]) -> Result<()> {
    const SITE: &str = "arch/x86/kvm/cpuid.c:149 kvm_check_cpuid";
    let leaf = entries.iter().find(|e| e.function == 0x8000_0008);
    match leaf.map_or(0, |e| e.eax >> 8 & 0xff) {
        0 | 48 | 57 => Ok(()),
        _ => fail(
            Errno::EINVAL,
            SITE,
            "linear addresses have neither 48 nor 57 bits",
        ),
    }
}

/// `kvm_vcpu_ioctl_get_cpuid2`.
pub(super) fn get_cpuid2(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/cpuid.c:658 kvm_vcpu_ioctl_get_cpuid2";
    let mut header: KvmCpuid2 = task.get(arg, SITE)?;
    let entries = vcpu.state.with(|state| state.cpuid.clone());
    if (header.nent as usize) < entries.len() {
        return fail(
            Errno::E2BIG,
            SITE,
            "room for fewer entries than the vCPU has",
        );
    }
    task.put(arg.wrapping_add(HEADER), &entries[..], SITE)?;
    header.nent = entries.len() as u32;
    task.put(arg, &header, SITE)?;
    Ok(0)
}
