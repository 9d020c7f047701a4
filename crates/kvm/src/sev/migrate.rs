//! KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM: one VM takes over the guest of another, on the same host.
//!
//! It is the precedent that the mail names: a transition of a VM's state that races with a vCPU which is
//! being created, and that ecf371f8b02d closed by a look at `created_vcpus`.
//!
//! # Locking
//! `migration_in_progress` of both VMs, then both `kvm->lock`s, then all vCPU mutexes of both.

use std::sync::Arc;

use seamlock_sync::MutexGuard;
use seamlock_tdx_abi::kvm::Errno;

use super::KvmSev;
use crate::discipline::{SevInFlight, Step};
use crate::error::{Result, fail};
use crate::file::{File, Kind};
use crate::task::Task;
use crate::tdx::VmStateGuard;
use crate::vm::Kvm;

/// `SINGLE_DEPTH_NESTING`.
const SINGLE_DEPTH_NESTING: u8 = 1;

/// `sev_vm_move_enc_context_from`: `kvm` takes over from the VM of the descriptor, which is dead then.
///
/// # Errors
/// EBADF, EINVAL, EBUSY, EINTR, in the order of the checks below.
pub(super) fn sev_vm_move_enc_context_from(task: &Task, kvm: &Arc<Kvm>, fd: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/svm/sev.c:2158 sev_vm_move_enc_context_from";
    let Some(file) = File::of(task, fd as i32) else {
        return fail(Errno::EBADF, SITE, "the source is not an open descriptor");
    };
    let result = match file.kind() {
        Kind::Vm(source) => migrate(task, kvm, source),
        _ => fail(Errno::EBADF, SITE, "the source is not a VM"),
    };
    file.fput(task);
    result.map(|()| 0)
}

fn migrate(task: &Task, dst: &Arc<Kvm>, src: &Arc<Kvm>) -> Result<()> {
    let _both = TwoVms::lock(task, dst, src)?;
    check_states(dst, src)?;
    let _dst_vcpus = lock_all_vcpus(task, dst)?;
    let _src_vcpus = lock_all_vcpus(task, src)?;
    sev_check_source_vcpus(dst, src)?;
    sev_migrate_from(dst, src);
    src.kill();
    Ok(())
}

/// Both VMs' locks, and the marks that keep a migration the other way round out.
struct TwoVms<'a> {
    // Given back in this order.
    _locks: (MutexGuard<'a, ()>, MutexGuard<'a, ()>),
    _marks: (InProgress<'a>, InProgress<'a>),
}

impl<'a> TwoVms<'a> {
    /// `sev_lock_two_vms`.
    fn lock(task: &Task, dst: &'a Arc<Kvm>, src: &'a Arc<Kvm>) -> Result<TwoVms<'a>> {
        const SITE: &str = "arch/x86/kvm/svm/sev.c:1993 sev_lock_two_vms";
        if Arc::ptr_eq(dst, src) {
            return fail(Errno::EINVAL, SITE, "the source is the VM itself");
        }
        let marks = (InProgress::mark(&dst.sev)?, InProgress::mark(&src.sev)?);
        let killed = || task.killed();
        let Ok(dst_lock) = dst.lock.lock_killable(None, killed) else {
            return fail(
                Errno::EINTR,
                SITE,
                "a fatal signal ended the wait for kvm->lock",
            );
        };
        let Ok(src_lock) = src
            .lock
            .lock_killable_at_depth(SINGLE_DEPTH_NESTING, killed)
        else {
            return fail(
                Errno::EINTR,
                SITE,
                "a fatal signal ended the wait for the source",
            );
        };
        Ok(TwoVms {
            _locks: (dst_lock, src_lock),
            _marks: marks,
        })
    }
}

/// `migration_in_progress` of one VM.
struct InProgress<'a>(&'a KvmSev);

impl<'a> InProgress<'a> {
    fn mark(sev: &'a KvmSev) -> Result<InProgress<'a>> {
        const SITE: &str = "arch/x86/kvm/svm/sev.c:2007 sev_lock_two_vms";
        if sev
            .migration_in_progress
            .compare_exchange(false, true)
            .is_err()
        {
            return fail(Errno::EBUSY, SITE, "a migration of the VM is in progress");
        }
        Ok(InProgress(sev))
    }
}

impl Drop for InProgress<'_> {
    fn drop(&mut self) {
        self.0.migration_in_progress.store(false);
    }
}

fn check_states(dst: &Kvm, src: &Kvm) -> Result<()> {
    const SITE: &str = "arch/x86/kvm/svm/sev.c:2173 sev_vm_move_enc_context_from";
    if dst.vm_type != src.vm_type {
        return fail(Errno::EINVAL, SITE, "the VMs are of different types");
    }
    if dst.sev.is_active() {
        return fail(
            Errno::EINVAL,
            SITE,
            "the destination is a guest of SEV's already",
        );
    }
    if !src.sev.is_active() {
        return fail(Errno::EINVAL, SITE, "the source is no guest of SEV's");
    }
    Ok(())
}

/// `kvm_lock_all_vcpus`, which refuses while a vCPU is created in v7.3.
pub(super) fn lock_all_vcpus<'a>(task: &Task, kvm: &'a Kvm) -> Result<VmStateGuard<'a>> {
    const REFUSING: &[Step] = &[Step::RefuseCreationInFlight, Step::AllVcpuMutexes];
    const PLAIN: &[Step] = &[Step::AllVcpuMutexes];
    let steps = match kvm.discipline.sev_in_flight {
        SevInFlight::ByLockAllVcpus => REFUSING,
        SevInFlight::Tested | SevInFlight::Ignored => PLAIN,
    };
    VmStateGuard::acquire(task, kvm, steps)
}

/// `sev_check_source_vcpus`.
fn sev_check_source_vcpus(dst: &Kvm, src: &Kvm) -> Result<()> {
    const SITE: &str = "arch/x86/kvm/svm/sev.c:2130 sev_check_source_vcpus";
    if dst.discipline.sev_in_flight == SevInFlight::Tested {
        for kvm in [src, dst] {
            if kvm.created_vcpus.load() != kvm.online_vcpus.load() {
                const SITE: &str = "ecf371f8b02d sev_check_source_vcpus";
                return fail(Errno::EBUSY, SITE, "a vCPU is being created");
            }
        }
    }
    if !src.sev.is_es() {
        return Ok(());
    }
    if src.online_vcpus.load() != dst.online_vcpus.load() {
        return fail(
            Errno::EINVAL,
            SITE,
            "the VMs have different numbers of vCPUs",
        );
    }
    if src.vcpus().any(|vcpu| !vcpu.arch.protected.load()) {
        return fail(Errno::EINVAL, SITE, "a vCPU's state is not protected yet");
    }
    Ok(())
}

/// `sev_migrate_from`.
fn sev_migrate_from(dst: &Kvm, src: &Kvm) {
    let (to, from) = (&dst.sev, &src.sev);
    to.active.store(true);
    to.asid.store(from.asid.load());
    to.handle.store(from.handle.load());
    to.es_active.store(from.es_active.load());
    from.asid.store(0);
    from.active.store(false);
    from.handle.store(0);
    from.es_active.store(false);
    if !to.is_es() {
        return;
    }
    for (to, from) in dst.vcpus().zip(src.vcpus()) {
        let page = from.arch.vmsa.with(Option::take);
        to.arch.vmsa.with(|vmsa| *vmsa = page);
        to.arch.protected.store(true);
        from.arch.protected.store(false);
    }
}
