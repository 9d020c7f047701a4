//! ioctls of `/dev/kvm`.

use std::sync::Arc;

use seamlock_tdx_abi::kvm::{
    Errno, KVM_API_VERSION, KVM_VCPU_MMAP_BYTES, KVM_X86_XCOMP_GUEST_SUPP, KvmDeviceAttr,
    KvmMsrList,
};

use super::caps;
use super::msrs::msr_io;
use super::supported_cpuid::{KVM_SUPPORTED_XCR0, KVM_SUPPORTED_XSS};
use crate::error::{Result, fail};
use crate::host::Host;
use crate::task::Task;
use crate::vcpu::registers::{SUPPORTED_PERF_CAP, VmxMsrs, feature_msrs, saved_msrs};

/// What a vCPU's IA32_ARCH_CAPABILITIES reads as.
pub(crate) const ARCH_CAPABILITIES: u64 = 0x0d08_e1eb;
/// The microcode of the machine's processors, in the upper half as the MSR has it.
const UCODE_REV: u64 = 0x2b00_0639 << 32;
const PLATFORM_INFO_CPUID_FAULT: u64 = 1 << 31;
/// MCG_LMCE_P, MCG_SER_P, MCG_CMCI_P and MCG_CTL_P.
pub(super) const SUPPORTED_MCE_CAP: u64 = 1 << 27 | 1 << 24 | 1 << 10 | 1 << 8;

pub(super) fn get_api_version(_task: &Task, _host: &Arc<Host>, arg: u64) -> Result<i64> {
    immediate_zero(arg, "virt/kvm/kvm_main.c:5581 kvm_dev_ioctl")?;
    Ok(i64::from(KVM_API_VERSION))
}

fn immediate_zero(arg: u64, site: &'static str) -> Result<()> {
    if arg != 0 {
        return fail(Errno::EINVAL, site, "the argument is not zero");
    }
    Ok(())
}

pub(super) fn create_vm(task: &Task, host: &Arc<Host>, arg: u64) -> Result<i64> {
    crate::vm::create_vm(task, host, arg)
}

pub(super) fn check_extension(_task: &Task, host: &Arc<Host>, arg: u64) -> Result<i64> {
    Ok(caps::check_extension(host, None, arg))
}

pub(super) fn get_vcpu_mmap_size(_task: &Task, _host: &Arc<Host>, arg: u64) -> Result<i64> {
    immediate_zero(arg, "virt/kvm/kvm_main.c:5599 kvm_dev_ioctl")?;
    Ok(KVM_VCPU_MMAP_BYTES as i64)
}

pub(super) fn get_msr_index_list(task: &Task, host: &Arc<Host>, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/msrs.c:350 kvm_get_msr_index_list";
    msr_list(task, arg, &saved_msrs(host.module().platform()), SITE)
}

pub(super) fn get_msr_feature_index_list(task: &Task, _host: &Arc<Host>, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/msrs.c:378 kvm_get_feature_msr_index_list";
    msr_list(task, arg, &feature_msrs(), SITE)
}

/// The count is always written back; the list only when there is room.
fn msr_list(task: &Task, arg: u64, msrs: &[u32], site: &'static str) -> Result<i64> {
    let list: KvmMsrList = task.get(arg, site)?;
    task.put(
        arg,
        &KvmMsrList {
            nmsrs: msrs.len() as u32,
        },
        site,
    )?;
    if (list.nmsrs as usize) < msrs.len() {
        return fail(Errno::E2BIG, site, "room for fewer MSRs than there are");
    }
    let entries = arg.wrapping_add(size_of::<KvmMsrList>() as u64);
    task.put(entries, msrs, site)?;
    Ok(0)
}

/// `kvm_get_feature_msr`: what KVM supports of an MSR that tells about features.
fn feature_msr(host: &Host, msr: u32) -> Option<u64> {
    match msr {
        0x8b => Some(UCODE_REV),
        0xce => Some(PLATFORM_INFO_CPUID_FAULT),
        0x10a => Some(ARCH_CAPABILITIES),
        0x345 => Some(SUPPORTED_PERF_CAP),
        _ => VmxMsrs::supported(host.module().platform()).get(msr),
    }
}

/// Feature MSRs. Returns how many were read; the first unknown one ends it. One that a vCPU has, and that
/// tells nothing about features, is zero.
pub(super) fn get_msrs(task: &Task, host: &Arc<Host>, arg: u64) -> Result<i64> {
    let saved = saved_msrs(host.module().platform());
    msr_io(task, arg, true, |entry| {
        let known = feature_msr(host, entry.index);
        entry.data = known.unwrap_or(0);
        known.is_some() || saved.contains(&entry.index)
    })
}

pub(super) fn get_mce_cap_supported(task: &Task, _host: &Arc<Host>, arg: u64) -> Result<i64> {
    task.put(
        arg,
        &SUPPORTED_MCE_CAP,
        "arch/x86/kvm/x86.c kvm_arch_dev_ioctl",
    )?;
    Ok(0)
}

/// `kvm_caps.supported_xcr0`: x87 to AVX-512, PKRU and AMX.
pub(crate) fn supported_xcr0(host: &Host) -> u64 {
    host.module().platform().xcr0_supported & KVM_SUPPORTED_XCR0
}

/// `kvm_caps.supported_xss`: CET.
pub(crate) fn supported_xss(host: &Host) -> u64 {
    host.module().platform().xss_supported & KVM_SUPPORTED_XSS
}

const ATTR_SITE: &str = "arch/x86/kvm/x86.c:2437 __kvm_x86_dev_get_attr";

fn attr_value(host: &Host, attr: &KvmDeviceAttr) -> Result<u64> {
    if attr.group == 0 && attr.attr == KVM_X86_XCOMP_GUEST_SUPP {
        return Ok(supported_xcr0(host));
    }
    fail(Errno::ENXIO, ATTR_SITE, "no such attribute")
}

pub(super) fn get_device_attr(task: &Task, host: &Arc<Host>, arg: u64) -> Result<i64> {
    let attr: KvmDeviceAttr = task.get(arg, ATTR_SITE)?;
    task.put(attr.addr, &attr_value(host, &attr)?, ATTR_SITE)?;
    Ok(0)
}

pub(super) fn has_device_attr(task: &Task, host: &Arc<Host>, arg: u64) -> Result<i64> {
    let attr: KvmDeviceAttr = task.get(arg, ATTR_SITE)?;
    attr_value(host, &attr).map(|_| 0)
}
