//! VMX capability MSRs: what a guest that is a hypervisor finds, and what user space may make of them.
//!
//! Source: Linux v7.3.4 `arch/x86/kvm/vmx/nested.c` (`nested_vmx_setup_ctls_msrs`, `vmx_set_vmx_msr`),
//! `arch/x86/kvm/vmx/vmx.c` (`vmx_adjust_secondary_exec_control`, `nested_vmx_cr_fixed1_bits_update`), on a
//! processor that has every control which KVM knows, but for MPX, processor trace and SGX.

use std::ops::RangeInclusive;

use seamlock_tdx_abi::kvm::KvmCpuidEntry2;
use seamlock_tdx_module::Platform;

use crate::vcpu::registers::caps::{Caps, Feature, is_in};

/// `KVM_FIRST_EMULATED_VMX_MSR` to `KVM_LAST_EMULATED_VMX_MSR`.
pub(super) const MSRS: RangeInclusive<u32> = BASIC..=VMFUNC;
const BASIC: u32 = 0x480;
const PINBASED: u32 = 0x481;
const PROCBASED: u32 = 0x482;
const EXIT: u32 = 0x483;
const ENTRY: u32 = 0x484;
const MISC: u32 = 0x485;
const CR0_FIXED0: u32 = 0x486;
const CR0_FIXED1: u32 = 0x487;
const CR4_FIXED0: u32 = 0x488;
const CR4_FIXED1: u32 = 0x489;
const VMCS_ENUM: u32 = 0x48a;
const PROCBASED2: u32 = 0x48b;
const EPT_VPID: u32 = 0x48c;
const TRUE_PINBASED: u32 = 0x48d;
const TRUE_PROCBASED: u32 = 0x48e;
const TRUE_EXIT: u32 = 0x48f;
const TRUE_ENTRY: u32 = 0x490;
const VMFUNC: u32 = 0x491;

/// Controls that are on where the MSRs without TRUE count.
const PIN_DEFAULT1: u64 = 0x16;
const PROC_DEFAULT1: u64 = 0x0401_e172;
const EXIT_DEFAULT1: u64 = 0x3_6dff;
const ENTRY_DEFAULT1: u64 = 0x11ff;
/// Saving and loading debug controls is up to the guest, as are exits for CR3.
const DEBUG_CONTROLS: u64 = 1 << 2;
const CR3_EXITING: u64 = 3 << 15;

/// External interrupts, NMIs, virtual NMIs, the preemption timer, posted interrupts.
const PIN_MAY: u64 = 0xe9;
/// All but reserved bits and the tertiary controls.
const PROC_MAY: u64 = 0xfbf9_9e8c;
/// 64-bit host, PERF_GLOBAL_CTRL, acknowledging, PAT and EFER both ways, the preemption timer.
const EXIT_MAY: u64 = 0x7c_9200;
/// IA-32e mode, PERF_GLOBAL_CTRL, PAT, EFER.
const ENTRY_MAY: u64 = 0xe200;
const EXIT_LOAD_CET: u64 = 1 << 28;
const ENTRY_LOAD_CET: u64 = 1 << 20;

const RDTSCP: u64 = 1 << 3;
const RDRAND: u64 = 1 << 11;
const INVPCID: u64 = 1 << 12;
const RDSEED: u64 = 1 << 16;
const XSAVES: u64 = 1 << 20;
const WAITPKG: u64 = 1 << 26;
/// APIC accesses, EPT, descriptor tables, x2APIC, VPID, WBINVD, unrestricted guest, APIC registers,
/// interrupt delivery, VMFUNC, shadow VMCS, PML, mode-based execution, TSC scaling.
const SECONDARY_MAY: u64 = 0x0242_63f7;

/// Entries only at one kind of guest (RWX), 4 levels, write-back, 2 MiB and 1 GiB, INVEPT of both kinds,
/// accessed and dirty, advanced exit information.
const EPT: u64 = 1 | 1 << 6 | 1 << 14 | 3 << 16 | 3 << 20 | 1 << 22 | 3 << 25;
const EPT_5_LEVELS: u64 = 1 << 7;
/// INVVPID of all four kinds.
const VPID: u64 = 0xf01 << 32;
/// `VMCS12_REVISION`, 4 KiB, write-back; INS and OUTS, TRUE controls, no check of error codes.
const BASIC_VALUE: u64 =
    0x11e5_7ed0 | 0x1000 << 32 | 6 << 50 | INOUT | TRUE_CTLS | NO_ERROR_CODE_CHECK;
const DUAL_MONITOR: u64 = 1 << 49;
const ADDRESSES_32_BIT: u64 = 1 << 48;
const INOUT: u64 = 1 << 54;
const TRUE_CTLS: u64 = 1 << 55;
const NO_ERROR_CODE_CHECK: u64 = 1 << 56;
/// The timer's rate, EFER.LMA, HLT, wait for SIPI, VMWRITE to any field.
const MISC_VALUE: u64 = 5 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 29;
const MISC_TIMER_RATE: u64 = 0x1f;
/// Its features, and what is reserved.
const MISC_BITS: u64 = 0x7000_c1e0 | 1 << 31 | 0x1f << 9;
const MISC_CR3_COUNT: u64 = 0x1ff << 16;
const MISC_MAX_MSR: u64 = 7 << 25;
const MISC_MSEG: u64 = 0xffff_ffff << 32;
const PREEMPTION_TIMER: u64 = 1 << 6 << 32;
/// PE, NE and PG; VMXE.
const CR0_ON: u64 = 0x8000_0021;
const CR4_ON: u64 = 1 << 13;
/// The highest index of a field is TSC_MULTIPLIER's.
const VMCS_ENUM_VALUE: u64 = 0x19 << 1;
const EPTP_SWITCHING: u64 = 1;

/// One vCPU's, or what KVM supports: `struct nested_vmx_msrs`. Controls that must be on are in the lower
/// half, those that may be in the upper.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct VmxMsrs {
    basic: u64,
    pinbased: u64,
    procbased: u64,
    exit: u64,
    entry: u64,
    secondary: u64,
    misc: u64,
    ept_vpid: u64,
    cr0_fixed: [u64; 2],
    cr4_fixed: [u64; 2],
    vmcs_enum: u64,
    vmfunc: u64,
}

impl VmxMsrs {
    /// `vmcs_config.nested`.
    pub(crate) fn supported(platform: &Platform) -> VmxMsrs {
        let control = |must: u64, may: u64| must | may << 32;
        let five_levels = if platform.ept_5_level {
            EPT_5_LEVELS
        } else {
            0
        };
        VmxMsrs {
            basic: BASIC_VALUE,
            pinbased: control(PIN_DEFAULT1, PIN_DEFAULT1 | PIN_MAY),
            procbased: control(PROC_DEFAULT1 & !CR3_EXITING, PROC_DEFAULT1 | PROC_MAY),
            exit: control(
                EXIT_DEFAULT1 & !DEBUG_CONTROLS,
                EXIT_DEFAULT1 | EXIT_MAY | EXIT_LOAD_CET,
            ),
            entry: control(
                ENTRY_DEFAULT1 & !DEBUG_CONTROLS,
                ENTRY_DEFAULT1 | ENTRY_MAY | ENTRY_LOAD_CET,
            ),
            secondary: control(
                0,
                SECONDARY_MAY | RDTSCP | RDRAND | INVPCID | RDSEED | XSAVES | WAITPKG,
            ),
            misc: MISC_VALUE,
            ept_vpid: EPT | five_levels | VPID,
            cr0_fixed: [CR0_ON, 0xffff_ffff],
            cr4_fixed: [CR4_ON, processor_cr4(platform)],
            vmcs_enum: VMCS_ENUM_VALUE,
            vmfunc: EPTP_SWITCHING,
        }
    }

    /// `vmx_get_vmx_msr`.
    pub(crate) fn get(&self, msr: u32) -> Option<u64> {
        Some(match msr {
            BASIC => self.basic,
            TRUE_PINBASED => self.pinbased,
            PINBASED => self.pinbased | PIN_DEFAULT1,
            TRUE_PROCBASED => self.procbased,
            PROCBASED => self.procbased | PROC_DEFAULT1,
            TRUE_EXIT => self.exit,
            EXIT => self.exit | EXIT_DEFAULT1,
            TRUE_ENTRY => self.entry,
            ENTRY => self.entry | ENTRY_DEFAULT1,
            MISC => self.misc,
            CR0_FIXED0 => self.cr0_fixed[0],
            CR0_FIXED1 => self.cr0_fixed[1],
            CR4_FIXED0 => self.cr4_fixed[0],
            CR4_FIXED1 => self.cr4_fixed[1],
            VMCS_ENUM => self.vmcs_enum,
            PROCBASED2 => self.secondary,
            EPT_VPID => self.ept_vpid,
            VMFUNC => self.vmfunc,
            _ => return None,
        })
    }

    /// `vmx_set_vmx_msr` outside of VMX operation: whether the value is one that KVM can give.
    pub(super) fn set(&mut self, supported: &VmxMsrs, msr: u32, value: u64) -> bool {
        let timer = self.pinbased & PREEMPTION_TIMER != 0;
        let allowed = match msr {
            BASIC => is_restorable_basic(supported.basic, value),
            TRUE_PINBASED | TRUE_PROCBASED | TRUE_EXIT | TRUE_ENTRY | PROCBASED2 => {
                supported.get(msr).is_some_and(|known| {
                    has_all(value, known, 0xffff_ffff) && has_all(known, value, !0xffff_ffff)
                })
            }
            MISC => is_restorable_misc(supported.misc, value, timer),
            CR0_FIXED0 => has_all(value, supported.cr0_fixed[0], u64::MAX),
            CR4_FIXED0 => has_all(value, supported.cr4_fixed[0], u64::MAX),
            EPT_VPID => has_all(supported.ept_vpid, value, u64::MAX),
            VMFUNC => has_all(supported.vmfunc, value, u64::MAX),
            VMCS_ENUM => true,
            // Those without TRUE follow from those with it, CRx_FIXED1 from CPUID.
            _ => false,
        };
        if allowed && let Some(place) = self.place(msr) {
            *place = value;
        }
        allowed
    }

    fn place(&mut self, msr: u32) -> Option<&mut u64> {
        Some(match msr {
            BASIC => &mut self.basic,
            TRUE_PINBASED => &mut self.pinbased,
            TRUE_PROCBASED => &mut self.procbased,
            TRUE_EXIT => &mut self.exit,
            TRUE_ENTRY => &mut self.entry,
            PROCBASED2 => &mut self.secondary,
            MISC => &mut self.misc,
            CR0_FIXED0 => &mut self.cr0_fixed[0],
            CR4_FIXED0 => &mut self.cr4_fixed[0],
            EPT_VPID => &mut self.ept_vpid,
            VMFUNC => &mut self.vmfunc,
            VMCS_ENUM => &mut self.vmcs_enum,
            _ => return None,
        })
    }

    /// `vmx_vcpu_after_set_cpuid`: controls of instructions that the guest has not, where KVM sets up
    /// feature MSRs, and the bits that CR4 may have.
    pub(crate) fn follow_cpuid(&mut self, caps: &Caps, stuffed: bool) {
        let xsaves = caps.has(Feature::XSAVES) && caps.has(Feature::XSAVE);
        let rdtscp = caps.has(Feature::RDTSCP) || caps.has(Feature::RDPID);
        let there = [
            (XSAVES, xsaves),
            (RDTSCP, rdtscp),
            (INVPCID, caps.has(Feature::INVPCID)),
            (RDRAND, caps.has(Feature::RDRAND)),
            (RDSEED, caps.has(Feature::RDSEED)),
            (WAITPKG, caps.has(Feature::WAITPKG)),
        ];
        for (control, there) in there.into_iter().filter(|_| stuffed) {
            self.secondary &= !(control << 32);
            if there {
                self.secondary |= control << 32;
            }
        }
        if caps.has(Feature::VMX) {
            self.cr0_fixed[1] = 0xffff_ffff;
            self.cr4_fixed[1] = guest_cr4(caps.guest());
        }
    }
}

/// Whether `all` has each bit of `some` within a mask.
fn has_all(all: u64, some: u64, mask: u64) -> bool {
    some & mask & !all == 0
}

/// `vmx_restore_vmx_basic`.
fn is_restorable_basic(known: u64, value: u64) -> bool {
    const RESERVED: u64 = 0x7f << 57 | 7 << 45 | 1 << 31;
    const SIZE: u64 = 0x1fff << 32;
    let bits = DUAL_MONITOR | INOUT | TRUE_CTLS | NO_ERROR_CODE_CHECK | RESERVED;
    has_all(known, value, bits)
        && value & ADDRESSES_32_BIT == 0
        && known as u32 & 0x7fff_ffff == value as u32 & 0x7fff_ffff
        && known & SIZE <= value & SIZE
}

/// `vmx_restore_vmx_misc`.
fn is_restorable_misc(known: u64, value: u64, has_timer: bool) -> bool {
    has_all(known, value, MISC_BITS)
        && (!has_timer || known & MISC_TIMER_RATE == value & MISC_TIMER_RATE)
        && value & MISC_CR3_COUNT <= known & MISC_CR3_COUNT
        && value & MISC_MAX_MSR <= known & MISC_MAX_MSR
        && value & MISC_MSEG == known & MISC_MSEG
}

/// Bits of CR4 by the feature that lets them be set.
const CR4_BY_FEATURE: &[(u32, Feature)] = &[
    (0, Feature::VME),
    (1, Feature::VME),
    (2, Feature::TSC),
    (3, Feature::DE),
    (4, Feature::PSE),
    (5, Feature::PAE),
    (6, Feature::MCE),
    (7, Feature::PGE),
    (9, Feature::FXSR),
    (10, Feature::XMM),
    (11, Feature::UMIP),
    (12, Feature::LA57),
    (13, Feature::VMX),
    (14, Feature::SMX),
    (16, Feature::FSGSBASE),
    (17, Feature::PCID),
    (18, Feature::XSAVE),
    (20, Feature::SMEP),
    (21, Feature::SMAP),
    (22, Feature::PKU),
    (23, Feature::SHSTK),
    (23, Feature::IBT),
    (28, Feature::LAM),
];
const CR4_PCE: u64 = 1 << 8;

/// `nested_vmx_cr_fixed1_bits_update`.
fn guest_cr4(cpuid: &[KvmCpuidEntry2]) -> u64 {
    let there = CR4_BY_FEATURE.iter().filter(|(_, f)| is_in(cpuid, *f));
    there.fold(CR4_PCE, |cr4, (bit, _)| cr4 | 1 << bit)
}

/// IA32_VMX_CR4_FIXED1 of the processor, by its own CPUID; protection keys of the supervisor and user
/// interrupts, which KVM has not, included.
fn processor_cr4(platform: &Platform) -> u64 {
    let raw = |function, index| {
        let [eax, ebx, ecx, edx] = platform.cpuid(function, index);
        KvmCpuidEntry2 {
            function,
            index,
            eax,
            ebx,
            ecx,
            edx,
            ..KvmCpuidEntry2::default()
        }
    };
    let cpuid = [raw(1, 0), raw(7, 0), raw(7, 1)];
    let own = [(24, Feature::PKS), (25, Feature::UINTR)];
    let own = own.iter().filter(|(_, f)| is_in(&cpuid, *f));
    own.fold(guest_cr4(&cpuid), |cr4, (bit, _)| cr4 | 1 << bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kvm_supports_is_what_a_4th_generation_xeon_shows_its_guests() {
        let msrs = VmxMsrs::supported(&Platform::sapphire_rapids(64 << 30, 8));
        let known = [
            (TRUE_PINBASED, 0x0000_00ff_0000_0016),
            (TRUE_PROCBASED, 0xfff9_fffe_0400_6172),
            (TRUE_EXIT, 0x107f_ffff_0003_6dfb),
            (TRUE_ENTRY, 0x0010_f3ff_0000_11fb),
            (MISC, 0x2000_0165),
            (CR0_FIXED1, 0xffff_ffff),
        ];
        for (msr, value) in known {
            assert_eq!(msrs.get(msr), Some(value), "{msr:#x}");
        }
    }
}
