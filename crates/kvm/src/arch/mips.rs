//! MIPS: KVM_INTERRUPT queues or takes back an I/O interrupt, of this vCPU or of another that its
//! argument names, without `vcpu->mutex`.
//!
//! # Locking
//! None: the queue is a bitmap that is changed in one step, then the vCPU is woken.

use seamlock_tdx_abi::kvm::{Errno, KVM_INTERRUPT};

use super::{Arch, Encoding, Handled};
use crate::error::{Result, fail};
use crate::task::Task;
use crate::vcpu::VcpuRef;

/// MIPS.
#[derive(Clone, Copy, Debug)]
pub struct Mips;

/// The machine's.
pub static MIPS: Mips = Mips;

/// `cpu` of `struct kvm_mips_interrupt` for the vCPU itself.
const THIS_VCPU: u32 = -1i32 as u32;
/// Lines of the I/O interrupts.
const IO_LINES: [u32; 4] = [2, 3, 4, 6];

impl Arch for Mips {
    fn name(&self) -> &'static str {
        "mips"
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
}

/// `kvm_vcpu_ioctl_interrupt`. The kernel does not look whether the other vCPU is there.
fn interrupt(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/mips/kvm/mips.c:898 kvm_arch_vcpu_unlocked_ioctl";
    let [cpu, irq]: [u32; 2] = task.get(arg, SITE)?;
    let kvm = vcpu.kvm();
    let named = if cpu == THIS_VCPU {
        Some(vcpu.vcpu())
    } else {
        kvm.vcpus().nth(cpu as usize)
    };
    let Some(named) = named else {
        return fail(Errno::EINVAL, SITE, "there is no vCPU of this index");
    };
    let irq = irq as i32;
    let line = irq.unsigned_abs();
    if !IO_LINES.contains(&line) {
        return fail(Errno::EINVAL, SITE, "not a line of an I/O interrupt");
    }
    if irq > 0 {
        named.arch().queue(line);
    } else {
        named.arch().dequeue(line);
    }
    named.kick();
    Ok(0)
}
