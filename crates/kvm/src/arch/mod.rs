//! What the generic code asks of the architecture, and the architectures.
//!
//! A machine has one, chosen at boot ([`Options::arch`](crate::Options)): a value and not a type
//! parameter, because it is asked once per call and nothing else depends on it.

mod x86;

use std::fmt;

use crate::error::Result;
use crate::task::Task;
use crate::vcpu::VcpuRef;

pub use x86::X86;

/// Whether an ioctl was taken (`-ENOIOCTLCMD` when not).
#[derive(Debug)]
pub enum Handled {
    /// It was, with this result.
    Yes(Result<i64>),
    /// It was not; the caller goes on.
    No,
}

/// An architecture of KVM.
pub trait Arch: Sync + fmt::Debug {
    /// The architecture's name, as its directory in the kernel.
    fn name(&self) -> &'static str;

    /// `kvm_arch_vcpu_unlocked_ioctl` (in the mail: `kvm_arch_vcpu_async_ioctl`): a vCPU ioctl before
    /// `vcpu->mutex` is taken. Mandatory, with no default: an architecture without such ioctls says so.
    fn kvm_arch_vcpu_unlocked_ioctl(
        &self,
        task: &Task,
        vcpu: &VcpuRef,
        request: u32,
        arg: u64,
    ) -> Handled;
}
