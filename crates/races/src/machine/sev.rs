//! Two SEV-ES guests on an AMD machine: one that was launched, and one that takes over from it.

use seamlock_kvm::error::Result;
use seamlock_kvm::sev::{
    KVM_SEV_INIT2, KVM_SEV_LAUNCH_START, KVM_SEV_LAUNCH_UPDATE_VMSA, SevCmd, SevInit,
};
use seamlock_tdx_abi::kvm::*;
use zerocopy::{FromZeros, IntoBytes};

use super::{Machine, Td};

impl Machine {
    /// Makes the VM that is there the destination, with a vCPU, and a launched source beside it.
    pub(super) fn launch_sev(&mut self, system: i32) -> Result<()> {
        let boot = self.on(0);
        let vcpu = boot.ioctl(self.td.vm, KVM_CREATE_VCPU, 0)? as i32;
        let source = Td::create(&self.host, &self.process, system, KVM_X86_SEV_ES_VM)?;
        let init = self.process.map_copy(SevInit::new_zeroed().as_bytes());
        self.sev(source.vm, KVM_SEV_INIT2, init)?;
        boot.ioctl(source.vm, KVM_CREATE_VCPU, 0)?;
        self.sev(source.vm, KVM_SEV_LAUNCH_START, 0)?;
        self.sev(source.vm, KVM_SEV_LAUNCH_UPDATE_VMSA, 0)?;
        self.td.vcpus.push(vcpu);
        self.second = Some(source);
        Ok(())
    }

    fn sev(&self, vm: i32, id: u32, data: u64) -> Result<i64> {
        let cmd = SevCmd {
            id,
            data,
            ..SevCmd::default()
        };
        let arg = self.process.map_copy(cmd.as_bytes());
        self.on(0).ioctl(vm, KVM_MEMORY_ENCRYPT_OP, arg)
    }

    /// KVM_ENABLE_CAP(KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM) from the second VM.
    pub fn move_from_arg(&self) -> u64 {
        let from = self.second.as_ref().map_or(-1, |source| source.vm);
        let cap = KvmEnableCap {
            cap: KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM,
            flags: 0,
            args: [from as u64, 0, 0, 0],
            pad: [0; 64],
        };
        self.process.map_copy(cap.as_bytes())
    }
}
