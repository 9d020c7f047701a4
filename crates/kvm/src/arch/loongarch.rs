//! LoongArch: KVM_INTERRUPT queues an interrupt, or takes it back when its number is negative, without
//! `vcpu->mutex`.
//!
//! # Locking
//! None: the queue is a bitmap that is changed in one step, then the vCPU is kicked.

use seamlock_tdx_abi::kvm::{Errno, KVM_INTERRUPT};

use super::{Arch, Handled};
use crate::error::{Result, fail};
use crate::task::Task;
use crate::vcpu::VcpuRef;

/// LoongArch.
#[derive(Clone, Copy, Debug)]
pub struct Loongarch;

/// The machine's.
pub static LOONGARCH: Loongarch = Loongarch;

/// Interrupts that the queue has room for.
const IRQS: u32 = 64;

impl Arch for Loongarch {
    fn name(&self) -> &'static str {
        "loongarch"
    }

    fn kvm_arch_vcpu_unlocked_ioctl(
        &self,
        task: &Task,
        vcpu: &VcpuRef,
        request: u32,
        arg: u64,
    ) -> Handled {
        match request {
            KVM_INTERRUPT => Handled::Yes(interrupt(task, vcpu, arg)),
            _ => Handled::No,
        }
    }
}

/// `kvm_vcpu_ioctl_interrupt`. The kernel sets whatever bit it is told; beyond the bitmap is refused
/// here.
fn interrupt(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/loongarch/kvm/vcpu.c:1492 kvm_arch_vcpu_unlocked_ioctl";
    let irq: i32 = task.get(arg, SITE)?;
    if irq == 0 || irq.unsigned_abs() >= IRQS {
        return fail(Errno::EINVAL, SITE, "no such interrupt");
    }
    if irq > 0 {
        vcpu.arch().queue(irq.unsigned_abs());
    } else {
        vcpu.arch().dequeue(irq.unsigned_abs());
    }
    vcpu.kick();
    Ok(0)
}
