//! Interrupts of a VM: routes, MSIs, and the controllers that user space may ask the kernel for. A TD has
//! its local APICs in the kernel and nothing else.
//!
//! Source: Linux v7.3.4 `arch/x86/kvm/x86.c`, `arch/x86/kvm/irq.c`, `virt/kvm/irqchip.c`.

use std::collections::BTreeSet;
use std::sync::Arc;

use seamlock_tdx_abi::kvm::{
    Errno, KVM_CAP_X2APIC_API, KVM_IRQ_ROUTING_MSI, KVM_MSI_VALID_DEVID,
    KVM_X2APIC_API_USE_32BIT_IDS, KvmIrqLevel, KvmIrqRouting, KvmIrqRoutingEntry, KvmMsi,
    KvmPitConfig,
};
use zerocopy::{FromZeros, IntoBytes};

use crate::error::{Result, fail};
use crate::task::Task;
use crate::vm::{Irqchip, Kvm};

type Vm = Arc<Kvm>;

/// `KVM_MAX_IRQ_ROUTES`.
const MAX_IRQ_ROUTES: u32 = 4096;
/// Bytes of `struct kvm_irqchip`, `kvm_pit_state` and `kvm_pit_state2`.
const IRQCHIP_BYTES: usize = 520;
const PIT_BYTES: usize = 72;
const PIT2_BYTES: usize = 112;

fn irqchip(kvm: &Kvm) -> Irqchip {
    kvm.arch.with(|arch| arch.irqchip)
}

fn x2apic_format(kvm: &Kvm) -> bool {
    let api = kvm.arch.with(|arch| arch.enabled(KVM_CAP_X2APIC_API));
    api.unwrap_or(0) & KVM_X2APIC_API_USE_32BIT_IDS != 0
}

pub(super) fn create_irqchip(_task: &Task, kvm: &Vm, _arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c:4426 kvm_arch_vm_ioctl";
    let _lock = kvm.lock.lock();
    let created = kvm.created_vcpus.load();
    let td = kvm.is_td();
    kvm.arch.with(|arch| {
        if arch.irqchip != Irqchip::None {
            return fail(Errno::EEXIST, SITE, "there is an irqchip already");
        }
        if td {
            return fail(Errno::ENOTTY, SITE, "EOIs of a TD can't be intercepted");
        }
        if created != 0 {
            return fail(Errno::EINVAL, SITE, "the VM has vCPUs already");
        }
        arch.irqchip = Irqchip::Kernel;
        Ok(0)
    })
}

/// The state of an interrupt controller: only a full irqchip has one, and that of VMs that are no TDs
/// is not modelled.
pub(super) fn irqchip_state(task: &Task, kvm: &Vm, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c:4493 kvm_arch_vm_ioctl";
    task.get_bytes(arg, &mut [0; IRQCHIP_BYTES], SITE)?;
    if irqchip(kvm) != Irqchip::Kernel {
        return fail(
            Errno::ENXIO,
            SITE,
            "the irqchip is not in the kernel as a whole",
        );
    }
    const OURS: &str = "seamlock: no interrupt controller is modelled";
    fail(Errno::EINVAL, OURS, "only TDs have guest code")
}

pub(super) fn create_pit(_task: &Task, kvm: &Vm, _arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c:4473 kvm_arch_vm_ioctl";
    let _lock = kvm.lock.lock();
    if irqchip(kvm) != Irqchip::Kernel {
        return fail(Errno::ENOENT, SITE, "there is no PIC in the kernel");
    }
    const OURS: &str = "seamlock: no timer chip is modelled";
    fail(Errno::ENOMEM, OURS, "only TDs have guest code")
}

pub(super) fn create_pit2(task: &Task, kvm: &Vm, arg: u64) -> Result<i64> {
    let _: KvmPitConfig = task.get(arg, "arch/x86/kvm/x86.c:4473 kvm_arch_vm_ioctl")?;
    create_pit(task, kvm, arg)
}

fn no_pit() -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c:4535 kvm_arch_vm_ioctl";
    fail(Errno::ENXIO, SITE, "there is no PIT in the kernel")
}

/// KVM_GET_PIT, KVM_SET_PIT: the copy comes first.
pub(super) fn pit(task: &Task, _kvm: &Vm, arg: u64) -> Result<i64> {
    task.get_bytes(
        arg,
        &mut [0; PIT_BYTES],
        "arch/x86/kvm/x86.c:4535 kvm_arch_vm_ioctl",
    )?;
    no_pit()
}

pub(super) fn get_pit2(_task: &Task, _kvm: &Vm, _arg: u64) -> Result<i64> {
    no_pit()
}

pub(super) fn set_pit2(task: &Task, _kvm: &Vm, arg: u64) -> Result<i64> {
    task.get_bytes(
        arg,
        &mut [0; PIT2_BYTES],
        "arch/x86/kvm/x86.c:4577 kvm_arch_vm_ioctl",
    )?;
    no_pit()
}

pub(super) fn reinject_control(task: &Task, _kvm: &Vm, arg: u64) -> Result<i64> {
    task.get_bytes(
        arg,
        &mut [0; 32],
        "arch/x86/kvm/x86.c:4590 kvm_arch_vm_ioctl",
    )?;
    no_pit()
}

/// Interrupt routes. They are checked and not kept, as no device raises interrupts.
pub(super) fn set_gsi_routing(task: &Task, kvm: &Vm, arg: u64) -> Result<i64> {
    const SITE: &str = "virt/kvm/kvm_main.c:5357 kvm_vm_ioctl";
    let header: KvmIrqRouting = task.get(arg, SITE)?;
    if irqchip(kvm) == Irqchip::None {
        return fail(Errno::EINVAL, SITE, "there is no irqchip in the kernel");
    }
    if header.nr > MAX_IRQ_ROUTES || header.flags != 0 {
        return fail(Errno::EINVAL, SITE, "too many routes, or flags");
    }
    let mut entries = vec![KvmIrqRoutingEntry::new_zeroed(); header.nr as usize];
    let at = arg.wrapping_add(size_of::<KvmIrqRouting>() as u64);
    task.get_bytes(at, entries.as_mut_bytes(), SITE)?;
    check_routes(kvm, &entries).map(|()| 0)
}

/// `kvm_set_irq_routing`, of a VM without interrupt controllers but its local APICs.
fn check_routes(kvm: &Kvm, entries: &[KvmIrqRoutingEntry]) -> Result<()> {
    const SITE: &str = "virt/kvm/irqchip.c:168 kvm_set_irq_routing";
    if entries.iter().any(|entry| entry.gsi >= MAX_IRQ_ROUTES) {
        return fail(Errno::EINVAL, SITE, "a GSI is not below KVM_MAX_IRQ_ROUTES");
    }
    if irqchip(kvm) == Irqchip::Kernel {
        return Ok(());
    }
    let mut seen = BTreeSet::new();
    for entry in entries {
        const SITE: &str = "arch/x86/kvm/irq.c:296 kvm_set_routing_entry";
        let msi = entry.r#type == KVM_IRQ_ROUTING_MSI;
        if entry.flags & !(if msi { KVM_MSI_VALID_DEVID } else { 0 }) != 0 {
            return fail(Errno::EINVAL, SITE, "an unknown flag is set");
        }
        if !seen.insert(entry.gsi) {
            return fail(Errno::EINVAL, SITE, "the GSI has a route already");
        }
        if !msi || (x2apic_format(kvm) && entry.u[1] & 0xff != 0) {
            return fail(Errno::EINVAL, SITE, "no MSI, or its address is not one");
        }
    }
    Ok(())
}

pub(super) fn irq_line(task: &Task, kvm: &Vm, arg: u64) -> Result<i64> {
    line(task, kvm, arg).map(|_| 0)
}

/// Tells what became of it: no route leads to a local APIC, so it was ignored.
pub(super) fn irq_line_status(task: &Task, kvm: &Vm, arg: u64) -> Result<i64> {
    let mut event = line(task, kvm, arg)?;
    event.irq = u32::MAX;
    task.put(arg, &event, "virt/kvm/kvm_main.c:5333 kvm_vm_ioctl")?;
    Ok(0)
}

fn line(task: &Task, kvm: &Kvm, arg: u64) -> Result<KvmIrqLevel> {
    const SITE: &str = "arch/x86/kvm/irq.c:279 kvm_vm_ioctl_irq_line";
    let event: KvmIrqLevel = task.get(arg, SITE)?;
    if irqchip(kvm) == Irqchip::None {
        return fail(Errno::ENXIO, SITE, "there is no irqchip in the kernel");
    }
    Ok(event)
}

/// Accepted and dropped: no interrupt is posted to a guest.
pub(super) fn signal_msi(task: &Task, kvm: &Vm, arg: u64) -> Result<i64> {
    const SITE: &str = "virt/kvm/irqchip.c:48 kvm_send_userspace_msi";
    let msi: KvmMsi = task.get(arg, SITE)?;
    if irqchip(kvm) == Irqchip::None || msi.flags & !KVM_MSI_VALID_DEVID != 0 {
        let reason = "there is no irqchip in the kernel, or an unknown flag is set";
        return fail(Errno::EINVAL, SITE, reason);
    }
    if x2apic_format(kvm) && msi.address_hi & 0xff != 0 {
        const SITE: &str = "arch/x86/kvm/irq.c:225 kvm_set_msi";
        return fail(Errno::EINVAL, SITE, "the address is not one of an MSI");
    }
    Ok(0)
}
