//! Logical processors as the kernel sees them, and inter-processor calls.
//!
//! # Locking
//! `associated_tdvcpus` of a CPU is changed only by that CPU with interrupts off. [`Cpu::irqs_off`]
//! is a lock here, because two tasks of ours may stand on the same CPU at the same time and an IPI
//! runs on the caller's thread; it keeps them apart as the one CPU does.

use seamlock_sync::{Mutex, MutexGuard, Private};

use crate::locks;

/// A vCPU on a per-CPU list: number of the VM, and the vCPU's index in order of creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The VM.
    pub vm: u64,
    /// The vCPU.
    pub index: usize,
}

/// One logical processor.
#[derive(Debug)]
pub struct Cpu {
    /// Its number, also as the TDX module counts.
    pub id: u32,
    /// Its package.
    pub package: u32,
    irqs: Mutex<()>,
    associated_tdvcpus: Private<Vec<Listed>>,
}

/// Proof that interrupts are off on a CPU.
#[derive(Debug)]
pub struct IrqsOff<'a> {
    cpu: &'a Cpu,
    _irqs: MutexGuard<'a, ()>,
}

impl Cpu {
    /// A processor with no vCPU on it.
    pub fn new(id: u32, package: u32) -> Cpu {
        let irqs = Mutex::new(locks::IRQS_OFF.at(u64::from(id)), ());
        Cpu {
            id,
            package,
            irqs,
            associated_tdvcpus: Private::default(),
        }
    }

    /// `local_irq_disable` on this CPU; on again when the value is dropped. Also what an IPI handler
    /// (`smp_call_function_single`) runs under.
    #[track_caller]
    pub fn irqs_off(&self) -> IrqsOff<'_> {
        IrqsOff {
            cpu: self,
            _irqs: self.irqs.lock(),
        }
    }

    /// The vCPUs that were loaded here last, most recent first.
    pub fn associated(&self) -> Vec<Listed> {
        self.associated_tdvcpus
            .with(|list| list.iter().rev().copied().collect())
    }
}

impl IrqsOff<'_> {
    /// The CPU whose interrupts are off.
    pub fn cpu(&self) -> u32 {
        self.cpu.id
    }

    /// `list_add(&tdx->cpu_list, …)`.
    pub fn list_add(&self, vcpu: Listed) {
        self.cpu.associated_tdvcpus.with(|list| list.push(vcpu));
    }

    /// `list_del(&tdx->cpu_list)`. Says whether the vCPU was on this CPU's list.
    pub fn list_del(&self, vcpu: Listed) -> bool {
        self.cpu.associated_tdvcpus.with(|list| {
            let at = list.iter().rposition(|v| *v == vcpu);
            at.map(|at| list.remove(at)).is_some()
        })
    }
}
