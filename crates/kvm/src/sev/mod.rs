//! SEV as far as the precedent of the mail needs it: moving an encryption context from one VM to
//! another on the same host, while vCPUs of either are being created.
//!
//! On a machine with an AMD processor only ([`arch::AMD`](crate::arch::AMD)).
//!
//! # Locking
//! | field | guarded by |
//! |---|---|
//! | `active`, `es_active`, `handle`, `need_init` | written under `kvm->lock`; vCPU creation reads `es_active` without, up to v7.2 |
//! | `migration_in_progress` | nothing: taken in one step, so that two VMs can't be locked both ways round |
//!
//! Two VMs: the destination's `kvm->lock`, then the source's (one level deeper), then all vCPU mutexes
//! of the destination, then of the source.

mod abi;
mod init;
mod migrate;
mod vcpu;

use std::sync::Arc;

use seamlock_sync::{Class, Shared};
use seamlock_tdx_abi::kvm::{
    Errno, KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM, KVM_ENABLE_CAP, KVM_MEMORY_ENCRYPT_OP,
    KVM_X86_SEV_ES_VM, KVM_X86_SEV_VM, KvmEnableCap,
};

use crate::arch::Handled;
use crate::error::{Result, fail};
use crate::task::Task;
use crate::vm::Kvm;

pub use abi::*;
pub(crate) use vcpu::{pre_sev_run, sev_free_vcpu, sev_vcpu_create};

static ACTIVE: Class = Class::new("sev->active");
static ES_ACTIVE: Class = Class::new("sev->es_active");
static HANDLE: Class = Class::new("sev->handle");
static ASID: Class = Class::new("sev->asid");
static NEED_INIT: Class = Class::new("sev->need_init");
static MIGRATION: Class = Class::new("sev->migration_in_progress");

/// `struct kvm_sev_info`.
#[derive(Debug)]
pub struct KvmSev {
    active: Shared<bool>,
    es_active: Shared<bool>,
    /// The firmware's name for the guest; 0 before LAUNCH_START.
    handle: Shared<u32>,
    /// The guest's key: the number of the VM that it was made for.
    asid: Shared<u64>,
    need_init: Shared<bool>,
    migration_in_progress: Shared<bool>,
}

impl KvmSev {
    pub(crate) fn new(vm: u64, vm_type: u64) -> KvmSev {
        let need_init = matches!(vm_type, KVM_X86_SEV_VM | KVM_X86_SEV_ES_VM);
        KvmSev {
            active: Shared::new(ACTIVE.at(vm), false),
            es_active: Shared::new(ES_ACTIVE.at(vm), false),
            handle: Shared::new(HANDLE.at(vm), 0),
            asid: Shared::new(ASID.at(vm), 0),
            need_init: Shared::new(NEED_INIT.at(vm), need_init),
            migration_in_progress: Shared::new(MIGRATION.at(vm), false),
        }
    }

    /// `sev_guest`.
    pub fn is_active(&self) -> bool {
        self.active.load()
    }

    /// The guest's key, by the number of the VM that it was made for; None without a guest.
    pub fn asid(&self) -> Option<u64> {
        Some(self.asid.peek()).filter(|asid| *asid != 0)
    }

    /// `sev_es_guest`.
    pub fn is_es(&self) -> bool {
        self.es_active.load()
    }
}

/// SEV's part of `kvm_arch_vm_ioctl`.
pub(crate) fn vm_ioctl(task: &Task, kvm: &Arc<Kvm>, request: u32, arg: u64) -> Handled {
    match request {
        KVM_MEMORY_ENCRYPT_OP => Handled::Yes(sev_mem_enc_ioctl(task, kvm, arg)),
        KVM_ENABLE_CAP => enable_cap(task, kvm, arg),
        _ => Handled::No,
    }
}

/// KVM_ENABLE_CAP, when it is for SEV.
fn enable_cap(task: &Task, kvm: &Arc<Kvm>, arg: u64) -> Handled {
    const SITE: &str = "arch/x86/kvm/x86.c:4100 kvm_vm_ioctl_enable_cap";
    // What can't be read, and flags, are for the common code to refuse.
    match task.get::<KvmEnableCap>(arg, SITE) {
        Ok(cap) if cap.flags == 0 && cap.cap == KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM => Handled::Yes(
            migrate::sev_vm_move_enc_context_from(task, kvm, cap.args[0]),
        ),
        _ => Handled::No,
    }
}

/// `sev_mem_enc_ioctl`. The command is copied back even when it failed; not when it is unknown.
fn sev_mem_enc_ioctl(task: &Task, kvm: &Kvm, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/svm/sev.c:2664 sev_mem_enc_ioctl";
    // A probe for the operation.
    if arg == 0 {
        return Ok(0);
    }
    let mut cmd: SevCmd = task.get(arg, SITE)?;
    let _lock = kvm.lock.lock();
    let result = match cmd.id {
        KVM_SEV_INIT | KVM_SEV_ES_INIT => init::sev_guest_init(kvm, cmd.id),
        KVM_SEV_INIT2 => init::sev_guest_init2(task, kvm, &cmd),
        KVM_SEV_LAUNCH_START => init::sev_launch_start(kvm),
        KVM_SEV_LAUNCH_UPDATE_VMSA => vcpu::sev_launch_update_vmsa(task, kvm, &mut cmd),
        _ => return fail(Errno::EINVAL, SITE, "no such command, or none that is here"),
    };
    task.put(arg, &cmd, SITE)?;
    result.map(|()| 0)
}
