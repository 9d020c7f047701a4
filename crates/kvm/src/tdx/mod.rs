//! The TDX half of KVM: the sub-commands of KVM_MEMORY_ENCRYPT_OP, and what runs behind them.
//!
//! # Locking
//! [`guard`] takes the VM-state locks in the order of the VM's discipline; the functions that need
//! them ask for the [`guard::VmStateGuard`].

pub mod guard;
pub mod seamcall;
pub mod state;

mod capabilities;
mod cpuid_config;
mod finalize_vm;
mod get_cpuid;
mod init_mem_region;
mod init_vcpu;
mod init_vm;
mod post_populate;
pub(crate) mod release;
pub(crate) mod sept;
mod td_params;
mod vcpu_ioctl;
mod vm_ioctl;

use seamlock_tdx_abi::kvm::{Errno, KvmTdxCmd};
use zerocopy::IntoBytes;

use crate::discipline::Discipline;
use crate::error::{Result, fail};
use crate::task::Task;

pub use guard::VmStateGuard;
pub use state::{KvmTdx, TdConfig, TdState};
pub(crate) use vcpu_ioctl::{tdx_vcpu_ioctl, tdx_vcpu_unlocked_ioctl};
pub(crate) use vm_ioctl::tdx_vm_ioctl;

/// `tdx_get_cmd`: copies the command in. `hw_error` is KVM's to set.
pub(crate) fn tdx_get_cmd(task: &Task, argp: u64, discipline: &Discipline) -> Result<KvmTdxCmd> {
    const SITE: &str = "tdx.c:2934 tdx_get_cmd";
    let mut cmd = KvmTdxCmd::default();
    task.get_bytes(
        argp,
        &mut cmd.as_mut_bytes()[..discipline.commands.cmd_bytes],
        SITE,
    )?;
    if cmd.hw_error != 0 {
        return fail(
            Errno::EINVAL,
            "tdx.c:2941 tdx_get_cmd",
            "hw_error is not zero on input",
        );
    }
    Ok(cmd)
}
