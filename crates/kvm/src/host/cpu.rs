//! Logical processors as the kernel sees them, and inter-processor calls.
//!
//! # Locking
//! `associated_tdvcpus` of a CPU is changed only by that CPU with interrupts off. [`Cpu::irqs_off`]
//! is a lock here, because two tasks of ours may stand on the same CPU at the same time and an IPI
//! runs on the caller's thread; it keeps them apart as the one CPU does.

use seamlock_sync::{Mutex, MutexGuard, Name, Private};

use crate::locks;

/// A vCPU on a per-CPU list: number of the VM, and the vCPU's index in order of creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The VM.
    pub vm: u64,
    /// The vCPU.
    pub index: usize,
}

/// An entry of a per-CPU list.
#[derive(Clone, Copy, Debug)]
struct Entry {
    vcpu: Listed,
    /// The vCPU's memory was freed, and the entry with it.
    freed: bool,
}

/// What the kernel's list debugging finds: a neighbour in a per-CPU list was freed
/// (`__list_add_valid_or_report`, `__list_del_entry_valid_or_report`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListCorruption {
    /// The vCPU that was freed while it was on the list.
    pub freed: Listed,
}

/// One logical processor.
#[derive(Debug)]
pub struct Cpu {
    /// Its number, also as the TDX module counts.
    pub id: u32,
    /// Its package.
    pub package: u32,
    irqs: Mutex<()>,
    associated_tdvcpus: Private<Vec<Entry>>,
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

    /// The name of the lock that stands for interrupts off, while somebody has it.
    pub(crate) fn held_lock(&self) -> Option<Name> {
        self.irqs.is_locked().then(|| self.irqs.name())
    }

    /// The vCPUs that were loaded here last, most recent first.
    pub fn associated(&self) -> Vec<Listed> {
        self.associated_tdvcpus
            .with(|list| list.iter().rev().map(|entry| entry.vcpu).collect())
    }

    /// A vCPU's memory is freed while it is on the list, which only a kernel in error does. The entry
    /// stays: what the kernel would then read through a stale pointer is told by whoever meets it.
    pub(crate) fn freed_while_listed(&self, vcpu: Listed) {
        self.associated_tdvcpus.with(|list| {
            for entry in list.iter_mut().filter(|entry| entry.vcpu == vcpu) {
                entry.freed = true;
            }
        });
    }
}

impl IrqsOff<'_> {
    /// The CPU whose interrupts are off.
    pub fn cpu(&self) -> u32 {
        self.cpu.id
    }

    /// `list_add(&tdx->cpu_list, …)`.
    ///
    /// # Errors
    /// When the entry that was added last was freed; the vCPU is not added then.
    pub fn list_add(&self, vcpu: Listed) -> Result<(), ListCorruption> {
        self.cpu.associated_tdvcpus.with(|list| {
            intact(list.last())?;
            list.push(Entry { vcpu, freed: false });
            Ok(())
        })
    }

    /// `list_del(&tdx->cpu_list)`. Says whether the vCPU was on this CPU's list.
    ///
    /// # Errors
    /// When an entry beside it, or its own, was freed; the list is left as it is then.
    pub fn list_del(&self, vcpu: Listed) -> Result<bool, ListCorruption> {
        self.cpu.associated_tdvcpus.with(|list| {
            let Some(at) = list.iter().rposition(|entry| entry.vcpu == vcpu) else {
                return Ok(false);
            };
            for entry in &list[at.saturating_sub(1)..list.len().min(at + 2)] {
                intact(Some(entry))?;
            }
            list.remove(at);
            Ok(true)
        })
    }
}

fn intact(entry: Option<&Entry>) -> Result<(), ListCorruption> {
    match entry {
        Some(entry) if entry.freed => Err(ListCorruption { freed: entry.vcpu }),
        _ => Ok(()),
    }
}
