//! ioctls of a vCPU, under `vcpu->mutex`.

use seamlock_tdx_abi::kvm::{
    Errno, KVM_MP_STATE_AP_RESET_HOLD, KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED,
    KVM_MP_STATE_SIPI_RECEIVED, KVM_MP_STATE_UNINITIALIZED, KVM_X86_TDX_VM, KvmEnableCap,
    KvmMpState, KvmMsrs, KvmPreFaultMemory, KvmSignalMask,
};

use super::system::SUPPORTED_MCE_CAP;
use crate::error::{Result, fail};
use crate::task::Task;
use crate::tdx;
use crate::vcpu::{VcpuRef, kvm_vcpu_pre_fault_memory};
use crate::vm::Irqchip;

pub(super) fn run(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    if arg != 0 {
        const SITE: &str = "virt/kvm/kvm_main.c:4501 kvm_vcpu_ioctl";
        return fail(Errno::EINVAL, SITE, "the argument is not zero");
    }
    vcpu.kvm().host.arch().kvm_arch_vcpu_ioctl_run(task, vcpu)
}

/// `vt_vcpu_mem_enc_ioctl`.
pub(super) fn memory_encrypt_op(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    if vcpu.kvm().host.arch().vm_types() >> KVM_X86_TDX_VM & 1 == 0 {
        const SITE: &str = "arch/x86/kvm/x86.c:3883 kvm_arch_vcpu_ioctl";
        return fail(Errno::ENOTTY, SITE, "AMD has no such operation");
    }
    if !vcpu.kvm().is_td() {
        const SITE: &str = "arch/x86/kvm/vmx/main.c:863 vt_vcpu_mem_enc_ioctl";
        return fail(Errno::EINVAL, SITE, "the VM is no TD");
    }
    tdx::tdx_vcpu_ioctl(task, vcpu, arg)
}

pub(super) fn pre_fault_memory(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "virt/kvm/kvm_main.c:4692 kvm_vcpu_ioctl";
    let mut range: KvmPreFaultMemory = task.get(arg, SITE)?;
    let result = kvm_vcpu_pre_fault_memory(task, vcpu, &mut range);
    // Given back whatever happened.
    task.put(arg, &range, SITE)?;
    result.map(|()| 0)
}

pub(super) fn get_mp_state(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    let _loaded = vcpu.load(task);
    let state = KvmMpState {
        mp_state: vcpu.mp_state(),
    };
    task.put(arg, &state, "virt/kvm/kvm_main.c:4600 kvm_vcpu_ioctl")?;
    Ok(0)
}

pub(super) fn set_mp_state(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c kvm_arch_vcpu_ioctl_set_mpstate";
    let state: KvmMpState = task.get(arg, SITE)?;
    let _loaded = vcpu.load(task);
    let in_kernel = vcpu.kvm().arch.with(|arch| arch.irqchip) != Irqchip::None;
    let mp_state = match state.mp_state {
        KVM_MP_STATE_UNINITIALIZED
        | KVM_MP_STATE_HALTED
        | KVM_MP_STATE_AP_RESET_HOLD
        | KVM_MP_STATE_INIT_RECEIVED
        | KVM_MP_STATE_SIPI_RECEIVED
            if !in_kernel =>
        {
            return fail(
                Errno::EINVAL,
                SITE,
                "the state needs a local APIC in the kernel",
            );
        }
        // SIPI_RECEIVED is kept as INIT_RECEIVED with a SIPI pending.
        KVM_MP_STATE_SIPI_RECEIVED => KVM_MP_STATE_INIT_RECEIVED,
        known @ (0..=3 | KVM_MP_STATE_AP_RESET_HOLD) => known,
        _ => return fail(Errno::EINVAL, SITE, "no such state"),
    };
    vcpu.set_mp_state(mp_state);
    Ok(0)
}

/// Which signals are blocked while KVM_RUN runs; without an argument the thread's own mask counts again.
pub(super) fn set_signal_mask(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "virt/kvm/kvm_main.c:4639 kvm_vcpu_ioctl";
    /// SIGKILL and SIGSTOP can't be blocked.
    const NEVER: u64 = 1 << 8 | 1 << 18;
    let mut mask = None;
    if arg != 0 {
        let header: KvmSignalMask = task.get(arg, SITE)?;
        if header.len as usize != size_of::<u64>() {
            return fail(Errno::EINVAL, SITE, "len is not that of a signal set");
        }
        let set: u64 = task.get(arg.wrapping_add(size_of::<KvmSignalMask>() as u64), SITE)?;
        mask = Some(set & !NEVER);
    }
    vcpu.state.with(|state| state.signal_mask = mask);
    Ok(0)
}

/// `kvm_set_guest_paused`. A TD's clock is the module's, and VMs that are no TDs never run.
pub(super) fn kvmclock_ctrl(_task: &Task, _vcpu: &VcpuRef, _arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c kvm_set_guest_paused";
    fail(Errno::EINVAL, SITE, "the guest has no kvmclock")
}

/// Registers of a vCPU whose state is protected: refused. VMs that are no TDs have none here either.
pub(super) fn get_protected(_task: &Task, _vcpu: &VcpuRef, _arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/regs.c: has_protected_state && guest_state_protected";
    fail(Errno::EINVAL, SITE, "the guest's state is protected")
}

pub(super) fn set_tsc_khz(_task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c:3724 kvm_arch_vcpu_ioctl";
    if vcpu.kvm().is_td() {
        return fail(Errno::EINVAL, SITE, "the TSC of a TD is the module's");
    }
    vcpu.state.with(|state| state.tsc_khz = arg as u32);
    Ok(0)
}

pub(super) fn get_tsc_khz(_task: &Task, vcpu: &VcpuRef, _arg: u64) -> Result<i64> {
    Ok(vcpu.state.with(|state| i64::from(state.tsc_khz)))
}

/// MSRs that KVM emulates for a TD and that have a value here.
fn msr(vcpu: &VcpuRef, index: u32) -> Option<u64> {
    vcpu.state.with(|state| match index {
        0x1b => Some(state.apic_base),
        0x3a => Some(1),
        0x8b => Some(0x1_0000_0000),
        0x179 => Some(state.mcg_cap),
        0xc000_0080 => Some(0xd01),
        0x10 | 0x17a | 0x17b | 0x1a0 | 0x6e0 => Some(0),
        _ => None,
    })
}

/// Returns how many were read; the first unknown one ends it.
pub(super) fn get_msrs(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    msr_io(task, arg, |at, index| match msr(vcpu, index) {
        Some(value) => task.put(at, &value, MSR_SITE).map(|()| true),
        None => Ok(false),
    })
}

/// Returns how many were accepted; the first that is read-only or unknown ends it.
pub(super) fn set_msrs(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const READ_ONLY: [u32; 3] = [0x1b, 0x3a, 0xc000_0080];
    msr_io(task, arg, |at, index| {
        let _: u64 = task.get(at, MSR_SITE)?;
        Ok(msr(vcpu, index).is_some() && !READ_ONLY.contains(&index))
    })
}

const MSR_SITE: &str = "arch/x86/kvm/msrs.c msr_io";

fn msr_io(task: &Task, arg: u64, each: impl Fn(u64, u32) -> Result<bool>) -> Result<i64> {
    let header: KvmMsrs = task.get(arg, MSR_SITE)?;
    if header.nmsrs >= 256 {
        return fail(Errno::E2BIG, MSR_SITE, "256 MSRs or more");
    }
    for i in 0..u64::from(header.nmsrs) {
        let at = arg.wrapping_add(8 + 16 * i);
        let index: u32 = task.get(at, MSR_SITE)?;
        if !each(at.wrapping_add(8), index)? {
            return Ok(i as i64);
        }
    }
    Ok(i64::from(header.nmsrs))
}

pub(super) fn setup_mce(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c kvm_vcpu_ioctl_x86_setup_mce";
    let cap: u64 = task.get(arg, SITE)?;
    let banks = cap & 0xff;
    let known = SUPPORTED_MCE_CAP | 0xff | 0xff_0000;
    if banks == 0 || banks > 32 || cap & !known != 0 {
        return fail(
            Errno::EINVAL,
            SITE,
            "no bank, too many banks, or an unknown bit",
        );
    }
    vcpu.state.with(|state| state.mcg_cap = cap);
    Ok(0)
}

pub(super) fn tpr_access_reporting(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c vcpu_ioctl_tpr_access_reporting";
    let control: [u32; 10] = task.get(arg, SITE)?;
    if control[1] != 0 {
        return fail(Errno::EINVAL, SITE, "flags are not zero");
    }
    if vcpu.kvm().arch.with(|arch| arch.irqchip) == Irqchip::None {
        return fail(Errno::EINVAL, SITE, "there is no local APIC in the kernel");
    }
    task.put(arg, &control, SITE)?;
    Ok(0)
}

pub(super) fn set_vapic_addr(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c kvm_arch_vcpu_ioctl: SET_VAPIC_ADDR";
    if vcpu.kvm().arch.with(|arch| arch.irqchip) == Irqchip::None {
        return fail(Errno::EINVAL, SITE, "there is no local APIC in the kernel");
    }
    task.get::<u64>(arg, SITE).map(|_| 0)
}

pub(super) fn enable_cap(task: &Task, _vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c kvm_vcpu_ioctl_enable_cap";
    let _: KvmEnableCap = task.get(arg, SITE)?;
    fail(
        Errno::EINVAL,
        SITE,
        "the capability can't be enabled on a vCPU",
    )
}
