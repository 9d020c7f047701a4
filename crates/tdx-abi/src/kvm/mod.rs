//! The KVM ABI of Linux v7.3.4 on x86: request numbers, capabilities, exits, structures.
//!
//! Structures keep the kernel's field names; a name in camel case stands for the kernel's
//! (`KvmTdxCmd` is `struct kvm_tdx_cmd`). Structures that end in an array are declared up to it.

mod caps;
mod cpuid;
mod errno;
mod exit;
mod ioc;
mod ioctls;
mod irq;
mod memory;
mod nested;
mod regs;
mod run;
mod stats;
mod system;
mod tdx;
mod vcpu;
mod xen;

pub use caps::*;
pub use cpuid::*;
pub use errno::Errno;
pub use exit::*;
pub use ioc::{_io, _ior, _iow, _iowr, Dir, IoctlInfo, KVMIO, Scope};
pub use ioctls::*;
pub use irq::*;
pub use memory::*;
pub use nested::*;
pub use regs::*;
pub use run::*;
pub use stats::*;
pub use system::*;
pub use tdx::*;
pub use vcpu::*;
pub use xen::*;

#[cfg(test)]
mod tests;
