//! KVM_GET_LAPIC and KVM_SET_LAPIC.
//!
//! Source: Linux v7.3.4 `arch/x86/kvm/x86.c`, `arch/x86/kvm/lapic.c`.

use seamlock_tdx_abi::kvm::{Errno, KVM_APIC_REG_SIZE, KVM_CAP_X2APIC_API};

use super::state::{lapic_in_kernel, with};
use crate::error::{Result, fail};
use crate::task::Task;
use crate::vcpu::{State, VcpuRef};

/// Whether user space has the ids of vCPUs in x2APIC mode in 32 bits.
fn x2apic_format(vcpu: &VcpuRef) -> bool {
    const USE_32BIT_IDS: u64 = 1;
    let enabled = vcpu
        .kvm()
        .arch
        .with(|arch| arch.enabled(KVM_CAP_X2APIC_API));
    enabled.is_some_and(|flags| flags & USE_32BIT_IDS != 0)
}

fn is_x2apic(state: &State) -> bool {
    const MODE: u64 = 3 << 10;
    state.apic_base & MODE == MODE
}

/// A local APIC in user space is looked for first.
fn find_lapic(vcpu: &VcpuRef, site: &'static str) -> Result<()> {
    if !lapic_in_kernel(vcpu) {
        return fail(Errno::EINVAL, site, "there is no local APIC in the kernel");
    }
    Ok(())
}

fn protected_apic(site: &'static str) -> Result<i64> {
    fail(Errno::EINVAL, site, "the local APIC is protected")
}

pub(in crate::ioctl) fn get_lapic(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c:3444 kvm_arch_vcpu_ioctl";
    find_lapic(vcpu, SITE)?;
    if vcpu.kvm().is_td() {
        return protected_apic("arch/x86/kvm/x86.c:2704 kvm_vcpu_ioctl_get_lapic");
    }
    let (id, format) = (vcpu.id(), x2apic_format(vcpu));
    let bytes = with(vcpu, |state, registers| {
        let x2apic = is_x2apic(state).then_some((id, format));
        registers.lapic.to_user(x2apic)
    })?;
    task.put(arg, &bytes[..], SITE).map(|()| 0)
}

pub(in crate::ioctl) fn set_lapic(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c:3462 kvm_arch_vcpu_ioctl";
    const FIXUP: &str = "arch/x86/kvm/lapic.c:3260 kvm_apic_state_fixup";
    find_lapic(vcpu, SITE)?;
    let mut new = Box::new([0; KVM_APIC_REG_SIZE]);
    task.get_bytes(arg, &mut new[..], SITE)?;
    if vcpu.kvm().is_td() {
        return protected_apic("arch/x86/kvm/x86.c:2717 kvm_vcpu_ioctl_set_lapic");
    }
    let (id, format) = (vcpu.id(), x2apic_format(vcpu));
    let taken = with(vcpu, |state, registers| {
        let x2apic = is_x2apic(state).then_some((id, format));
        registers.lapic.take(new, x2apic)
    })?;
    drop(vcpu.kvm().apic_map_lock.lock());
    if !taken {
        return fail(Errno::EINVAL, FIXUP, "the id is not the vCPU's");
    }
    Ok(0)
}
