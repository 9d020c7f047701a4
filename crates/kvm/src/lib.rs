//! KVM's TDX control plane, as in Linux v7.3.4: files, ioctls, locks, memory, and TDs.
//!
//! A [`Host`] is one machine's kernel, on a software TDX module of its own. A client opens
//! `/dev/kvm` with [`File::open_kvm`], and does everything else as a VMM does: [`ioctl`] with raw
//! request numbers and user memory, [`close`], [`fallocate`]. A [`Task`] stands for its thread;
//! [`Process`] is a ready-made process for clients that have none.
//!
//! The crate starts no thread, reads no clock, and knows nothing of being preloaded or checked. All
//! locks are `seamlock-sync`'s, declared in [`locks`]. How they are taken is a [`Discipline`].

#![forbid(unsafe_code)]

pub mod arch;
pub mod bug;
pub mod discipline;
pub mod error;
pub mod file;
pub mod gmem;
pub mod guest;
pub mod host;
pub mod ioctl;
mod kernel;
pub mod lockdep;
pub mod locks;
pub mod mmu;
pub mod observer;
pub mod process;
pub mod sev;
pub mod stats;
pub mod task;
pub mod tdx;
pub mod vcpu;
pub mod vm;

pub use bug::Bug;
pub use discipline::Discipline;
pub use error::{Error, Result};
pub use file::{File, close};
pub use gmem::fallocate;
pub use host::{BootError, Host, Options};
pub use ioctl::{ioctl, ioctl_fd};
pub use kernel::kernel_function;
pub use observer::Observer;
pub use process::Process;
pub use task::{Control, Task};
pub use vcpu::VcpuRef;
pub use vm::{Kvm, Teardown};
