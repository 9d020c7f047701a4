//! The VM-state guard: possession of the locks that keep a TD's state still.
//!
//! The kernel's `CLASS(tdx_vm_state_guard, guard)(kvm)`. Which locks, and in which order, the VM's
//! discipline says; what needs them takes the guard as an argument.
//!
//! # Locking
//! v7.3: `kvm->lock` (not killable), every `vcpu->mutex` by index (killable, nested in `kvm->lock`),
//! `slots_lock` (not killable). Given back in reverse.

use seamlock_sync::MutexGuard;
use seamlock_tdx_abi::kvm::Errno;

use crate::discipline::Step;
use crate::error::{Result, fail};
use crate::task::Task;
use crate::vm::Kvm;

/// Proof that the VM-state locks of a discipline are held.
#[derive(Debug)]
pub struct VmStateGuard<'a> {
    kvm: &'a Kvm,
    held: Vec<MutexGuard<'a, ()>>,
}

impl<'a> VmStateGuard<'a> {
    /// `tdx_acquire_vm_state_locks`.
    ///
    /// # Errors
    /// EBUSY while a vCPU is being created, EINTR when a fatal signal ends the wait for a vCPU.
    pub fn acquire(task: &Task, kvm: &'a Kvm, steps: &[Step]) -> Result<VmStateGuard<'a>> {
        let mut guard = VmStateGuard {
            kvm,
            held: Vec::new(),
        };
        guard.extend(task, steps)?;
        Ok(guard)
    }

    /// Takes further locks, for a command that has its own.
    ///
    /// # Errors
    /// As [`acquire`](VmStateGuard::acquire); what was held before stays held.
    pub fn extend(&mut self, task: &Task, steps: &[Step]) -> Result<()> {
        let before = self.held.len();
        let result = steps.iter().try_for_each(|step| self.take(task, *step));
        if result.is_err() {
            self.release_to(before);
        }
        result
    }

    /// The VM whose locks these are.
    pub fn kvm(&self) -> &'a Kvm {
        self.kvm
    }

    fn take(&mut self, task: &Task, step: Step) -> Result<()> {
        task.resched();
        let kvm = self.kvm;
        match step {
            Step::KvmLock => self.held.push(kvm.lock.lock()),
            Step::SlotsLock => self.held.push(kvm.slots_lock.lock()),
            Step::RefuseCreationInFlight => refuse_creation_in_flight(kvm)?,
            Step::AllVcpuMutexes => self.lock_all_vcpus(task)?,
        }
        Ok(())
    }

    /// `kvm_lock_all_vcpus`.
    fn lock_all_vcpus(&mut self, task: &Task) -> Result<()> {
        const SITE: &str = "virt/kvm/kvm_main.c:1406 kvm_lock_all_vcpus";
        for vcpu in self.kvm.vcpus() {
            let nest = Some(self.kvm.lock.name());
            match vcpu.mutex.lock_killable(nest, || task.killed()) {
                Ok(held) => self.held.push(held),
                Err(_) => return fail(Errno::EINTR, SITE, "a fatal signal ended the wait"),
            }
        }
        Ok(())
    }

    fn release_to(&mut self, len: usize) {
        while self.held.len() > len {
            self.held.pop();
        }
    }
}

impl Drop for VmStateGuard<'_> {
    fn drop(&mut self) {
        self.release_to(0);
    }
}

/// `kvm_is_vcpu_creation_in_progress`.
fn refuse_creation_in_flight(kvm: &Kvm) -> Result<()> {
    const SITE: &str = "virt/kvm/kvm_main.c:1402 kvm_lock_all_vcpus";
    if kvm.created_vcpus.load() != kvm.online_vcpus.load() {
        return fail(Errno::EBUSY, SITE, "a vCPU is being created");
    }
    Ok(())
}
