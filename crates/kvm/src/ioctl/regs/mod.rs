//! Register files, events and the like of a vCPU, under `vcpu->mutex`. A TD's registers are protected.
//!
//! Source: Linux v7.3.4 `arch/x86/kvm/regs.c`, `arch/x86/kvm/x86.c`.

mod lapic;
mod state;
mod xstate;

use seamlock_tdx_abi::kvm::{
    Errno, KVM_CAP_EXCEPTION_PAYLOAD, KVM_CAP_X86_TRIPLE_FAULT_EVENT, KVM_VCPU_TSC_CTRL,
    KVM_VCPU_TSC_OFFSET, KvmDeviceAttr, KvmTranslation, KvmVcpuEvents, KvmX86Mce,
};

use crate::error::{Result, fail};
use crate::task::Task;
use crate::vcpu::VcpuRef;

pub(super) use lapic::{get_lapic, set_lapic};
pub(crate) use state::{apply_regs, apply_sregs, is_valid_apic_base, sync_regs};
pub(super) use state::{
    get_debugregs, get_regs, get_sregs, get_sregs2, set_debugregs, set_guest_debug, set_regs,
    set_sregs, set_sregs2,
};
pub(super) use xstate::{get_fpu, get_xcrs, get_xsave, set_fpu, set_xcrs, set_xsave};

const SITE: &str = "arch/x86/kvm/regs.c: has_protected_state && guest_state_protected";

fn refuse<T>() -> Result<T> {
    fail(Errno::EINVAL, SITE, "the guest's state is protected")
}

/// KVM sees no paging in a TD: every address is its own translation, as where paging is off. Page tables
/// of other VMs are not walked: nothing is found.
pub(super) fn translate(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "virt/kvm/kvm_main.c:4615 kvm_vcpu_ioctl";
    let mut translation: KvmTranslation = task.get(arg, SITE)?;
    let _loaded = vcpu.load(task);
    let _srcu = vcpu.kvm().srcu.read();
    let is_paging = |state: &crate::vcpu::State| {
        let registers = state.registers.as_deref();
        registers.is_some_and(|registers| registers.is_paging())
    };
    // All ones is how KVM says that there is no address, also of this one.
    let found =
        !vcpu.state.with(|state| is_paging(state)) && translation.linear_address != u64::MAX;
    translation.physical_address = if found {
        translation.linear_address
    } else {
        u64::MAX
    };
    (translation.valid, translation.writeable) = (found.into(), 1);
    translation.usermode = 0;
    task.put(arg, &translation, SITE)?;
    Ok(0)
}

/// An NMI is pending until the vCPU is entered.
pub(super) fn nmi(_task: &Task, vcpu: &VcpuRef, _arg: u64) -> Result<i64> {
    vcpu.queue_nmi();
    Ok(0)
}

pub(super) fn smi(_task: &Task, vcpu: &VcpuRef, _arg: u64) -> Result<i64> {
    if vcpu.kvm().is_td() {
        const SITE: &str = "arch/x86/kvm/smm.h:143 kvm_inject_smi";
        return fail(Errno::ENOTTY, SITE, "a TD has no SMM");
    }
    vcpu.state.with(|state| state.events.smi_pending = 1);
    Ok(0)
}

const NMI_PENDING: u32 = 1;
const SIPI_VECTOR: u32 = 1 << 1;
const SHADOW: u32 = 1 << 2;
const SMM: u32 = 1 << 3;
const PAYLOAD: u32 = 1 << 4;
const TRIPLE_FAULT: u32 = 1 << 5;

fn is_on(vcpu: &VcpuRef, cap: u32) -> bool {
    let argument = vcpu.kvm().arch.with(|arch| arch.enabled(cap));
    argument.is_some_and(|argument| argument != 0)
}

/// `kvm_vcpu_ioctl_x86_get_vcpu_events`. Interrupt shadow and NMI masking of a TD read as none.
pub(super) fn get_vcpu_events(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    task.put(
        arg,
        &events(vcpu),
        "arch/x86/kvm/x86.c:3591 kvm_arch_vcpu_ioctl",
    )?;
    Ok(0)
}

/// What is told of them.
pub(crate) fn events(vcpu: &VcpuRef) -> KvmVcpuEvents {
    let payload = is_on(vcpu, KVM_CAP_EXCEPTION_PAYLOAD);
    let triple_fault = is_on(vcpu, KVM_CAP_X86_TRIPLE_FAULT_EVENT);
    let mut events = vcpu.state.with(|state| state.events);
    if !payload {
        events.exception_injected |= events.exception_pending;
    }
    (events.sipi_vector, events.nmi_pad, events.reserved) = (0, 0, [0; 26]);
    events.interrupt_soft = 0;
    if vcpu.kvm().is_td() {
        (events.interrupt_shadow, events.nmi_masked) = (0, 0);
    }
    events.flags = NMI_PENDING | SHADOW | SMM;
    if payload {
        events.flags |= PAYLOAD;
    }
    if triple_fault {
        events.flags |= TRIPLE_FAULT;
    } else {
        events.triple_fault_pending = 0;
    }
    events
}

/// `kvm_vcpu_ioctl_x86_set_vcpu_events`.
pub(super) fn set_vcpu_events(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    let new = task.get(arg, "arch/x86/kvm/x86.c:3602 kvm_arch_vcpu_ioctl")?;
    let _srcu = vcpu.kvm().srcu.read();
    apply_events(vcpu, new).map(|()| 0)
}

/// What user space says of them, where it may.
pub(crate) fn apply_events(vcpu: &VcpuRef, mut new: KvmVcpuEvents) -> Result<()> {
    const SITE: &str = "arch/x86/kvm/x86.c:3041 kvm_vcpu_ioctl_x86_set_vcpu_events";
    const KNOWN: u32 = NMI_PENDING | SIPI_VECTOR | SHADOW | SMM | PAYLOAD | TRIPLE_FAULT;
    if new.flags & !KNOWN != 0 {
        return fail(Errno::EINVAL, SITE, "an unknown flag is set");
    }
    if new.flags & PAYLOAD == 0 {
        (new.exception_pending, new.exception_has_payload) = (0, 0);
    } else if !is_on(vcpu, KVM_CAP_EXCEPTION_PAYLOAD) {
        return fail(
            Errno::EINVAL,
            SITE,
            "KVM_CAP_EXCEPTION_PAYLOAD is not enabled",
        );
    } else if new.exception_pending != 0 {
        new.exception_injected = 0;
    } else {
        new.exception_has_payload = 0;
    }
    let exception = new.exception_injected != 0 || new.exception_pending != 0;
    if exception && (new.exception_nr > 31 || new.exception_nr == 2) {
        return fail(Errno::EINVAL, SITE, "no exception has that vector");
    }
    let old = vcpu.state.with(|state| state.events);
    if new.flags & NMI_PENDING == 0 {
        new.nmi_pending = old.nmi_pending;
    }
    if new.flags & SHADOW == 0 {
        new.interrupt_shadow = old.interrupt_shadow;
    }
    if new.flags & SMM == 0 {
        (new.smi_smm, new.smi_pending) = (old.smi_smm, old.smi_pending);
        new.smi_smm_inside_nmi = old.smi_smm_inside_nmi;
        new.smi_latched_init = old.smi_latched_init;
    }
    // What was checked before this flag has taken effect already, as in the kernel.
    let stays = new.flags & TRIPLE_FAULT == 0 || !is_on(vcpu, KVM_CAP_X86_TRIPLE_FAULT_EVENT);
    if stays {
        new.triple_fault_pending = old.triple_fault_pending;
    }
    vcpu.state.with(|state| state.events = new);
    if new.flags & TRIPLE_FAULT != 0 && stays {
        return fail(
            Errno::EINVAL,
            SITE,
            "KVM_CAP_X86_TRIPLE_FAULT_EVENT is not enabled",
        );
    }
    vcpu.kick();
    Ok(())
}

/// `kvm_vcpu_ioctl_x86_set_mce`, as far as its checks: no machine check reaches a guest here.
pub(super) fn set_mce(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c:2879 kvm_vcpu_ioctl_x86_set_mce";
    const VALID: u64 = 1 << 63;
    let mce: KvmX86Mce = task.get(arg, SITE)?;
    let banks = vcpu.state.with(|state| state.mcg_cap) & 0xff;
    if u64::from(mce.bank) >= banks || mce.status & VALID == 0 {
        return fail(
            Errno::EINVAL,
            SITE,
            "no such bank, or the status is not valid",
        );
    }
    Ok(0)
}

fn tsc_attr(task: &Task, arg: u64) -> Result<KvmDeviceAttr> {
    const SITE: &str = "arch/x86/kvm/x86.c:3344 kvm_vcpu_ioctl_device_attr";
    let attr: KvmDeviceAttr = task.get(arg, SITE)?;
    if attr.group != KVM_VCPU_TSC_CTRL || attr.attr != KVM_VCPU_TSC_OFFSET {
        return fail(Errno::ENXIO, SITE, "no such attribute");
    }
    Ok(attr)
}

pub(super) fn has_device_attr(task: &Task, _vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    tsc_attr(task, arg).map(|_| 0)
}

/// The TSC offset of a TD is what the module says.
pub(super) fn get_device_attr(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c:3285 kvm_arch_tsc_get_attr";
    let attr = tsc_attr(task, arg)?;
    let own = vcpu
        .state
        .with(|state| state.registers.as_ref().map(|r| r.tsc_offset));
    let offset = own.unwrap_or_else(|| vcpu.kvm().tdx.config.with(|config| config.tsc_offset));
    task.put(attr.addr, &offset, SITE)?;
    Ok(0)
}

/// Accepted, and without effect on a TD, whose TSC is protected.
pub(super) fn set_device_attr(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c:3305 kvm_arch_tsc_set_attr";
    let attr = tsc_attr(task, arg)?;
    let offset: u64 = task.get(attr.addr, SITE)?;
    vcpu.state.with(|state| {
        if let Some(registers) = &mut state.registers {
            registers.tsc_offset = offset;
        }
    });
    Ok(0)
}
