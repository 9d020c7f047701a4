//! KVM_INTERRUPT of x86: an external interrupt, under `vcpu->mutex`.

use seamlock_tdx_abi::kvm::Errno;

use crate::arch::state::NO_VECTOR;
use crate::error::{Result, fail};
use crate::task::Task;
use crate::vcpu::{Vcpu, VcpuRef};
use crate::vm::Irqchip;

/// `KVM_NR_INTERRUPTS`.
const KVM_NR_INTERRUPTS: u32 = 256;

/// `kvm_vcpu_ioctl_interrupt`.
pub(crate) fn interrupt(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c:2770 kvm_vcpu_ioctl_interrupt";
    let irq: u32 = task.get(arg, SITE)?;
    if irq >= KVM_NR_INTERRUPTS {
        return fail(Errno::EINVAL, SITE, "not below KVM_NR_INTERRUPTS");
    }
    match vcpu.kvm().arch.with(|arch| arch.irqchip) {
        Irqchip::None => vcpu.state.with(|state| {
            let events = &mut state.events;
            (events.interrupt_injected, events.interrupt_soft) = (1, 0);
            events.interrupt_nr = irq as u8;
        }),
        Irqchip::Kernel => return fail(Errno::ENXIO, SITE, "the 8259 is in the kernel"),
        Irqchip::Split if vcpu.arch().external_vector.load() != NO_VECTOR => {
            return fail(Errno::EEXIST, SITE, "a vector is pending already");
        }
        Irqchip::Split => {}
    }
    vcpu.arch().external_vector.store(i64::from(irq));
    vcpu.kick();
    Ok(0)
}

/// Whether a vector is queued (`pending_userspace_extint`).
pub(crate) fn is_pending(vcpu: &Vcpu) -> bool {
    vcpu.arch().external_vector.load() != NO_VECTOR
}

/// The guest takes the vector.
pub(crate) fn take(vcpu: &Vcpu) -> Option<u32> {
    let vector = u32::try_from(vcpu.arch().external_vector.load()).ok()?;
    vcpu.arch().external_vector.store(NO_VECTOR);
    Some(vector)
}
