//! ioctls of a vCPU, under `vcpu->mutex`.

use seamlock_tdx_abi::Gpa;
use seamlock_tdx_abi::kvm::{
    Errno, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, KVM_CAP_HYPERV_DIRECT_TLBFLUSH,
    KVM_CAP_HYPERV_ENFORCE_CPUID, KVM_CAP_HYPERV_ENLIGHTENED_VMCS, KVM_CAP_HYPERV_SYNIC,
    KVM_CAP_HYPERV_SYNIC2, KVM_MP_STATE_AP_RESET_HOLD, KVM_MP_STATE_HALTED,
    KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_SIPI_RECEIVED,
    KVM_MP_STATE_UNINITIALIZED, KVM_X86_TDX_VM, KvmEnableCap, KvmMpState, KvmPreFaultMemory,
    KvmSignalMask, KvmTprAccessCtl, KvmVapicAddr,
};

use super::hyperv::EVMCS_VERSIONS;
use super::system::SUPPORTED_MCE_CAP;
use super::vm::MAX_GUEST_TSC_KHZ;
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
    let state = {
        let _loaded = vcpu.load(task);
        let _srcu = vcpu.kvm().srcu.read();
        let mp_state = match vcpu.mp_state() {
            KVM_MP_STATE_HALTED | KVM_MP_STATE_AP_RESET_HOLD if vcpu.is_unhalted() => {
                KVM_MP_STATE_RUNNABLE
            }
            state => state,
        };
        KvmMpState { mp_state }
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

pub(super) fn set_tsc_khz(_task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c:3724 kvm_arch_vcpu_ioctl";
    if vcpu.kvm().is_td() {
        return fail(Errno::EINVAL, SITE, "the TSC of a TD is the module's");
    }
    let khz = match arg as u32 {
        0 => (vcpu.kvm().host.module().platform().native_tsc_hz / 1000) as u32,
        khz if khz >= MAX_GUEST_TSC_KHZ => {
            return fail(Errno::EINVAL, SITE, "beyond what TSC scaling reaches");
        }
        khz => khz,
    };
    vcpu.state.with(|state| state.tsc_khz = khz);
    Ok(0)
}

pub(super) fn get_tsc_khz(_task: &Task, vcpu: &VcpuRef, _arg: u64) -> Result<i64> {
    Ok(vcpu.state.with(|state| i64::from(state.tsc_khz)))
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
    const CMCI: u64 = 1 << 10;
    vcpu.state.with(|state| {
        state.mcg_cap = cap;
        if let Some(registers) = &mut state.registers {
            registers.lapic.set_cmci(cap & CMCI != 0);
        }
    });
    Ok(0)
}

pub(super) fn tpr_access_reporting(task: &Task, _vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c vcpu_ioctl_tpr_access_reporting";
    let control: KvmTprAccessCtl = task.get(arg, SITE)?;
    if control.flags != 0 {
        return fail(Errno::EINVAL, SITE, "flags are not zero");
    }
    task.put(arg, &control, SITE)?;
    Ok(0)
}

pub(super) fn set_vapic_addr(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c kvm_arch_vcpu_ioctl: SET_VAPIC_ADDR";
    if vcpu.kvm().arch.with(|arch| arch.irqchip) == Irqchip::None {
        return fail(Errno::EINVAL, SITE, "there is no local APIC in the kernel");
    }
    let vapic: KvmVapicAddr = task.get(arg, SITE)?;
    let kvm = vcpu.kvm();
    let _srcu = kvm.srcu.read();
    let last = vapic.vapic_addr.wrapping_add(3);
    let in_slot = |addr: u64| kvm.memslots.of_gfn(Gpa(addr).gfn()).is_some();
    if vapic.vapic_addr != 0 && !(in_slot(vapic.vapic_addr) && in_slot(last)) {
        const SITE: &str = "arch/x86/kvm/lapic.c kvm_lapic_set_vapic_addr";
        return fail(Errno::EINVAL, SITE, "no memslot is at the address");
    }
    Ok(0)
}

/// What Hyper-V's CPUID allows is a matter of a guest's own accesses, of which there are none.
pub(super) fn enable_cap(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c:3372 kvm_vcpu_ioctl_enable_cap";
    let cap: KvmEnableCap = task.get(arg, SITE)?;
    if cap.flags != 0 {
        return fail(Errno::EINVAL, SITE, "flags are not zero");
    }
    match cap.cap {
        KVM_CAP_ENFORCE_PV_FEATURE_CPUID => {
            let enforce = cap.args[0] != 0;
            vcpu.state.with(|state| state.enforce_pv_features = enforce);
            Ok(0)
        }
        KVM_CAP_HYPERV_ENFORCE_CPUID => Ok(0),
        KVM_CAP_HYPERV_SYNIC2 if cap.args[0] != 0 => {
            fail(Errno::EINVAL, SITE, "the argument is not zero")
        }
        KVM_CAP_HYPERV_SYNIC | KVM_CAP_HYPERV_SYNIC2 => {
            if vcpu.kvm().arch.with(|arch| arch.irqchip) == Irqchip::None {
                return fail(Errno::EINVAL, SITE, "there is no local APIC in the kernel");
            }
            vcpu.state.with(|state| state.hyperv.activate_synic());
            Ok(0)
        }
        KVM_CAP_HYPERV_ENLIGHTENED_VMCS => {
            vcpu.state.with(|state| state.nested.evmcs_enabled = true);
            task.put(cap.args[0], &EVMCS_VERSIONS, SITE)?;
            Ok(0)
        }
        KVM_CAP_HYPERV_DIRECT_TLBFLUSH => {
            fail(Errno::ENOTTY, SITE, "KVM does not run on Hyper-V itself")
        }
        _ => fail(
            Errno::EINVAL,
            SITE,
            "the capability can't be enabled on a vCPU",
        ),
    }
}
