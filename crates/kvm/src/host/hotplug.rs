//! Processors that go offline and come back.
//!
//! # Locking
//! `cpus_lock` for writing, and interrupts off on the CPU that goes. No lock of a VM is taken: the vCPUs that go along belong to any of them.

use std::sync::Weak;
use std::sync::atomic::Ordering::Relaxed;

use super::{Cpu, Host};
use crate::vm::Kvm;

impl Host {
    /// Takes a CPU offline: all vCPUs that were loaded there last are flushed
    /// (`tdx_disable_virtualization_cpu`). What TDH.VP.FLUSH answers is not looked at. Says whether it
    /// went: the last CPU of a package stays while an HKID is in use, for its key is released on every
    /// package (`tdx_offline_cpu`, -EBUSY).
    ///
    /// No task may be on the CPU: the kernel has moved them away by then
    /// (`CPUHP_AP_SCHED_WAIT_EMPTY`).
    pub fn offline_cpu(&self, cpu: u32) -> bool {
        let _entered = self.enter();
        let mut online = self.cpus_lock.write();
        let package = |cpu: u32| self.module().platform().package_of(cpu);
        let same = online
            .iter()
            .filter(|other| package(**other) == package(cpu));
        if !online.contains(&cpu) || (same.count() == 1 && self.hkids_in_use.load(Relaxed) != 0) {
            return false;
        }
        if let Some(here) = self.cpus.get(cpu as usize) {
            self.flush_all(here);
        }
        online.remove(&cpu)
    }

    /// `tdx_disable_virtualization_cpu`: one section with interrupts off from the first look at the list
    /// to the last flush.
    fn flush_all(&self, here: &Cpu) {
        let irqs = here.irqs_off();
        for listed in here.associated() {
            let kvm = self.vm_of(listed.vm);
            if let Some(vcpu) = kvm.as_ref().and_then(|kvm| kvm.born.get(listed.index))
                && let Some(kvm) = &kvm
            {
                let _ = vcpu.tdx_flush_vp(kvm, &irqs);
            }
        }
    }

    /// Brings a CPU of the machine online. Says whether it was offline.
    pub fn online_cpu(&self, cpu: u32) -> bool {
        let _entered = self.enter();
        (cpu as usize) < self.cpus.len() && self.cpus_lock.write().insert(cpu)
    }

    /// Whether a CPU is online.
    pub fn is_online(&self, cpu: u32) -> bool {
        self.cpus_lock.read().contains(&cpu)
    }

    /// A VM that a per-CPU list names. The kernel has pointers there.
    fn vm_of(&self, number: u64) -> Option<std::sync::Arc<Kvm>> {
        self.registry
            .with(|vms| vms.get(&number).and_then(Weak::upgrade))
    }
}
