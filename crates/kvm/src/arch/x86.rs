//! x86, with Intel's TDX.

use seamlock_tdx_abi::kvm::KVM_MEMORY_ENCRYPT_OP;

use super::{Arch, Handled};
use crate::task::Task;
use crate::vcpu::VcpuRef;

/// x86 on an Intel processor.
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
        if request != KVM_MEMORY_ENCRYPT_OP {
            return Handled::No;
        }
        crate::ioctl::vt_vcpu_mem_enc_unlocked_ioctl(task, vcpu, arg)
    }
}
