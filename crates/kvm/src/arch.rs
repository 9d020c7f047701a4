//! What the generic code asks of the architecture.

use crate::error::Result;
use crate::task::Task;
use crate::vcpu::VcpuRef;

/// Whether an ioctl was taken (`-ENOIOCTLCMD` when not).
#[derive(Debug)]
pub enum Handled {
    /// It was, with this result.
    Yes(Result<i64>),
    /// It was not; the caller goes on.
    No,
}

/// An architecture of KVM.
pub trait Arch: Sync {
    /// The architecture's name.
    fn name(&self) -> &'static str;

    /// `kvm_arch_vcpu_unlocked_ioctl`: a vCPU ioctl before `vcpu->mutex` is taken. Mandatory, with no
    /// default: an architecture without such ioctls says so.
    fn kvm_arch_vcpu_unlocked_ioctl(
        &self,
        task: &Task,
        vcpu: &VcpuRef,
        request: u32,
        arg: u64,
    ) -> Handled;
}

/// x86, with Intel's TDX.
#[derive(Clone, Copy, Debug, Default)]
pub struct X86;

impl Arch for X86 {
    fn name(&self) -> &'static str {
        "x86"
    }

    fn kvm_arch_vcpu_unlocked_ioctl(
        &self,
        task: &Task,
        vcpu: &VcpuRef,
        request: u32,
        arg: u64,
    ) -> Handled {
        if request != seamlock_tdx_abi::kvm::KVM_MEMORY_ENCRYPT_OP {
            return Handled::No;
        }
        crate::ioctl::vt_vcpu_mem_enc_unlocked_ioctl(task, vcpu, arg)
    }
}
