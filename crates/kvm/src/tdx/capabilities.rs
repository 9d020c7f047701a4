//! KVM_TDX_CAPABILITIES: what a TD may be configured to. No lock, in any state.

use seamlock_tdx_abi::kvm::{Errno, KvmCpuid2, KvmTdxCapabilities, KvmTdxCmd};
use seamlock_tdx_abi::td_params::Attributes;
use zerocopy::IntoBytes;

use super::cpuid_config;
use crate::error::{Result, fail};
use crate::host::Host;
use crate::ioctl::{supported_xcr0, supported_xss};
use crate::task::Task;
use crate::vm::Kvm;

/// `TDVMCALLINFO_SETUP_EVENT_NOTIFY_INTERRUPT`.
const SETUP_EVENT_NOTIFY_INTERRUPT: u64 = 1 << 1;

/// ATTRIBUTES bits that KVM and the module allow; 0 when a bit that must be 1 is not among them.
pub(crate) fn supported_attrs(host: &Host) -> u64 {
    let info = host.sysinfo();
    restrict(
        Attributes::SEPT_VE_DISABLE.bits(),
        info.attributes_fixed0,
        info.attributes_fixed1,
    )
}

/// XFAM bits that KVM, the processor and the module allow; 0 as for attributes.
pub(crate) fn supported_xfam(host: &Host) -> u64 {
    let info = host.sysinfo();
    let kvm = supported_xcr0(host) | supported_xss(host);
    restrict(kvm, info.xfam_fixed0, info.xfam_fixed1)
}

fn restrict(value: u64, fixed0: u64, fixed1: u64) -> u64 {
    if value & fixed1 != fixed1 {
        0
    } else {
        value & fixed0
    }
}

/// `tdx_get_capabilities`.
pub(super) fn tdx_get_capabilities(task: &Task, kvm: &Kvm, cmd: &KvmTdxCmd) -> Result<()> {
    const SITE: &str = "tdx.c:2304 tdx_get_capabilities";
    if cmd.flags != 0 {
        return fail(Errno::EINVAL, SITE, "flags are not zero");
    }
    let nent_at = cmd
        .data
        .wrapping_add(std::mem::offset_of!(KvmTdxCapabilities, cpuid) as u64);
    let nent: u32 = task.get(nent_at, SITE)?;
    let entries = cpuid_config::entries(&kvm.host);
    if (nent as usize) < entries.len() {
        return fail(
            Errno::E2BIG,
            SITE,
            "room for fewer CPUID entries than are configurable",
        );
    }
    let caps = KvmTdxCapabilities {
        supported_attrs: supported_attrs(&kvm.host),
        supported_xfam: supported_xfam(&kvm.host),
        kernel_tdvmcallinfo_1_r11: 0,
        user_tdvmcallinfo_1_r11: SETUP_EVENT_NOTIFY_INTERRUPT,
        kernel_tdvmcallinfo_1_r12: 0,
        user_tdvmcallinfo_1_r12: 0,
        reserved: [0; 250],
        cpuid: KvmCpuid2 {
            nent: entries.len() as u32,
            padding: 0,
        },
    };
    if caps.supported_attrs == 0 || caps.supported_xfam == 0 {
        const SITE: &str = "tdx.c:193 init_kvm_tdx_caps";
        return fail(
            Errno::EIO,
            SITE,
            "the module demands attributes or XFAM that KVM lacks",
        );
    }
    let mut bytes = caps.as_bytes().to_vec();
    bytes.extend_from_slice(entries.as_bytes());
    task.put(cmd.data, &bytes[..], SITE)
}
