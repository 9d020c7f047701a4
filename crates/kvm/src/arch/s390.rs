//! s390: KVM_S390_IRQ and KVM_S390_INTERRUPT inject a local interrupt, without `vcpu->mutex`.
//!
//! # Locking
//! `kvm->srcu` around `vcpu->arch.local_int.lock`, a spinlock, for who injects; the latter alone for the vCPU
//! that takes.

use seamlock_tdx_abi::kvm::{_iow, Errno, KVM_CAP_S390_INJECT_IRQ};

use super::{Arch, Handled, stand_in};
use crate::error::{Result, fail};
use crate::task::Task;
use crate::vcpu::VcpuRef;

/// s390.
#[derive(Clone, Copy, Debug)]
pub struct S390x;

/// The machine's.
pub static S390: S390x = S390x;

/// `KVM_S390_INTERRUPT`: `struct kvm_s390_interrupt`, 16 bytes.
pub const KVM_S390_INTERRUPT: u32 = _iow(0x94, 16);
/// `KVM_S390_IRQ`: `struct kvm_s390_irq`, 72 bytes.
pub const KVM_S390_IRQ: u32 = _iow(0xb4, 72);

/// Local interrupts, highest priority first: type, and bit in `pending_irqs` here.
const LOCAL: &[(u64, u32)] = &[
    (MCHK, 0),
    (PROGRAM_INT, 1),
    (INT_EMERGENCY, 2),
    (INT_EXTERNAL_CALL, 3),
    (INT_CLOCK_COMP, 4),
    (INT_CPU_TIMER, 5),
    (INT_PFAULT_INIT, 6),
    (RESTART, 7),
    (SIGP_STOP, 8),
    (SIGP_SET_PREFIX, 9),
];

/// `KVM_S390_SIGP_STOP`.
pub const SIGP_STOP: u64 = 0xfffe_0000;
/// `KVM_S390_SIGP_SET_PREFIX`.
pub const SIGP_SET_PREFIX: u64 = 0xfffe_0002;
/// `KVM_S390_INT_PFAULT_INIT`.
pub const INT_PFAULT_INIT: u64 = 0xfffe_0004;
/// `KVM_S390_MCHK`.
pub const MCHK: u64 = 0xfffe_1000;
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

/// An interrupt to inject (`struct kvm_s390_irq`), as far as its checks look at it.
#[derive(Clone, Copy)]
struct Irq {
    kind: u64,
    /// The sender of an external or emergency call, or the flags of a stop.
    detail: u32,
}

fn irq(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    // The type, and 64 bytes that depend on it.
    let [kind, union, ..]: [u64; 9] = task.get(arg, SITE)?;
    let detail = match kind {
        INT_EMERGENCY | INT_EXTERNAL_CALL => union as u32 & 0xffff,
        _ => union as u32,
    };
    let _srcu = vcpu.kvm().srcu.read();
    kvm_s390_inject_vcpu(vcpu, Irq { kind, detail })
}

fn interrupt(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/s390/kvm/s390/interrupt.c s390int_to_s390irq";
    let [kind, parm, _, _]: [u32; 4] = task.get(arg, SITE)?;
    let kind = u64::from(kind);
    let wide = matches!(kind, PROGRAM_INT | INT_EMERGENCY | INT_EXTERNAL_CALL);
    if wide && parm & 0xffff_0000 != 0 {
        return fail(Errno::EINVAL, SITE, "the parameter has more than 16 bits");
    }
    let _srcu = vcpu.kvm().srcu.read();
    kvm_s390_inject_vcpu(vcpu, Irq { kind, detail: parm })
}

/// `kvm_s390_inject_vcpu`. Interrupts that float between vCPUs are the VM's to inject.
fn kvm_s390_inject_vcpu(vcpu: &VcpuRef, irq: Irq) -> Result<i64> {
    {
        let _local_int = vcpu.arch().local_int.lock();
        do_inject_vcpu(vcpu, irq)?;
    }
    vcpu.kick();
    Ok(0)
}

/// `do_inject_vcpu`, under `local_int.lock`. A vCPU is stopped until it runs for the first time.
fn do_inject_vcpu(vcpu: &VcpuRef, irq: Irq) -> Result<()> {
    const SITE: &str = "arch/s390/kvm/s390/interrupt.c do_inject_vcpu";
    const STORE_STATUS: u32 = 1;
    let Some((_, bit)) = LOCAL.iter().find(|(known, _)| *known == irq.kind) else {
        return fail(Errno::EINVAL, SITE, "no interrupt of a vCPU");
    };
    let stopped = !vcpu.state.with(|state| state.has_run);
    let pending = vcpu.arch().pending.load() >> bit & 1 != 0;
    match irq.kind {
        INT_EMERGENCY | INT_EXTERNAL_CALL if vcpu.kvm().vcpu_by_id(irq.detail).is_none() => {
            return fail(Errno::EINVAL, SITE, "no vCPU has the sender's id");
        }
        INT_EXTERNAL_CALL if pending => {
            return fail(Errno::EBUSY, SITE, "an external call is pending already");
        }
        SIGP_STOP if irq.detail & !STORE_STATUS != 0 => {
            return fail(Errno::EINVAL, SITE, "an unknown flag is set");
        }
        SIGP_STOP if stopped => return Ok(()),
        SIGP_STOP if pending => {
            return fail(Errno::EBUSY, SITE, "a stop is pending already");
        }
        SIGP_SET_PREFIX if !stopped => {
            return fail(Errno::EBUSY, SITE, "the vCPU is not stopped");
        }
        _ => {}
    }
    vcpu.arch().queue(*bit);
    Ok(())
}
