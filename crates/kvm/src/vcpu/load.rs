//! `vcpu_load` and `vcpu_put`, and what migration costs: TDH.VP.FLUSH on the old CPU.
//!
//! # Locking
//! `vcpu->cpu` and the per-CPU lists change with interrupts off on the CPU that has the vCPU: on the
//! old one in an IPI, on the new one in `tdx_vcpu_load`.

use seamlock_sync::Section;
use seamlock_tdx_abi::{Leaf, TdxStatus};

use super::{Mode, Vcpu, VcpuRef, VcpuTdState};
use crate::host::{IrqsOff, ListCorruption, Listed};
use crate::locks;
use crate::task::Task;
use crate::tdx::seamcall::{On, tdh_vp_flush};
use crate::vm::Kvm;

/// Proof that a vCPU is loaded; puts it when dropped.
#[derive(Debug)]
pub struct Loaded<'a> {
    task: &'a Task<'a>,
}

impl Drop for Loaded<'_> {
    fn drop(&mut self) {
        // vcpu_put: the posted-interrupt descriptor and a host MSR, neither of which is modelled.
        self.task.set_loaded(None);
    }
}

impl VcpuRef {
    /// `vcpu_load`: puts the vCPU on the task's CPU until the value is dropped.
    #[track_caller]
    pub fn load<'a>(&self, task: &'a Task<'a>) -> Loaded<'a> {
        task.resched();
        arch_load(task, self.kvm(), self);
        task.set_loaded(Some(self.clone()));
        Loaded { task }
    }

    /// `kvm_sched_out`.
    pub(crate) fn sched_out(&self, _task: &Task) {}

    /// `kvm_sched_in`: the task goes on, perhaps on another CPU.
    pub(crate) fn sched_in(&self, task: &Task) {
        arch_load(task, self.kvm(), self);
    }
}

/// `kvm_arch_vcpu_load` on the task's CPU, with preemption off.
fn arch_load(task: &Task, kvm: &Kvm, vcpu: &Vcpu) {
    let _preempt = Section::enter(locks::PREEMPT_OFF.only());
    let cpu = i64::from(task.cpu());
    if vcpu.cpu.load() == cpu {
        return;
    }
    if kvm.is_td() && kvm.tdx.hkid().is_some() {
        tdx_vcpu_load(kvm, vcpu, task.cpu());
    }
    vcpu.cpu.store(cpu);
}

/// `tdx_vcpu_load`.
fn tdx_vcpu_load(kvm: &Kvm, vcpu: &Vcpu, cpu: u32) {
    vcpu.flush_on_cpu(kvm);
    if let Some(here) = kvm.host.cpus().get(cpu as usize) {
        let added = here.irqs_off().list_add(vcpu.listed());
        report(kvm, added, "v6.16 tdx.c:733 tdx_vcpu_load: list_add");
    }
}

/// A per-CPU list with a freed vCPU on it: the kernel's, whichever TD meets it.
fn report<T>(kvm: &Kvm, result: Result<T, ListCorruption>, site: &'static str) {
    if let Err(ListCorruption { freed }) = result {
        kvm.corrupt_list(freed, site);
    }
}

impl Vcpu {
    pub(crate) fn listed(&self) -> Listed {
        Listed {
            vm: self.vm,
            index: self.born_at,
        }
    }

    /// `tdx_flush_vp_on_cpu`: an IPI to the CPU that the vCPU was loaded on last.
    pub(crate) fn flush_on_cpu(&self, kvm: &Kvm) {
        let cpu = self.cpu.load();
        let Ok(cpu) = u32::try_from(cpu) else { return };
        let Some(there) = kvm.host.cpus().get(cpu as usize) else {
            return;
        };
        let status = self.tdx_flush_vp(kvm, &there.irqs_off());
        kvm.tdx_bug_on(
            status,
            Leaf::VP_FLUSH,
            "tdx.c:406 tdx_flush_vp_on_cpu",
            [0; 3],
        );
    }

    /// `tdx_flush_vp`, on the CPU whose interrupts are off.
    pub(crate) fn tdx_flush_vp(&self, kvm: &Kvm, irqs: &IrqsOff<'_>) -> TdxStatus {
        if self.cpu.load() != i64::from(irqs.cpu()) {
            // Migration raced with the CPU going offline.
            return TdxStatus::SUCCESS;
        }
        let status = self.flush_outcome(kvm, irqs.cpu());
        let deleted = irqs.list_del(self.listed());
        report(kvm, deleted, "tdx.c:233 tdx_disassociate_vp: list_del");
        self.cpu.store(-1);
        status
    }

    /// What TDH.VP.FLUSH leads to: a vCPU that is not associated needs no flush. One that the module
    /// does not know yet is not flushed.
    fn flush_outcome(&self, kvm: &Kvm, cpu: u32) -> TdxStatus {
        if self.td_state() == VcpuTdState::Uninitialized {
            return TdxStatus::SUCCESS;
        }
        let tdvpr = self.tdvpr().unwrap_or_default();
        match tdh_vp_flush(
            On {
                host: &kvm.host,
                cpu,
            },
            tdvpr,
        ) {
            TdxStatus::VCPU_NOT_ASSOCIATED => TdxStatus::SUCCESS,
            status => status,
        }
    }

    /// How often the vCPU has left the guest.
    pub(crate) fn exits(&self) -> u64 {
        self.exits.load()
    }

    /// Waits until the vCPU is outside of the guest, or has been since `exits` was read
    /// (`KVM_REQUEST_WAIT`: the IPI was acknowledged).
    pub(crate) fn wait_for_exit(&self, exits: u64) {
        let out = || self.mode.load() == Mode::Outside || self.exits.load() != exits;
        // IPIs are acknowledged whatever happens.
        self.wait.wait_uninterruptible(out);
    }
}
