//! Exits of the processor that the module decides about by their reason alone.
//!
//! Source: TDX module 1.5, `tdx_td_dispatcher.c`; SDM volume 3, appendix C (exit reasons).

use seamlock_tdx_abi::status::TdxStatus;

use crate::Module;
use crate::guest::{Exception, GuestAfter, VeInfo};
use crate::td_exit::{AsyncExit, EPT_MISCONFIGURATION, Inside};

/// What the processor reports about an exit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VmExitReport {
    /// VMX exit reason.
    pub reason: u32,
    /// Exit qualification.
    pub qual: u64,
    /// Guest physical address, where the reason has one.
    pub gpa: u64,
    /// VM-exit interruption information, where the reason has one.
    pub interruption: u32,
    /// Bytes of the instruction, where there is one.
    pub instruction_length: u32,
    /// VM-exit instruction information.
    pub instruction_info: u32,
}

/// What an exit reason leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// #VE.
    Ve,
    /// #UD.
    Ud,
    /// #GP(0).
    Gp,
    /// #GP(0) without ATTRIBUTES.PERFMON, else as an unexpected reason.
    GpWithoutPerfmon,
    /// The TD exits.
    Exit,
    /// The TD exits; it is fatal when bit 0 of the qualification says that the context is lost.
    ExitOrFatal,
    /// The TD exits for a shared address. A private one can't get there.
    ExitIfShared,
    /// The TD exits; a machine check makes it fatal.
    Interruption,
    /// The TD exits and the vCPU is disabled.
    DisableVcpu,
    /// The module looks at registers, too: this exit has a method of its own.
    Elsewhere,
}

/// Every exit reason that a TD can have, with its name and what it leads to. A reason that is not
/// listed exits from a debug TD and is fatal to any other.
pub const EXITS: &[(u32, &str, Decision)] = &[
    (0, "EXCEPTION_OR_NMI", Decision::Interruption),
    (1, "EXTERNAL_INTERRUPT", Decision::Exit),
    (2, "TRIPLE_FAULT", Decision::DisableVcpu),
    (3, "INIT", Decision::Exit),
    (6, "OTHER_SMI", Decision::Exit),
    (9, "TASK_SWITCH", Decision::Exit),
    (10, "CPUID", Decision::Elsewhere),
    (11, "GETSEC", Decision::Ud),
    (12, "HLT", Decision::Ve),
    (13, "INVD", Decision::Ve),
    (15, "RDPMC", Decision::GpWithoutPerfmon),
    (17, "RSM", Decision::Ud),
    (18, "VMCALL", Decision::Ve),
    (19, "VMCLEAR", Decision::Ud),
    (20, "VMLAUNCH", Decision::Ud),
    (21, "VMPTRLD", Decision::Ud),
    (22, "VMPTRST", Decision::Ud),
    (23, "VMREAD", Decision::Ud),
    (24, "VMRESUME", Decision::Ud),
    (25, "VMWRITE", Decision::Ud),
    (26, "VMXOFF", Decision::Ud),
    (27, "VMXON", Decision::Ud),
    (28, "CR_ACCESS", Decision::Elsewhere),
    (30, "IO_INSTRUCTION", Decision::Ve),
    (31, "MSR_READ", Decision::Elsewhere),
    (32, "MSR_WRITE", Decision::Elsewhere),
    // 1.5.01 raises #VE for these two.
    (36, "MWAIT", Decision::Ud),
    (39, "MONITOR", Decision::Ud),
    (48, "EPT_VIOLATION", Decision::Elsewhere),
    (49, "EPT_MISCONFIGURATION", Decision::ExitIfShared),
    (50, "INVEPT", Decision::Ud),
    (53, "INVVPID", Decision::Ud),
    (54, "WBINVD", Decision::Ve),
    (55, "XSETBV", Decision::Elsewhere),
    (56, "APIC_WRITE", Decision::Ve),
    (59, "VMFUNC", Decision::Ud),
    (60, "ENCLS", Decision::Ud),
    (65, "PCONFIG", Decision::Ve),
    (70, "ENCLV", Decision::Ud),
    (72, "ENQCMD_PASID_TRANSLATION", Decision::Gp),
    (73, "ENQCMDS_PASID_TRANSLATION", Decision::Ud),
    (74, "BUS_LOCK", Decision::Exit),
    (75, "NOTIFICATION", Decision::ExitOrFatal),
    (76, "SEAMCALL", Decision::Ud),
    (77, "TDCALL", Decision::Elsewhere),
];

/// What an exit reason leads to; None for a reason that no TD can have.
pub fn decision(reason: u32) -> Option<Decision> {
    let found = EXITS.iter().find(|(listed, ..)| *listed == reason);
    found.map(|(.., decision)| *decision)
}

/// ATTRIBUTES.PERFMON.
const PERFMON: u64 = 1 << 63;
/// Interruption type in the interruption information: non-maskable interrupt.
const TYPE_NMI: u32 = 2;
/// Vector of a machine check.
const MACHINE_CHECK: u32 = 18;

impl Module {
    /// Decides about an exit of the guest on `lp`. The processor has stored its state before.
    ///
    /// EPT violations, CPUID, control registers, XSETBV, MSRs and TDCALL have methods of their own;
    /// here they are our caller's bug and answered with #GP, as is a call when no guest runs on
    /// `lp`.
    pub fn vm_exit(&self, lp: u32, exit: &VmExitReport) -> GuestAfter {
        let Some(at) = self.inside(lp) else {
            return GuestAfter::Inject(Exception::GeneralProtection);
        };
        if let Some(dead) = at.dead(exit.reason, exit.qual) {
            return GuestAfter::TdExit(at.leave(dead));
        }
        at.check_progress();
        at.note_exit(exit.reason, exit.qual, exit.gpa);
        at.decide(exit)
    }
}

impl Inside<'_> {
    fn decide(self, exit: &VmExitReport) -> GuestAfter {
        let leave = |status| {
            GuestAfter::TdExit(self.leave(AsyncExit {
                status,
                interruption: exit.interruption,
                ..AsyncExit::plain(exit.reason, exit.qual)
            }))
        };
        match decision(exit.reason) {
            Some(Decision::Ve) => GuestAfter::Inject(self.instruction_ve(exit)),
            Some(Decision::Ud) => GuestAfter::Inject(Exception::UndefinedInstruction),
            Some(Decision::Gp | Decision::Elsewhere) => {
                GuestAfter::Inject(Exception::GeneralProtection)
            }
            Some(Decision::GpWithoutPerfmon) if self.td.attributes.load() & PERFMON == 0 => {
                GuestAfter::Inject(Exception::GeneralProtection)
            }
            Some(Decision::Exit) => leave(TdxStatus::SUCCESS),
            Some(Decision::ExitOrFatal) if exit.qual & 1 == 0 => leave(TdxStatus::SUCCESS),
            Some(Decision::ExitOrFatal) => leave(TdxStatus::NON_RECOVERABLE_TD),
            Some(Decision::ExitIfShared) if exit.gpa >> (self.td.gpa_width() - 1) & 1 != 0 => {
                GuestAfter::TdExit(self.leave(AsyncExit {
                    gpa: exit.gpa & !0xfff,
                    ..AsyncExit::plain(EPT_MISCONFIGURATION, 0)
                }))
            }
            Some(Decision::Interruption) => leave(self.interruption(exit.interruption)),
            Some(Decision::DisableVcpu) => leave(TdxStatus::NON_RECOVERABLE_VCPU),
            None | Some(Decision::GpWithoutPerfmon | Decision::ExitIfShared) => {
                leave(self.unexpected())
            }
        }
    }

    /// An exit that only a debugger can have asked for.
    fn unexpected(&self) -> TdxStatus {
        if self.td.is_debug() {
            TdxStatus::SUCCESS
        } else {
            TdxStatus::NON_RECOVERABLE_TD
        }
    }

    fn interruption(&self, info: u32) -> TdxStatus {
        if info >> 8 & 7 == TYPE_NMI {
            TdxStatus::SUCCESS
        } else if info & 0xff == MACHINE_CHECK {
            TdxStatus::NON_RECOVERABLE_TD_NON_ACCESSIBLE
        } else {
            self.unexpected()
        }
    }

    fn instruction_ve(&self, exit: &VmExitReport) -> Exception {
        let info = VeInfo {
            reason: exit.reason,
            qual: exit.qual,
            instruction_length: exit.instruction_length,
            instruction_info: exit.instruction_info,
            ..VeInfo::default()
        };
        self.vp.guest.with(|guest| guest.raise_ve(info))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_listed_once_and_in_order() {
        assert!(EXITS.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(decision(12), Some(Decision::Ve));
        assert_eq!(decision(52), None);
    }
}
