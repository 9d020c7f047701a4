//! s390: KVM_S390_IRQ and KVM_S390_INTERRUPT inject a local interrupt, without `vcpu->mutex`.
//!
//! # Locking
//! `vcpu->arch.local_int.lock`, a spinlock, for who injects and for the vCPU that takes.

use seamlock_tdx_abi::kvm::{_iow, Errno, KVM_CAP_S390_INJECT_IRQ};

use super::{Arch, Handled, stand_in};
use crate::error::{Result, fail};
use crate::task::Task;
use crate::vcpu::{Vcpu, VcpuRef};

/// s390.
#[derive(Clone, Copy, Debug)]
pub struct S390x;

/// The machine's.
pub static S390: S390x = S390x;

/// `KVM_S390_INTERRUPT`: `struct kvm_s390_interrupt`, 16 bytes.
pub const KVM_S390_INTERRUPT: u32 = _iow(0x94, 16);
/// `KVM_S390_IRQ`: `struct kvm_s390_irq`, 72 bytes.
pub const KVM_S390_IRQ: u32 = _iow(0xb4, 72);

/// Local interrupts by priority: type, and bit in `pending_irqs` here.
const LOCAL: &[(u64, u32)] = &[
    (PROGRAM_INT, 0),
    (INT_EMERGENCY, 1),
    (INT_EXTERNAL_CALL, 2),
    (INT_CLOCK_COMP, 3),
    (INT_CPU_TIMER, 4),
    (RESTART, 5),
];

/// `KVM_S390_PROGRAM_INT`.
pub const PROGRAM_INT: u64 = 0xfffe_0001;
/// `KVM_S390_RESTART`.
pub const RESTART: u64 = 0xfffe_0003;
/// `KVM_S390_INT_CLOCK_COMP`.
pub const INT_CLOCK_COMP: u64 = 0xffff_1004;
/// `KVM_S390_INT_CPU_TIMER`.
pub const INT_CPU_TIMER: u64 = 0xffff_1005;
/// `KVM_S390_INT_EMERGENCY`.
pub const INT_EMERGENCY: u64 = 0xffff_1201;
/// `KVM_S390_INT_EXTERNAL_CALL`.
pub const INT_EXTERNAL_CALL: u64 = 0xffff_1202;

const SITE: &str = "arch/s390/kvm/s390/s390.c:5416 kvm_arch_vcpu_unlocked_ioctl";

impl Arch for S390x {
    fn name(&self) -> &'static str {
        "s390"
    }

    fn kvm_arch_vcpu_unlocked_ioctl(
        &self,
        task: &Task,
        vcpu: &VcpuRef,
        request: u32,
        arg: u64,
    ) -> Handled {
        match request {
            KVM_S390_IRQ => Handled::Yes(irq(task, vcpu, arg)),
            KVM_S390_INTERRUPT => Handled::Yes(interrupt(task, vcpu, arg)),
            _ => Handled::No,
        }
    }

    fn kvm_arch_vcpu_ioctl_run(&self, task: &Task, vcpu: &VcpuRef) -> Result<i64> {
        let _loaded = vcpu.load(task);
        stand_in::run(task, vcpu, || {
            let _local_int = vcpu.arch().local_int.lock();
            vcpu.arch().take()
        })
    }

    fn caps(&self) -> &'static [(u32, i64)] {
        &[(KVM_CAP_S390_INJECT_IRQ, 1)]
    }
}

fn irq(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    // The type, and 64 bytes that depend on it.
    let [kind, ..]: [u64; 9] = task.get(arg, SITE)?;
    kvm_s390_inject_vcpu(vcpu, kind)
}

fn interrupt(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    let [kind, _parm, _, _]: [u32; 4] = task.get(arg, SITE)?;
    kvm_s390_inject_vcpu(vcpu, u64::from(kind))
}

/// `kvm_s390_inject_vcpu`: interrupts that float between vCPUs are the VM's to inject.
fn kvm_s390_inject_vcpu(vcpu: &Vcpu, kind: u64) -> Result<i64> {
    const SITE: &str = "arch/s390/kvm/s390/interrupt.c kvm_s390_inject_vcpu";
    let Some((_, bit)) = LOCAL.iter().find(|(known, _)| *known == kind) else {
        return fail(Errno::EINVAL, SITE, "no local interrupt that is known here");
    };
    {
        let _local_int = vcpu.arch().local_int.lock();
        if kind == INT_EXTERNAL_CALL && vcpu.arch().pending.load() >> bit & 1 != 0 {
            return fail(Errno::EBUSY, SITE, "an external call is pending already");
        }
        vcpu.arch().queue(*bit);
    }
    vcpu.kick();
    Ok(0)
}
