//! riscv: KVM_INTERRUPT raises or lowers the supervisor's external interrupt, without
//! `vcpu->mutex`.
//!
//! # Locking
//! None: the queue is a bitmap that is changed in one step, then the vCPU is kicked.

use seamlock_tdx_abi::kvm::KVM_INTERRUPT;

use super::{Arch, Handled};
use crate::error::Result;
use crate::task::Task;
use crate::vcpu::VcpuRef;

/// riscv.
#[derive(Clone, Copy, Debug)]
pub struct Riscv;

/// The machine's.
pub static RISCV: Riscv = Riscv;

/// `KVM_INTERRUPT_SET`; anything else lowers.
const KVM_INTERRUPT_SET: u32 = -1i32 as u32;
/// `IRQ_VS_EXT`.
const IRQ_VS_EXT: u32 = 10;

impl Arch for Riscv {
    fn name(&self) -> &'static str {
        "riscv"
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

fn interrupt(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/riscv/kvm/vcpu.c:261 kvm_arch_vcpu_unlocked_ioctl";
    let irq: u32 = task.get(arg, SITE)?;
    if irq == KVM_INTERRUPT_SET {
        vcpu.arch().queue(IRQ_VS_EXT);
        vcpu.kick();
    } else {
        vcpu.arch().dequeue(IRQ_VS_EXT);
    }
    Ok(0)
}
