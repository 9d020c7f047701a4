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

/// `EXCCODE_INT_NUM`.
const IRQS: u32 = 15;
/// `INT_AVEC`, of a guest with message interrupts, which none has here.
const INT_AVEC: u32 = 14;

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

/// `kvm_vcpu_ioctl_interrupt`.
fn interrupt(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/loongarch/kvm/vcpu.c kvm_vcpu_ioctl_interrupt";
    let irq: i32 = task.get(arg, SITE)?;
    let vector = irq.unsigned_abs();
    if irq == 0 || vector >= IRQS || vector == INT_AVEC {
        return fail(Errno::EINVAL, SITE, "no such interrupt");
    }
    if irq > 0 {
        vcpu.arch().queue(vector);
    } else {
        vcpu.arch().dequeue(vector);
    }
    vcpu.kick();
    Ok(0)
}
