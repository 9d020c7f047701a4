//! RDMSR and WRMSR in a guest.
//!
//! Source: TDX module 1.5, `td_msr_access.c`.

use crate::Module;
use crate::cpuid::lookup;
use crate::guest::msr_table::{Feature, MsrAccess, msr_rule};
use crate::guest::{Exception, VeInfo};
use crate::td_exit::Inside;

/// VMX exit reason of RDMSR.
const MSR_READ: u32 = 31;
/// VMX exit reason of WRMSR.
const MSR_WRITE: u32 = 32;
/// Bytes of the instructions.
const MSR_INSTRUCTION_LENGTH: u32 = 2;

const XAPIC_DISABLE_STATUS: u32 = 0xbd;
const ARCH_CAPABILITIES: u32 = 0x10a;
const MISC_ENABLE: u32 = 0x1a0;
const DEBUGCTL: u32 = 0x1d9;
const PERF_CAPABILITIES: u32 = 0x345;
const XSS: u32 = 0xda0;
const EFER: u32 = 0xc000_0080;

/// IA32_MISC_ENABLE of a TD on the made-up machine: fast strings; no branch trace, no PEBS.
const VIRTUAL_MISC_ENABLE: u64 = 1 | 1 << 11 | 1 << 12;
/// LEGACY_XAPIC_DISABLED: the APIC stays in x2APIC mode.
const LEGACY_XAPIC_DISABLED: u64 = 1;
/// Reserved bits of IA32_DEBUGCTL.
const DEBUGCTL_RESERVED: u64 = !0xffc3;
/// Trace messages (TR), which only go with a branch trace store (BTS).
const DEBUGCTL_TR: u64 = 1 << 6;
const DEBUGCTL_BTS: u64 = 1 << 7;
const EFER_SCE: u64 = 1;
const EFER_LMA: u64 = 1 << 10;

/// How a read or write of a register goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsrAnswer {
    /// As on the processor: its own register, its own checks.
    Native,
    /// The module's value; the processor's register is not touched.
    Value(u64),
    /// The guest takes an exception.
    Inject(Exception),
}

impl Module {
    /// RDMSR of the guest on `lp`; #GP when no guest runs there.
    pub fn guest_rdmsr(&self, lp: u32, index: u32) -> MsrAnswer {
        let Some(at) = self.inside(lp) else {
            return MsrAnswer::Inject(Exception::GeneralProtection);
        };
        match at.msr_access(index, MSR_READ) {
            Ok(MsrAccess::Module) => at.read_msr(index),
            Ok(_) => MsrAnswer::Native,
            Err(exception) => MsrAnswer::Inject(exception),
        }
    }

    /// WRMSR of the guest on `lp`; [`MsrAnswer::Value`] does not occur. #GP when no guest runs
    /// there. The processor has stored its state before.
    pub fn guest_wrmsr(&self, lp: u32, index: u32, value: u64) -> MsrAnswer {
        let Some(at) = self.inside(lp) else {
            return MsrAnswer::Inject(Exception::GeneralProtection);
        };
        match at.msr_access(index, MSR_WRITE) {
            Ok(MsrAccess::Module) => match at.check_msr(index, value) {
                Ok(()) => MsrAnswer::Native,
                Err(exception) => MsrAnswer::Inject(exception),
            },
            Ok(_) => MsrAnswer::Native,
            Err(exception) => MsrAnswer::Inject(exception),
        }
    }
}

impl Inside<'_> {
    /// What the table says; an exception when that is one.
    fn msr_access(&self, index: u32, reason: u32) -> Result<MsrAccess, Exception> {
        let access = msr_rule(index).map_or(MsrAccess::Ve, |rule| match reason {
            MSR_READ => rule.read,
            _ => rule.write,
        });
        match access {
            MsrAccess::Native | MsrAccess::Module => Ok(access),
            MsrAccess::NativeIf(feature) if self.has(feature) => Ok(MsrAccess::Native),
            MsrAccess::Ve => Err(self.msr_ve(reason)),
            MsrAccess::VeIf(feature) if self.has(feature) => Err(self.msr_ve(reason)),
            MsrAccess::Gp | MsrAccess::NativeIf(_) | MsrAccess::VeIf(_) => {
                Err(Exception::GeneralProtection)
            }
        }
    }

    fn msr_ve(&self, reason: u32) -> Exception {
        let info = VeInfo {
            reason,
            instruction_length: MSR_INSTRUCTION_LENGTH,
            ..VeInfo::default()
        };
        self.vp.guest.with(|guest| guest.raise_ve(info))
    }

    fn has(&self, feature: Feature) -> bool {
        let xfam = |bits: u64| self.td.xfam.load() & bits == bits;
        let attribute = |bit: u32| self.td.attributes.load() >> bit & 1 != 0;
        let cpuid = |leaf, subleaf, register: usize, mask: u32| {
            let value = self.td.config.with(|config| {
                let index = lookup(leaf, subleaf)?;
                config.cpuid.get(index).copied()
            });
            value.is_some_and(|value| value[register] & mask != 0)
        };
        match feature {
            Feature::Cet => xfam(3 << 11),
            Feature::Lbr => xfam(1 << 15),
            Feature::ProcessorTrace => xfam(1 << 8),
            Feature::UserInterrupts => xfam(1 << 14),
            Feature::Perfmon => attribute(63),
            Feature::Pks => attribute(30),
            Feature::Dca => cpuid(0x1, 0, 2, 1 << 18),
            Feature::TscDeadline => cpuid(0x1, 0, 2, 1 << 24),
            Feature::Tme => cpuid(0x7, 0, 2, 1 << 13),
            Feature::Tsx => cpuid(0x7, 0, 1, 1 << 4 | 1 << 11),
            Feature::Umwait => cpuid(0x7, 0, 2, 1 << 5),
            Feature::Xfd => cpuid(0xd, 1, 0, 1 << 4),
        }
    }

    fn read_msr(&self, index: u32) -> MsrAnswer {
        match index {
            ARCH_CAPABILITIES => {
                let value = self.td.config.with(|config| config.ia32_arch_capabilities);
                MsrAnswer::Value(value)
            }
            XAPIC_DISABLE_STATUS => MsrAnswer::Value(LEGACY_XAPIC_DISABLED),
            MISC_ENABLE if !self.has(Feature::Perfmon) => MsrAnswer::Value(VIRTUAL_MISC_ENABLE),
            PERF_CAPABILITIES if !self.has(Feature::Perfmon) => MsrAnswer::Value(0),
            _ => MsrAnswer::Native,
        }
    }

    /// What the module looks at before a write goes to the processor.
    fn check_msr(&self, index: u32, value: u64) -> Result<(), Exception> {
        match index {
            XSS => {
                let allowed = self.m.platform.xss_supported & self.td.xfam.load();
                if value & !allowed != 0 {
                    return Err(Exception::GeneralProtection);
                }
            }
            DEBUGCTL => {
                if value & DEBUGCTL_RESERVED != 0 {
                    return Err(Exception::GeneralProtection);
                }
                if value & DEBUGCTL_TR != 0 && value & DEBUGCTL_BTS == 0 {
                    return Err(self.msr_ve(MSR_WRITE));
                }
            }
            EFER => {
                let old = self.vp.guest.with(|guest| guest.cpu.efer);
                if (old ^ value) & !(EFER_SCE | EFER_LMA) != 0 {
                    return Err(self.msr_ve(MSR_WRITE));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
