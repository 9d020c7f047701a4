//! MSRs that KVM emulates for a TD. All others are the module's, or do not exist.

use seamlock_tdx_abi::kvm::{
    KVM_CAP_X86_USER_SPACE_MSR, KVM_EXIT_X86_RDMSR, KVM_EXIT_X86_WRMSR, KVM_MSR_EXIT_REASON_FILTER,
    KVM_MSR_EXIT_REASON_INVAL, KVM_MSR_FILTER_READ, KVM_MSR_FILTER_WRITE, KvmExitMsr,
    TDVMCALL_STATUS_INVALID_OPERAND,
};

use super::{Completion, Exit, Handling};
use crate::ioctl::{ARCH_CAPABILITIES, is_valid_apic_base};
use crate::vcpu::registers::Caps;
use crate::vcpu::{Registers, State, Vcpu};
use crate::vm::Kvm;

const APICBASE: u32 = 0x1b;
const FEAT_CTL: u32 = 0x3a;
const MCG_CAP: u32 = 0x179;
const MCG_EXT_CTL: u32 = 0x4d0;
const MTRR_CAP: u32 = 0xfe;
const PLATFORM_INFO: u32 = 0xce;
const X2APIC_ID: u32 = 0x802;
const POLL_CONTROL: u32 = 0x4b56_4d05;
const EFER: u32 = 0xc000_0080;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
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
    (PLATFORM_INFO, PLATFORM_INFO),
    (MTRR_CAP, MTRR_CAP),
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
    (MCG_EXT_CTL, MCG_EXT_CTL),
    (0x6e0, 0x6e0),
    (X2APIC_ID, 0x803),
    (0x80d, 0x80d),
    (0x80f, 0x80f),
    (0x828, 0x828),
    (0x82f, 0x830),
    (0x832, 0x839),
    (0x83e, 0x83e),
    (EFER, EFER),
    (POLL_CONTROL, POLL_CONTROL),
];

/// MSRs that KVM does not let a TD write (`tdx_is_read_only_msr`), and those that nobody writes.
const READ_ONLY: &[u32] = &[APICBASE, FEAT_CTL, EFER, MCG_CAP, MTRR_CAP, PLATFORM_INFO];

fn is_emulated(msr: u32) -> bool {
    EMULATED
        .iter()
        .any(|(first, last)| (*first..=*last).contains(&msr))
}

impl Vcpu {
    /// What an MSR reads as, for the guest and for user space: what was written, else its value after
    /// reset. None where it can't be read.
    pub(crate) fn msr(&self, msr: u32) -> Option<u64> {
        self.state.with(|state| {
            if let Some(registers) = &state.registers {
                return match msr {
                    APICBASE => Some(state.apic_base),
                    MCG_CAP => Some(state.mcg_cap),
                    _ => {
                        let after_reset = registers.msr_after_reset(msr, ARCH_CAPABILITIES)?;
                        Some(state.msrs.get(&msr).copied().unwrap_or(after_reset))
                    }
                };
            }
            let lmce = state.mcg_cap & MCG_LMCE_P != 0;
            let after_reset = match msr {
                _ if !is_emulated(msr) => return None,
                APICBASE => return Some(state.apic_base),
                FEAT_CTL => return Some(FEAT_CTL_LOCKED | if lmce { FEAT_CTL_LMCE } else { 0 }),
                MCG_CAP => return Some(state.mcg_cap),
                EFER => return Some(TD_EFER),
                // Write combining, fixed ranges, eight variable ones.
                MTRR_CAP => return Some(0x508),
                // The microcode revision that KVM starts Intel's processors with.
                0x8b => 0x1_0000_0000,
                // CPUID faulting.
                PLATFORM_INFO => 1 << 31,
                // No PEBS, no BTS.
                0x1a0 => 0x1800,
                // PAT.
                0x277 => 0x0007_0406_0007_0406,
                X2APIC_ID => u64::from(self.id),
                POLL_CONTROL => 1,
                _ => 0,
            };
            Some(state.msrs.get(&msr).copied().unwrap_or(after_reset))
        })
    }

    /// User space writes an MSR. Whether it may.
    pub(crate) fn set_msr(&self, kvm: &Kvm, msr: u32, value: u64) -> bool {
        let own = self.state.with(|state| {
            let mut registers = state.registers.take()?;
            let taken = set_own_msr(kvm, state, &mut registers, msr, value);
            state.registers = Some(registers);
            Some(taken)
        });
        if let Some(taken) = own {
            return taken;
        }
        let refused = match msr {
            APICBASE | FEAT_CTL | EFER | MCG_CAP | MTRR_CAP => true,
            MCG_EXT_CTL => value > 1,
            _ => !is_emulated(msr),
        };
        if !refused {
            self.state.with(|state| state.msrs.insert(msr, value));
        }
        !refused
    }
}

/// As [`Vcpu::set_msr`], of a vCPU whose registers KVM has.
fn set_own_msr(
    kvm: &Kvm,
    state: &mut State,
    registers: &mut Registers,
    msr: u32,
    value: u64,
) -> bool {
    let platform_info = state.msrs.get(&PLATFORM_INFO).copied().unwrap_or(1 << 31);
    let width = state.maxphyaddr();
    let caps = Caps::new(&kvm.host, &state.cpuid);
    match msr {
        MCG_CAP => false,
        APICBASE => {
            let taken = is_valid_apic_base(state.apic_base, value, &caps, width);
            if taken {
                state.apic_base = value;
            }
            taken
        }
        _ => {
            let kept = registers.take_msr(&caps, msr, value, platform_info);
            // Those that are registers are kept there.
            if let Some(kept) = kept.filter(|_| !matches!(msr, EFER | FS_BASE | GS_BASE)) {
                state.msrs.insert(msr, kept);
            }
            kept.is_some()
        }
    }
}

/// Why an MSR is not the guest's. One that a TD lacks is invalid, and not unknown.
fn refusal(kvm: &Kvm, msr: u32, access: u32, lacks: bool) -> Option<u32> {
    let filter = kvm.arch.with(|arch| arch.msr_filter.clone());
    if filter.is_some_and(|filter| !filter.allows(msr, access)) {
        return Some(KVM_MSR_EXIT_REASON_FILTER);
    }
    lacks.then_some(KVM_MSR_EXIT_REASON_INVAL)
}

impl Handling<'_> {
    /// RDMSR: number in R12, value in R11.
    pub(super) fn emulate_rdmsr(&mut self) -> Exit {
        let msr = self.regs.r12 as u32;
        let value = self.vcpu.msr(msr);
        match refusal(self.kvm, msr, KVM_MSR_FILTER_READ, value.is_none()) {
            None => self.return_value(value.unwrap_or(0)),
            Some(reason) => self.refused(KVM_EXIT_X86_RDMSR, (msr, 0), reason, Completion::Rdmsr),
        }
    }

    /// WRMSR: number in R12, value in R13.
    pub(super) fn emulate_wrmsr(&mut self) -> Exit {
        let (msr, value) = (self.regs.r12 as u32, self.regs.r13);
        let lacks = !is_emulated(msr) || READ_ONLY.contains(&msr);
        if let Some(reason) = refusal(self.kvm, msr, KVM_MSR_FILTER_WRITE, lacks) {
            return self.refused(KVM_EXIT_X86_WRMSR, (msr, value), reason, Completion::Wrmsr);
        }
        self.vcpu.state.with(|state| state.msrs.insert(msr, value));
        Exit::Again
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
