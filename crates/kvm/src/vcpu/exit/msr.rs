//! MSRs that KVM emulates for a TD. All others are the module's, or do not exist.

use seamlock_tdx_abi::kvm::{
    KVM_CAP_X86_USER_SPACE_MSR, KVM_EXIT_X86_RDMSR, KVM_EXIT_X86_WRMSR, KVM_MSR_EXIT_REASON_INVAL,
    KVM_MSR_EXIT_REASON_UNKNOWN, KvmExitMsr, TDVMCALL_STATUS_INVALID_OPERAND,
};

use super::{Completion, Exit, Handling};
use crate::vcpu::State;

const APICBASE: u32 = 0x1b;
const FEAT_CTL: u32 = 0x3a;
const MCG_CAP: u32 = 0x179;
const EFER: u32 = 0xc000_0080;
/// IA32_MCG_CAP: local machine checks.
const MCG_LMCE_P: u64 = 1 << 27;
const FEAT_CTL_LOCKED: u64 = 1;
const FEAT_CTL_LMCE: u64 = 1 << 20;
/// LME, LMA, NXE and SCE, which a TD always has.
const TD_EFER: u64 = 0xd01;

/// `tdx_has_emulated_msr`: first and last of each range.
const EMULATED: &[(u32, u32)] = &[
    (APICBASE, APICBASE),
    (FEAT_CTL, FEAT_CTL),
    (0x8b, 0x8b),
    (0xce, 0xce),
    (0xfe, 0xfe),
    (0x10a, 0x10a),
    (0x140, 0x140),
    (MCG_CAP, 0x17b),
    (0x1a0, 0x1a0),
    (0x1fc, 0x1fc),
    (0x200, 0x26f),
    (0x277, 0x277),
    (0x280, 0x29f),
    (0x2ff, 0x2ff),
    (0x400, 0x47f),
    (0x4d0, 0x4d0),
    (0x6e0, 0x6e0),
    (0x802, 0x803),
    (0x80d, 0x80d),
    (0x80f, 0x80f),
    (0x828, 0x828),
    (0x82f, 0x830),
    (0x832, 0x839),
    (0x83e, 0x83e),
    (EFER, EFER),
    (0x4b56_4d05, 0x4b56_4d05),
];

/// MSRs that KVM does not let a TD write (`tdx_is_read_only_msr`), and those that nobody writes.
const READ_ONLY: &[u32] = &[APICBASE, FEAT_CTL, EFER, MCG_CAP, 0xfe, 0xce];

fn is_emulated(msr: u32) -> bool {
    EMULATED
        .iter()
        .any(|(first, last)| (*first..=*last).contains(&msr))
}

/// What an MSR reads as: what was written, else its value after reset.
fn read(state: &State, msr: u32) -> u64 {
    let lmce = state.mcg_cap & MCG_LMCE_P != 0;
    match msr {
        APICBASE => state.apic_base,
        FEAT_CTL => FEAT_CTL_LOCKED | if lmce { FEAT_CTL_LMCE } else { 0 },
        MCG_CAP => state.mcg_cap,
        EFER => TD_EFER,
        // MTRRcap: write combining, fixed ranges, eight variable ones.
        0xfe => 0x508,
        // PAT after reset.
        0x277 => state
            .msrs
            .get(&msr)
            .copied()
            .unwrap_or(0x0007_0406_0007_0406),
        _ => state.msrs.get(&msr).copied().unwrap_or(0),
    }
}

impl Handling<'_> {
    /// RDMSR: number in R12, value in R11.
    pub(super) fn emulate_rdmsr(&mut self) -> Exit {
        let msr = self.regs.r12 as u32;
        if !is_emulated(msr) {
            return self.refused(KVM_EXIT_X86_RDMSR, msr, 0, Completion::Rdmsr);
        }
        let value = self.vcpu.state.with(|state| read(state, msr));
        self.return_value(value)
    }

    /// WRMSR: number in R12, value in R13.
    pub(super) fn emulate_wrmsr(&mut self) -> Exit {
        let (msr, value) = (self.regs.r12 as u32, self.regs.r13);
        if !is_emulated(msr) || READ_ONLY.contains(&msr) {
            return self.refused(KVM_EXIT_X86_WRMSR, msr, value, Completion::Wrmsr);
        }
        self.vcpu.state.with(|state| state.msrs.insert(msr, value));
        Exit::Again
    }

    /// `kvm_msr_user_space`, or an error for the guest.
    fn refused(&mut self, exit: u32, index: u32, data: u64, then: Completion) -> Exit {
        let wanted = self.kvm.arch.with(|arch| {
            let set = arch
                .enabled
                .iter()
                .rev()
                .find(|e| e.0 == KVM_CAP_X86_USER_SPACE_MSR);
            set.map_or(0, |(_, mask)| *mask as u32)
        });
        let reason = if is_emulated(index) {
            KVM_MSR_EXIT_REASON_INVAL
        } else {
            KVM_MSR_EXIT_REASON_UNKNOWN
        };
        if wanted & reason == 0 {
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
