//! MSRs of a vCPU that is no TD's, as user space reads and writes them.
//!
//! Source: Linux v7.3.4 `arch/x86/kvm/msrs.c` (`msrs_to_save_base`, `emulated_msrs_all`,
//! `kvm_set_msr_common`), `vmx_set_msr`.

use super::sregs::EFER_SUPPORTED;
use super::{Caps, Feature, Registers};

const FEAT_CTL: u32 = 0x3a;
const MTRR_CAP: u32 = 0xfe;
const MCG_EXT_CTL: u32 = 0x4d0;
const PLATFORM_INFO: u32 = 0xce;
const ARCH_CAPABILITIES: u32 = 0x10a;
const MISC_FEATURES_ENABLES: u32 = 0x140;
const MC0_CTL: u32 = 0x400;
const MC_LAST: u32 = 0x47f;
const PAT: u32 = 0x277;
const PERF_CAPABILITIES: u32 = 0x345;
const POLL_CONTROL: u32 = 0x4b56_4d05;
const STEAL_TIME: u32 = 0x4b56_4d03;
const EFER: u32 = 0xc000_0080;
const HWCR: u32 = 0xc001_0015;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const XSS: u32 = 0xda0;
/// LOCKED, VMX in and out of SMX, SGX and its launch control, LMCE.
const FEAT_CTL_KNOWN: u64 = 0x16_0007;
const CPUID_FAULT: u64 = 1;
/// `KVM_STEAL_RESERVED_MASK`.
const STEAL_RESERVED: u64 = 0x3e;
/// Bits of AMD's HWCR that do nothing, and McStatusWrEn and TscFreqSel.
const HWCR_IGNORED: u64 = 1 << 3 | 1 << 6 | 1 << 8;
const HWCR_KEPT: u64 = 1 << 18 | 1 << 24;
const PLATFORM_CPUID_FAULT: u64 = 1 << 31;

/// What KVM_GET_MSR_INDEX_LIST lists, on a processor without MPX, processor trace, AMX and SVM for its
/// guests. Hyper-V's and those of VMX's capabilities are not here.
pub(crate) const SAVED: &[u32] = &[
    0x10,
    0x11,
    0x12,
    0x1b,
    0x34,
    FEAT_CTL,
    0x3b,
    0x48,
    0x8b,
    0x9e,
    0xc1,
    0xc2,
    0xc3,
    0xc4,
    0xc5,
    0xc6,
    0xc7,
    0xc8,
    PLATFORM_INFO,
    0xe1,
    ARCH_CAPABILITIES,
    MISC_FEATURES_ENABLES,
    0x174,
    0x175,
    0x176,
    0x17a,
    0x17b,
    0x186,
    0x187,
    0x188,
    0x189,
    0x18a,
    0x18b,
    0x18c,
    0x18d,
    0x1a0,
    0x1d9,
    0x1db,
    0x1dc,
    0x1dd,
    0x1de,
    0x1fc,
    PAT,
    0x309,
    0x30a,
    0x30b,
    PERF_CAPABILITIES,
    0x38d,
    0x38e,
    0x38f,
    MCG_EXT_CTL,
    0x6a0,
    0x6a2,
    0x6a4,
    0x6a5,
    0x6a6,
    0x6a7,
    0x6a8,
    0x6e0,
    XSS,
    0x4b56_4d00,
    0x4b56_4d01,
    0x4b56_4d02,
    STEAL_TIME,
    0x4b56_4d04,
    POLL_CONTROL,
    0x4b56_4d06,
    0x4b56_4d07,
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084,
    0xc000_0102,
    0xc000_0103,
    HWCR,
];

/// Others that can be read and written: EFER and the segments' bases, MTRRs, machine-check banks.
fn is_there(msr: u32) -> bool {
    SAVED.contains(&msr)
        || matches!(msr, EFER | FS_BASE | GS_BASE | MTRR_CAP)
        || matches!(msr, 0x200..=0x20f | 0x250 | 0x258 | 0x259 | 0x268..=0x26f | 0x2ff)
        || matches!(msr, 0x280..=0x29f | MC0_CTL..=MC_LAST)
}

/// MSRs that hold a linear address.
fn holds_address(msr: u32) -> bool {
    let known = [
        0x175,
        0x176,
        0xc000_0082,
        0xc000_0083,
        FS_BASE,
        GS_BASE,
        0xc000_0102,
    ];
    known.contains(&msr)
}

/// 57 bits, which every processor with 5-level paging lets user space write.
fn is_canonical(address: u64) -> bool {
    matches!(address >> 56, 0 | 0xff) && (address >> 56 & 1 == 1) == (address >> 63 == 1)
}

/// `kvm_pat_valid`: eight memory types, each of 0, 1, 4, 5, 6 and 7.
fn is_valid_pat(value: u64) -> bool {
    let valid = |byte: u8| matches!(byte, 0 | 1 | 4..=7);
    value.to_le_bytes().into_iter().all(valid)
}

impl Registers {
    /// What an MSR reads as where user space has not written it; None where it can't be read. Those that
    /// the vCPU keeps elsewhere are not asked of here.
    pub(crate) fn msr_after_reset(&self, msr: u32, arch_capabilities: u64) -> Option<u64> {
        Some(match msr {
            _ if !is_there(msr) => return None,
            EFER => self.sregs.efer,
            FS_BASE => self.sregs.fs.base,
            GS_BASE => self.sregs.gs.base,
            0x8b => 0x1_0000_0000,
            0x9e => 0x3_0000,
            PLATFORM_INFO => PLATFORM_CPUID_FAULT,
            MTRR_CAP => 0x508,
            ARCH_CAPABILITIES => arch_capabilities,
            0x1a0 => 0x1800,
            PAT => 0x0007_0406_0007_0406,
            POLL_CONTROL => 1,
            _ => 0,
        })
    }

    /// What is kept of a value that user space writes, in the registers for those that are there; None
    /// where it may not. `platform_info` is what that MSR reads as.
    pub(crate) fn take_msr(
        &mut self,
        caps: &Caps,
        msr: u32,
        value: u64,
        platform_info: u64,
    ) -> Option<u64> {
        let allowed = match msr {
            _ if !is_there(msr) => false,
            // User space may write 0 to what KVM lists, also where the guest's CPUID lacks it.
            ARCH_CAPABILITIES | PERF_CAPABILITIES | XSS if value == 0 => true,
            _ if holds_address(msr) => is_canonical(value),
            EFER => value & !EFER_SUPPORTED == 0,
            FEAT_CTL => value & !FEAT_CTL_KNOWN == 0,
            MTRR_CAP => false,
            ARCH_CAPABILITIES => caps.has(Feature::ARCH_CAPABILITIES),
            PERF_CAPABILITIES => false,
            MISC_FEATURES_ENABLES => {
                value & !CPUID_FAULT == 0
                    && (value == 0 || platform_info & PLATFORM_CPUID_FAULT != 0)
            }
            PAT => is_valid_pat(value),
            POLL_CONTROL | MCG_EXT_CTL => value <= 1,
            STEAL_TIME => value & STEAL_RESERVED == 0,
            HWCR => value & !(HWCR_IGNORED | HWCR_KEPT) == 0,
            XSS => caps.has(Feature::XSAVES) && value & !caps.xss() == 0,
            // IA32_MCi_CTL is all zeros or all ones, but for a bit that old Linux clears.
            MC0_CTL..=MC_LAST if msr.is_multiple_of(4) => {
                value == 0 || value | 1 << 10 | 1 == u64::MAX
            }
            _ => true,
        };
        if !allowed {
            return None;
        }
        match msr {
            HWCR => return Some(value & HWCR_KEPT),
            // LMA follows from the mode.
            EFER => self.sregs.efer = value & !(1 << 10) | self.sregs.efer & (1 << 10),
            FS_BASE => self.sregs.fs.base = value,
            GS_BASE => self.sregs.gs.base = value,
            _ => {}
        }
        Some(value)
    }
}
