//! Register files, events and the like of a vCPU, under `vcpu->mutex`. A TD's are protected: refused,
//! in the kernel's order of copy and check. VMs that are no TDs never run, and have none here either.
//!
//! Source: Linux v7.3.4 `arch/x86/kvm/regs.c`, `arch/x86/kvm/x86.c`.

use seamlock_tdx_abi::kvm::{
    Errno, KVM_APIC_REG_SIZE, KVM_CAP_EXCEPTION_PAYLOAD, KVM_CAP_X86_TRIPLE_FAULT_EVENT,
    KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KvmDeviceAttr, KvmTranslation, KvmVcpuEvents,
    KvmX86Mce,
};
use zerocopy::{FromBytes, IntoBytes};

use crate::error::{Result, fail};
use crate::task::Task;
use crate::vcpu::VcpuRef;
use crate::vm::Irqchip;

const SITE: &str = "arch/x86/kvm/regs.c: has_protected_state && guest_state_protected";

fn refuse() -> Result<i64> {
    fail(Errno::EINVAL, SITE, "the guest's state is protected")
}

/// Refused before anything is copied: all that are read, and KVM_SET_SREGS2.
pub(super) fn protected(_task: &Task, _vcpu: &VcpuRef, _arg: u64) -> Result<i64> {
    refuse()
}

/// Refused after the structure was copied in.
pub(super) fn set_protected<T: FromBytes + IntoBytes>(
    task: &Task,
    _vcpu: &VcpuRef,
    arg: u64,
) -> Result<i64> {
    let _: T = task.get(arg, "virt/kvm/kvm_main.c:4464 kvm_vcpu_ioctl")?;
    refuse()
}

/// A local APIC in user space is looked for before the copy.
pub(super) fn set_lapic(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c:3462 kvm_arch_vcpu_ioctl";
    if vcpu.kvm().arch.with(|arch| arch.irqchip) == Irqchip::None {
        return fail(Errno::EINVAL, SITE, "there is no local APIC in the kernel");
    }
    task.get_bytes(arg, &mut [0; KVM_APIC_REG_SIZE], SITE)?;
    const PROTECTED: &str = "arch/x86/kvm/x86.c:2717 kvm_vcpu_ioctl_set_lapic";
    fail(Errno::EINVAL, PROTECTED, "the local APIC is protected")
}

/// KVM sees no paging in a TD: every address is its own translation.
pub(super) fn translate(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "virt/kvm/kvm_main.c:4615 kvm_vcpu_ioctl";
    let mut translation: KvmTranslation = task.get(arg, SITE)?;
    let _loaded = vcpu.load(task);
    let _srcu = vcpu.kvm().srcu.read();
    translation.physical_address = translation.linear_address;
    (translation.valid, translation.writeable) = (1, 1);
    translation.usermode = 0;
    task.put(arg, &translation, SITE)?;
    Ok(0)
}

/// An NMI is pending until the vCPU is entered.
pub(super) fn nmi(_task: &Task, vcpu: &VcpuRef, _arg: u64) -> Result<i64> {
    vcpu.state.with(|state| {
        let pending = &mut state.events.nmi_pending;
        *pending = pending.saturating_add(1).min(2);
    });
    vcpu.kick();
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
    let payload = is_on(vcpu, KVM_CAP_EXCEPTION_PAYLOAD);
    let triple_fault = is_on(vcpu, KVM_CAP_X86_TRIPLE_FAULT_EVENT);
    let mut events = vcpu.state.with(|state| state.events);
    if !payload {
        events.exception_injected |= events.exception_pending;
    }
    (events.sipi_vector, events.nmi_pad, events.reserved) = (0, 0, [0; 26]);
    (
        events.interrupt_soft,
        events.interrupt_shadow,
        events.nmi_masked,
    ) = (0, 0, 0);
    events.flags = NMI_PENDING | SHADOW | SMM;
    if payload {
        events.flags |= PAYLOAD;
    }
    if triple_fault {
        events.flags |= TRIPLE_FAULT;
    } else {
        events.triple_fault_pending = 0;
    }
    task.put(arg, &events, "arch/x86/kvm/x86.c:3591 kvm_arch_vcpu_ioctl")?;
    Ok(0)
}

/// `kvm_vcpu_ioctl_x86_set_vcpu_events`.
pub(super) fn set_vcpu_events(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c:3041 kvm_vcpu_ioctl_x86_set_vcpu_events";
    const KNOWN: u32 = NMI_PENDING | SIPI_VECTOR | SHADOW | SMM | PAYLOAD | TRIPLE_FAULT;
    let mut new: KvmVcpuEvents = task.get(arg, SITE)?;
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
    Ok(0)
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
    let offset = vcpu.kvm().tdx.config.with(|config| config.tsc_offset);
    task.put(attr.addr, &offset, SITE)?;
    Ok(0)
}

/// Accepted, and without effect on a TD, whose TSC is protected.
pub(super) fn set_device_attr(task: &Task, _vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c:3305 kvm_arch_tsc_set_attr";
    let attr = tsc_attr(task, arg)?;
    task.get::<u64>(attr.addr, SITE).map(|_| 0)
}
