//! x86: KVM_MEMORY_ENCRYPT_OP is the unlocked vCPU ioctl, if the vendor has an operation for it.
//! KVM_INTERRUPT is a locked one here: it waits until the vCPU's KVM_RUN has returned.

mod avic;
pub(crate) mod interrupt;

use std::sync::Arc;

use seamlock_tdx_abi::kvm::{
    KVM_MEMORY_ENCRYPT_OP, KVM_MP_STATE_UNINITIALIZED, KVM_X86_DEFAULT_VM, KVM_X86_SEV_ES_VM,
    KVM_X86_SEV_VM, KVM_X86_SW_PROTECTED_VM, KVM_X86_TDX_VM,
};

use super::{Arch, Handled, stand_in};
use crate::error::Result;
use crate::sev;
use crate::task::Task;
use crate::vcpu::{Vcpu, VcpuRef, kvm_arch_vcpu_ioctl_run, wait_for_init};
use crate::vm::Kvm;

/// Which vendor's module is loaded: `kvm-intel.ko` or `kvm-amd.ko`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// VMX, with TDX.
    Intel,
    /// SVM, with SEV and SEV-ES, and AVIC without x2APIC.
    Amd,
}

/// x86.
#[derive(Clone, Copy, Debug)]
pub struct X86 {
    /// Whose processor.
    pub vendor: Vendor,
}

/// A machine with an Intel processor.
pub static INTEL: X86 = X86 {
    vendor: Vendor::Intel,
};
/// A machine with an AMD processor.
pub static AMD: X86 = X86 {
    vendor: Vendor::Amd,
};

impl Arch for X86 {
    fn name(&self) -> &'static str {
        match self.vendor {
            Vendor::Intel => "x86",
            Vendor::Amd => "x86-amd",
        }
    }

    fn kvm_arch_vcpu_unlocked_ioctl(
        &self,
        task: &Task,
        vcpu: &VcpuRef,
        request: u32,
        arg: u64,
    ) -> Handled {
        match (self.vendor, request) {
            (Vendor::Intel, KVM_MEMORY_ENCRYPT_OP) => {
                crate::ioctl::vt_vcpu_mem_enc_unlocked_ioctl(task, vcpu, arg)
            }
            // svm_x86_ops has no vcpu_mem_enc_unlocked_ioctl.
            _ => Handled::No,
        }
    }

    fn kvm_arch_vcpu_ioctl_run(&self, task: &Task, vcpu: &VcpuRef) -> Result<i64> {
        match self.vendor {
            Vendor::Intel => kvm_arch_vcpu_ioctl_run(task, vcpu),
            Vendor::Amd => svm_vcpu_run(task, vcpu),
        }
    }

    fn kvm_arch_vm_ioctl(&self, task: &Task, kvm: &Arc<Kvm>, request: u32, arg: u64) -> Handled {
        match self.vendor {
            Vendor::Intel => Handled::No,
            Vendor::Amd => sev::vm_ioctl(task, kvm, request, arg),
        }
    }

    fn kvm_arch_vcpu_create(&self, task: &Task, kvm: &Arc<Kvm>, vcpu: &Vcpu) -> Result<()> {
        if self.vendor == Vendor::Intel {
            return Ok(());
        }
        avic::kvm_alloc_apic_access_page(task, kvm)?;
        sev::sev_vcpu_create(kvm, vcpu)
    }

    fn kvm_arch_vcpu_destroy(&self, kvm: &Kvm, vcpu: &Vcpu) {
        if self.vendor == Vendor::Amd {
            sev::sev_free_vcpu(kvm, vcpu);
        }
    }

    fn vm_types(&self) -> u64 {
        let own = match self.vendor {
            Vendor::Intel => 1 << KVM_X86_TDX_VM,
            Vendor::Amd => 1 << KVM_X86_SEV_VM | 1 << KVM_X86_SEV_ES_VM,
        };
        1 << KVM_X86_DEFAULT_VM | 1 << KVM_X86_SW_PROTECTED_VM | own
    }

    fn has_x86_tables(&self) -> bool {
        true
    }
}

/// KVM_RUN with SVM, for a guest that switches to the x2APIC first and then waits for interrupts.
fn svm_vcpu_run(task: &Task, vcpu: &VcpuRef) -> Result<i64> {
    let _loaded = vcpu.load(task);
    if vcpu.mp_state() == KVM_MP_STATE_UNINITIALIZED {
        return wait_for_init(task, vcpu, !stand_in::immediate_exit(vcpu));
    }
    sev::pre_sev_run(vcpu.kvm(), vcpu)?;
    avic::kvm_vcpu_update_apicv(task, vcpu);
    stand_in::run(task, vcpu, || interrupt::take(vcpu))
}
