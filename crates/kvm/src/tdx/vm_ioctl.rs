//! KVM_MEMORY_ENCRYPT_OP on a VM: CAPABILITIES, INIT_VM, FINALIZE_VM.

use seamlock_tdx_abi::kvm::{Errno, KvmTdxCmd, TdxCmdId};

use super::capabilities::tdx_get_capabilities;
use super::finalize_vm::tdx_td_finalize;
use super::guard::VmStateGuard;
use super::init_vm::tdx_td_init;
use super::tdx_get_cmd;
use crate::error::{Result, fail};
use crate::task::Task;
use crate::vm::Kvm;

/// `tdx_vm_ioctl`. The command is copied back even when it failed; not when it is unknown, or when
/// the locks could not be had.
pub(crate) fn tdx_vm_ioctl(task: &Task, kvm: &Kvm, argp: u64) -> Result<i64> {
    let commands = &kvm.discipline.commands;
    let mut cmd = tdx_get_cmd(task, argp, kvm.discipline)?;
    let capabilities = TdxCmdId(cmd.id) == TdxCmdId::KVM_TDX_CAPABILITIES;
    if capabilities && commands.capabilities_first {
        return tdx_get_capabilities(task, kvm, &cmd).map(|()| 0);
    }
    let mut guard = VmStateGuard::acquire(task, kvm, commands.vm)?;
    let result = run(task, kvm, &mut cmd, &mut guard)?;
    task.put(argp, &cmd, "tdx.c:2978 tdx_vm_ioctl")?;
    result.map(|()| 0)
}

/// The command; the outer error is one that nothing is copied back for.
fn run(
    task: &Task,
    kvm: &Kvm,
    cmd: &mut KvmTdxCmd,
    guard: &mut VmStateGuard,
) -> Result<Result<()>> {
    let commands = &kvm.discipline.commands;
    Ok(match TdxCmdId(cmd.id) {
        TdxCmdId::KVM_TDX_CAPABILITIES => tdx_get_capabilities(task, kvm, cmd),
        TdxCmdId::KVM_TDX_INIT_VM => guard
            .extend(task, commands.init_vm)
            .and_then(|()| tdx_td_init(task, kvm, cmd, guard)),
        TdxCmdId::KVM_TDX_FINALIZE_VM => guard
            .extend(task, commands.finalize_vm)
            .and_then(|()| tdx_td_finalize(task, kvm, cmd, guard)),
        _ => {
            const SITE: &str = "tdx.c:2971 tdx_vm_ioctl";
            return fail(Errno::EINVAL, SITE, "no such command for a VM");
        }
    })
}
