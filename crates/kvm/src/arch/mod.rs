//! What the generic code asks of the architecture, and the architectures.
//!
//! A machine has one, chosen at boot ([`Options::arch`](crate::Options)): a value and not a type
//! parameter, because it is asked once per call and nothing else depends on it.
//!
//! TDX is x86's. The others are here for one question: which vCPU ioctls must not wait for
//! `vcpu->mutex`. Each has just enough of a vCPU to show why. While one thread sits in KVM_RUN with
//! the mutex held, another has to be able to queue an interrupt.

mod arm64;
mod encoding;
mod loongarch;
mod mips;
mod powerpc;
mod riscv;
mod s390;
mod stand_in;
mod state;
mod x86;

use std::fmt;
use std::sync::Arc;

use seamlock_tdx_abi::kvm::{
    KVM_CAP_IMMEDIATE_EXIT, KVM_CAP_SYNC_MMU, KVM_CAP_USER_MEMORY, KVM_CHECK_EXTENSION,
    KVM_CREATE_VCPU, KVM_CREATE_VM, KVM_GET_API_VERSION, KVM_GET_VCPU_MMAP_SIZE, KVM_RUN,
    KVM_SET_USER_MEMORY_REGION,
};

use crate::error::Result;
use crate::task::Task;
use crate::vcpu::{Vcpu, VcpuRef};
use crate::vm::Kvm;

pub use arm64::{ARM64, Arm64};
pub use encoding::Encoding;
pub use loongarch::{LOONGARCH, Loongarch};
pub use mips::{MIPS, Mips};
pub use powerpc::{POWERPC, Powerpc};
pub use riscv::{RISCV, Riscv};
pub use s390::{KVM_S390_INTERRUPT, KVM_S390_IRQ, S390, S390x};
pub use state::{VcpuArch, VmArch};
pub(crate) use x86::interrupt;
pub use x86::{AMD, INTEL, Vendor, X86};

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
    /// The architecture's name, as its directory in the kernel; x86 with its vendor.
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

    /// `kvm_arch_vcpu_ioctl_run`, under `vcpu->mutex`. Without TDX: a guest that takes interrupts.
    fn kvm_arch_vcpu_ioctl_run(&self, task: &Task, vcpu: &VcpuRef) -> Result<i64> {
        let _loaded = vcpu.load(task);
        stand_in::run(task, vcpu, || vcpu.arch().take())
    }

    /// `kvm_arch_vm_ioctl`, where the architecture has an answer of its own.
    fn kvm_arch_vm_ioctl(&self, task: &Task, kvm: &Arc<Kvm>, request: u32, arg: u64) -> Handled {
        let _ = (task, kvm, request, arg);
        Handled::No
    }

    /// The architecture's part of `kvm_arch_vcpu_create`.
    fn kvm_arch_vcpu_create(&self, task: &Task, kvm: &Arc<Kvm>, vcpu: &Vcpu) -> Result<()> {
        let _ = (task, kvm, vcpu);
        Ok(())
    }

    /// The architecture's part of `kvm_arch_vcpu_destroy`.
    fn kvm_arch_vcpu_destroy(&self, kvm: &Kvm, vcpu: &Vcpu) {
        let _ = (kvm, vcpu);
    }

    /// Bit mask of the VM types that KVM_CREATE_VM takes.
    fn vm_types(&self) -> u64 {
        1
    }

    /// How request numbers are put together.
    fn encoding(&self) -> Encoding {
        Encoding::Generic
    }

    /// Capabilities beyond those of all architectures, with what KVM_CHECK_EXTENSION answers.
    fn caps(&self) -> &'static [(u32, i64)] {
        &[]
    }

    /// Whether x86's tables of ioctls and capabilities are the architecture's.
    fn has_x86_tables(&self) -> bool {
        false
    }
}

/// Every architecture that a machine can have.
pub static ARCHES: &[&dyn Arch] = &[
    &INTEL, &AMD, &ARM64, &LOONGARCH, &MIPS, &POWERPC, &RISCV, &S390,
];

/// The architecture of a name.
pub fn by_name(name: &str) -> Option<&'static dyn Arch> {
    ARCHES.iter().copied().find(|arch| arch.name() == name)
}

/// Requests that every architecture has, of those in the tables.
const GENERIC: &[u32] = &[
    KVM_GET_API_VERSION,
    KVM_CREATE_VM,
    KVM_CHECK_EXTENSION,
    KVM_GET_VCPU_MMAP_SIZE,
    KVM_CREATE_VCPU,
    KVM_SET_USER_MEMORY_REGION,
    KVM_RUN,
];

/// Whether a request of the tables is one of the architecture's.
pub(crate) fn has_request(arch: &dyn Arch, request: u32) -> bool {
    arch.has_x86_tables() || GENERIC.contains(&request)
}

/// What KVM_CHECK_EXTENSION answers; None when x86's table says it.
pub(crate) fn check_extension(arch: &dyn Arch, cap: u64) -> Option<i64> {
    if arch.has_x86_tables() {
        return None;
    }
    let own = arch
        .caps()
        .iter()
        .find(|(known, _)| u64::from(*known) == cap);
    let everywhere = [
        KVM_CAP_USER_MEMORY,
        KVM_CAP_SYNC_MMU,
        KVM_CAP_IMMEDIATE_EXIT,
    ];
    let generic = i64::from(everywhere.iter().any(|known| u64::from(*known) == cap));
    Some(own.map_or(generic, |(_, value)| *value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_architecture_can_be_asked_for_by_its_name() {
        let names: BTreeSet<&str> = ARCHES.iter().map(|arch| arch.name()).collect();
        assert_eq!(names.len(), ARCHES.len());
        for name in names {
            assert_eq!(by_name(name).map(|arch| arch.name()), Some(name));
        }
        assert!(by_name("ia64").is_none());
    }
}
