//! PowerPC: KVM_INTERRUPT raises or lowers the external interrupt, without `vcpu->mutex`.
//!
//! # Locking
//! None: the queue is a bitmap that is changed in one step, then the vCPU is kicked.

use seamlock_tdx_abi::kvm::{KVM_CAP_PPC_UNSET_IRQ, KVM_INTERRUPT};

use super::{Arch, Encoding, Handled};
use crate::error::Result;
use crate::task::Task;
use crate::vcpu::VcpuRef;

/// PowerPC.
#[derive(Clone, Copy, Debug)]
pub struct Powerpc;

/// The machine's.
pub static POWERPC: Powerpc = Powerpc;

/// `KVM_INTERRUPT_UNSET`; `SET` and `SET_LEVEL` raise.
const KVM_INTERRUPT_UNSET: u32 = -2i32 as u32;
/// `BOOK3S_IRQPRIO_EXTERNAL`.
const IRQPRIO_EXTERNAL: u32 = 15;

impl Arch for Powerpc {
    fn name(&self) -> &'static str {
        "powerpc"
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

    fn encoding(&self) -> Encoding {
        Encoding::ThreeDirectionBits
    }

    fn caps(&self) -> &'static [(u32, i64)] {
        &[(KVM_CAP_PPC_UNSET_IRQ, 1)]
    }
}

/// `kvm_vcpu_ioctl_interrupt`.
fn interrupt(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/powerpc/kvm/powerpc.c:2057 kvm_arch_vcpu_unlocked_ioctl";
    let irq: u32 = task.get(arg, SITE)?;
    if irq == KVM_INTERRUPT_UNSET {
        vcpu.arch().dequeue(IRQPRIO_EXTERNAL);
        return Ok(0);
    }
    vcpu.arch().queue(IRQPRIO_EXTERNAL);
    vcpu.kick();
    Ok(0)
}
