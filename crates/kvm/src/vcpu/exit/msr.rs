//! A TD's accesses to MSRs that the module leaves to KVM.

use seamlock_tdx_abi::kvm::{
    KVM_CAP_X86_USER_SPACE_MSR, KVM_EXIT_X86_RDMSR, KVM_EXIT_X86_WRMSR, KVM_MSR_EXIT_REASON_FILTER,
    KVM_MSR_EXIT_REASON_INVAL, KVM_MSR_EXIT_REASON_UNKNOWN, KVM_MSR_FILTER_READ,
    KVM_MSR_FILTER_WRITE, KvmExitMsr, TDVMCALL_STATUS_INVALID_OPERAND,
};

use super::{Completion, Exit, Handling};
use crate::vcpu::registers::No;
use crate::vm::Kvm;

/// `kvm_msr_allowed`.
fn is_allowed(kvm: &Kvm, msr: u32, access: u32) -> bool {
    let filter = kvm.arch.with(|arch| arch.msr_filter.clone());
    filter.is_none_or(|filter| filter.allows(msr, access))
}

/// `kvm_msr_reason`. An MSR that a TD lacks is invalid; unknown is one that it has without the feature.
fn reason(no: No) -> u32 {
    match no {
        No::Refused => KVM_MSR_EXIT_REASON_INVAL,
        No::Unsupported => KVM_MSR_EXIT_REASON_UNKNOWN,
    }
}

impl Handling<'_> {
    /// RDMSR: number in R12, value in R11.
    pub(super) fn emulate_rdmsr(&mut self) -> Exit {
        let msr = self.regs.r12 as u32;
        let value = match is_allowed(self.kvm, msr, KVM_MSR_FILTER_READ) {
            true => self.vcpu.guest_msr(self.kvm, msr).map_err(reason),
            false => Err(KVM_MSR_EXIT_REASON_FILTER),
        };
        match value {
            Ok(value) => self.return_value(value),
            Err(reason) => self.refused(KVM_EXIT_X86_RDMSR, (msr, 0), reason, Completion::Rdmsr),
        }
    }

    /// WRMSR: number in R12, value in R13.
    pub(super) fn emulate_wrmsr(&mut self) -> Exit {
        let (msr, value) = (self.regs.r12 as u32, self.regs.r13);
        let written = match is_allowed(self.kvm, msr, KVM_MSR_FILTER_WRITE) {
            true => self
                .vcpu
                .set_guest_msr(self.kvm, msr, value)
                .map_err(reason),
            false => Err(KVM_MSR_EXIT_REASON_FILTER),
        };
        match written {
            Ok(()) => Exit::Again,
            Err(reason) => {
                self.refused(KVM_EXIT_X86_WRMSR, (msr, value), reason, Completion::Wrmsr)
            }
        }
    }

    /// `kvm_msr_user_space`, or an error for the guest.
    fn refused(
        &mut self,
        exit: u32,
        (index, data): (u32, u64),
        reason: u32,
        then: Completion,
    ) -> Exit {
        let wanted = self
            .kvm
            .arch
            .with(|arch| arch.enabled(KVM_CAP_X86_USER_SPACE_MSR));
        if wanted.unwrap_or(0) as u32 & reason == 0 {
            return self.return_code(TDVMCALL_STATUS_INVALID_OPERAND);
        }
        let msr = KvmExitMsr {
            error: 0,
            pad: [0; 7],
            reason,
            index,
            data,
        };
        self.ask_user(exit, &msr, then)
    }

    pub(super) fn complete_rdmsr(&mut self) -> Exit {
        let answer: KvmExitMsr = self.answer();
        match answer.error {
            0 => self.return_value(answer.data),
            _ => self.return_code(TDVMCALL_STATUS_INVALID_OPERAND),
        }
    }

    pub(super) fn complete_wrmsr(&mut self) -> Exit {
        let answer: KvmExitMsr = self.answer();
        match answer.error {
            0 => Exit::Again,
            _ => self.return_code(TDVMCALL_STATUS_INVALID_OPERAND),
        }
    }
}
