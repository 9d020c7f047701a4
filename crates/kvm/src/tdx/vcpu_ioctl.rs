//! KVM_MEMORY_ENCRYPT_OP on a vCPU: INIT_VCPU, INIT_MEM_REGION, GET_CPUID.
//!
//! # Locking
//! The unlocked path starts without `vcpu->mutex` and takes the VM-state guard; a command that is not
//! its own falls through to the path under `vcpu->mutex`, after the guard was given back.

use seamlock_tdx_abi::kvm::{Errno, KvmTdxCmd, TdxCmdId};

use super::get_cpuid::tdx_vcpu_get_cpuid;
use super::guard::VmStateGuard;
use super::init_mem_region::tdx_vcpu_init_mem_region;
use super::init_vcpu::tdx_vcpu_init;
use super::state::TdState;
use super::tdx_get_cmd;
use crate::arch::Handled;
use crate::discipline::Unlocked;
use crate::error::{Error, Result, fail};
use crate::task::Task;
use crate::vcpu::VcpuRef;
use crate::vm::Kvm;

/// `!is_hkid_assigned(kvm_tdx) || kvm_tdx->state == TD_STATE_RUNNABLE`.
fn check_building(kvm: &Kvm, site: &'static str) -> Result<()> {
    if kvm.tdx.hkid().is_none() {
        return fail(
            Errno::EINVAL,
            site,
            "the TD has no HKID: INIT_VM comes first",
        );
    }
    if kvm.tdx.state() == TdState::Runnable {
        return fail(Errno::EINVAL, site, "the TD is finalized");
    }
    Ok(())
}

/// `tdx_vcpu_unlocked_ioctl`.
pub(crate) fn tdx_vcpu_unlocked_ioctl(task: &Task, vcpu: &VcpuRef, argp: u64) -> Handled {
    let discipline = vcpu.kvm().discipline;
    let (own, early) = match discipline.commands.unlocked {
        Unlocked::Nothing => return Handled::No,
        Unlocked::Only(ids) => (ids, true),
        Unlocked::AfterLocks(ids) => (ids, false),
    };
    let cmd = match tdx_get_cmd(task, argp, discipline) {
        Ok(cmd) => cmd,
        Err(error) => return Handled::Yes(Err(error)),
    };
    let is_own = own.contains(&TdxCmdId(cmd.id));
    if early && !is_own {
        return Handled::No;
    }
    match unlocked(task, vcpu, &cmd, is_own) {
        Ok(true) => Handled::Yes(Ok(0)),
        Ok(false) => Handled::No,
        Err(error) => Handled::Yes(Err(error)),
    }
}

/// Whether the command was one of the unlocked path's.
fn unlocked(task: &Task, vcpu: &VcpuRef, cmd: &KvmTdxCmd, is_own: bool) -> Result<bool> {
    let kvm: &Kvm = vcpu.kvm();
    let mut guard = VmStateGuard::acquire(task, kvm, kvm.discipline.commands.vcpu_unlocked)?;
    if matches!(kvm.discipline.commands.unlocked, Unlocked::Only(_)) {
        // tdx_vcpu_async_ioctl of the mail hands on at once.
        return command(task, vcpu, cmd, &mut guard).map(|()| true);
    }
    check_building(kvm, "tdx.c:3345 tdx_vcpu_unlocked_ioctl")?;
    let _loaded = vcpu.load(task);
    if !is_own {
        return Ok(false);
    }
    command(task, vcpu, cmd, &mut guard).map(|()| true)
}

/// `tdx_vcpu_ioctl`, under `vcpu->mutex` and with the vCPU loaded.
pub(crate) fn tdx_vcpu_ioctl(task: &Task, vcpu: &VcpuRef, argp: u64) -> Result<i64> {
    let kvm: &Kvm = vcpu.kvm();
    check_building(kvm, "tdx.c:3373 tdx_vcpu_ioctl")?;
    let cmd = tdx_get_cmd(task, argp, kvm.discipline)?;
    let id = TdxCmdId(cmd.id);
    let unlocked = match kvm.discipline.commands.unlocked {
        Unlocked::Nothing => &[][..],
        Unlocked::Only(ids) | Unlocked::AfterLocks(ids) => ids,
    };
    if unlocked.contains(&id) {
        return Err(unknown());
    }
    let mut guard = VmStateGuard::acquire(task, kvm, &[])?;
    if id == TdxCmdId::KVM_TDX_GET_CPUID {
        guard.extend(task, kvm.discipline.commands.get_cpuid)?;
        retest(kvm)?;
        return tdx_vcpu_get_cpuid(task, vcpu, &cmd).map(|()| 0);
    }
    command(task, vcpu, &cmd, &mut guard).map(|()| 0)
}

fn command(task: &Task, vcpu: &VcpuRef, cmd: &KvmTdxCmd, guard: &mut VmStateGuard) -> Result<()> {
    let commands = &vcpu.kvm().discipline.commands;
    match TdxCmdId(cmd.id) {
        TdxCmdId::KVM_TDX_INIT_VCPU => {
            guard.extend(task, commands.init_vcpu)?;
            retest(vcpu.kvm())?;
            tdx_vcpu_init(task, vcpu, cmd, guard)
        }
        TdxCmdId::KVM_TDX_INIT_MEM_REGION => {
            guard.extend(task, commands.init_mem_region)?;
            tdx_vcpu_init_mem_region(task, vcpu, cmd, guard)
        }
        _ => Err(unknown()),
    }
}

/// The TD's state once more, now that the command's own locks keep it still, where the discipline says
/// so.
fn retest(kvm: &Kvm) -> Result<()> {
    if kvm.discipline.commands.retest_state {
        check_building(kvm, "seamlock: discipline slots-retest")?;
    }
    Ok(())
}

fn unknown() -> Error {
    Error::new(
        Errno::EINVAL,
        "tdx.c:3387 tdx_vcpu_ioctl",
        "no such command for a vCPU",
    )
}
