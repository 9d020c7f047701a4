//! KVM_GET_FPU, KVM_GET_XSAVE, KVM_GET_XCRS and their opposites.
//!
//! Source: Linux v7.3.4 `arch/x86/kvm/x86.c`.

use seamlock_tdx_abi::kvm::{Errno, KVM_XSAVE_BYTES, KvmFpu, KvmXcr, KvmXcrs};
use zerocopy::FromZeros;

use super::state::{COPY, with};
use crate::error::{Result, fail};
use crate::ioctl::supported_xcr0;
use crate::task::Task;
use crate::vcpu::VcpuRef;
use crate::vcpu::registers::Caps;

pub(in crate::ioctl) fn get_fpu(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    let fpu = with(vcpu, |_, registers| registers.xsave.fpu())?;
    drop(vcpu.load(task));
    task.put(arg, &fpu, COPY).map(|()| 0)
}

pub(in crate::ioctl) fn set_fpu(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    let new: KvmFpu = task.get(arg, COPY)?;
    with(vcpu, |_, registers| registers.xsave.set_fpu(&new))?;
    drop(vcpu.load(task));
    Ok(0)
}

/// KVM_GET_XSAVE and KVM_GET_XSAVE2, which is no larger without AMX.
pub(in crate::ioctl) fn get_xsave(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c:3639 kvm_arch_vcpu_ioctl";
    let host = &vcpu.kvm().host;
    let bytes = with(vcpu, |state, registers| {
        let xcr0 = Caps::new(host, &state.cpuid).xcr0();
        registers.xsave.to_user(host.module().platform(), xcr0)
    })?;
    task.put(arg, &bytes[..], SITE).map(|()| 0)
}

pub(in crate::ioctl) fn set_xsave(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c:3190 kvm_vcpu_ioctl_x86_set_xsave";
    let mut new = Box::new([0; KVM_XSAVE_BYTES]);
    task.get_bytes(arg, &mut new[..], COPY)?;
    let supported = supported_xcr0(&vcpu.kvm().host);
    if !with(vcpu, |_, registers| registers.xsave.take(new, supported))? {
        const WHY: &str = "a component that KVM lacks, a reserved bit of MXCSR or of the header";
        return fail(Errno::EINVAL, SITE, WHY);
    }
    Ok(0)
}

pub(in crate::ioctl) fn get_xcrs(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    let value = with(vcpu, |_, registers| registers.xcr0)?;
    let mut xcrs = KvmXcrs::new_zeroed();
    xcrs.nr_xcrs = 1;
    xcrs.xcrs[0] = KvmXcr {
        value,
        ..KvmXcr::new_zeroed()
    };
    task.put(arg, &xcrs, "arch/x86/kvm/x86.c:3692 kvm_arch_vcpu_ioctl")
        .map(|()| 0)
}

pub(in crate::ioctl) fn set_xcrs(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c:3238 kvm_vcpu_ioctl_x86_set_xcrs";
    let new: KvmXcrs = task.get(arg, COPY)?;
    let host = &vcpu.kvm().host;
    let taken = with(vcpu, |state, registers| {
        if new.nr_xcrs as usize > new.xcrs.len() || new.flags != 0 {
            return Err("too many registers, or flags that are not zero");
        }
        let listed = new.xcrs.iter().take(new.nr_xcrs as usize);
        let Some(xcr0) = listed
            .filter(|xcr| xcr.xcr == 0)
            .map(|xcr| xcr.value)
            .next()
        else {
            return Ok(());
        };
        if !Caps::new(host, &state.cpuid).is_valid_xcr0(xcr0) {
            return Err("XCR0 has a component that the guest lacks, or half of one");
        }
        registers.xcr0 = xcr0;
        Ok(())
    })?;
    taken
        .or_else(|why| fail(Errno::EINVAL, SITE, why))
        .map(|()| 0)
}
