//! Which MSRs KVM tells user space about.
//!
//! Source: Linux v7.3.4 `arch/x86/kvm/msrs.c` (`msrs_to_save_base`, `msrs_to_save_pmu`,
//! `emulated_msrs_all`, `kvm_probe_msr_to_save`, `kvm_init_msr_lists`).

use seamlock_tdx_module::Platform;

use super::vmx;
use crate::ioctl::{ARCH_CAPABILITIES as HOST_ARCH_CAPABILITIES, supported};
use crate::vcpu::registers::caps::{Feature, is_in};

/// MSRs that Intel's processors have, in KVM's order; some are there only with a feature.
const TO_SAVE: &[u32] = &[
    0x174,
    0x175,
    0x176,
    0xc000_0081,
    0xc000_0083,
    0xc000_0102,
    0xc000_0084,
    0xc000_0082,
    0x10,
    0x277,
    0x3a,
    0xc000_0103,
    0x48,
    0x122,
    0xe1,
    0x1c4,
    0x1c5,
    0xda0,
    0x6a0,
    0x6a2,
    0x6a4,
    0x6a5,
    0x6a6,
    0x6a7,
    0x6a8,
    0x1d9,
    0x1db,
    0x1dc,
    0x1dd,
    0x1de,
    0x309,
    0x30a,
    0x30b,
    0x38d,
    0x38e,
    0x38f,
    0x3f1,
    0x600,
    0x3f2,
    0xc1,
    0xc2,
    0xc3,
    0xc4,
    0xc5,
    0xc6,
    0xc7,
    0xc8,
    0x186,
    0x187,
    0x188,
    0x189,
    0x18a,
    0x18b,
    0x18c,
    0x18d,
];

/// MSRs that KVM has whatever the processor has: its own, Hyper-V's, and the rest.
const EMULATED: &[u32] = &[
    0x12,
    0x11,
    0x4b56_4d01,
    0x4b56_4d00,
    0x4000_0000,
    0x4000_0001,
    0x4000_0020,
    0x4000_0021,
    0x4000_0022,
    0x4000_0023,
    0x4000_0100,
    0x4000_0101,
    0x4000_0102,
    0x4000_0103,
    0x4000_0104,
    0x4000_0105,
    0x4000_0003,
    0x4000_0002,
    0x4000_0010,
    0x4000_0080,
    0x4000_00b0,
    0x4000_0073,
    0x4000_0106,
    0x4000_0107,
    0x4000_0108,
    0x4000_0118,
    0x4000_00ff,
    0x4000_00f1,
    0x4000_00f2,
    0x4000_00f3,
    0x4000_00f4,
    0x4000_00f5,
    0x4b56_4d02,
    0x4b56_4d03,
    0x4b56_4d04,
    0x4b56_4d06,
    0x4b56_4d07,
    0x3b,
    0x6e0,
    0x10a,
    0x345,
    0x1a0,
    0x17a,
    0x17b,
    0x4d0,
    0x9e,
    0x34,
    0xce,
    0x140,
    0x1fc,
    0x8b,
    0x480,
    0x48d,
    0x48e,
    0x48f,
    0x490,
    0x485,
    0x486,
    0x488,
    0x48a,
    0x48b,
    0x48c,
    0x491,
    0xc001_0015,
    0x4b56_4d05,
];

/// `msr_based_features_all_except_vmx` of Intel.
const FEATURES: &[u32] = &[0x8b, 0x10a, 0x345, 0xce];

/// `kvm_probe_msr_to_save`: whether KVM saves an MSR of the processor on this machine.
fn is_saved(platform: &Platform, msr: u32) -> bool {
    const TSX_CTRL_IS_THERE: u64 = 1 << 7;
    let kvm = supported(platform);
    let has = |feature| is_in(&kvm, feature);
    let [eax, _, _, edx] = platform.cpuid(0xa, 0);
    match msr {
        0xc000_0103 => has(Feature::RDTSCP) || has(Feature::RDPID),
        0xe1 => has(Feature::WAITPKG),
        0x1c4 | 0x1c5 => has(Feature::XFD),
        0x122 => HOST_ARCH_CAPABILITIES & TSX_CTRL_IS_THERE != 0,
        0xda0 => platform.xss_supported != 0,
        0x6a0 | 0x6a2 => has(Feature::SHSTK) || has(Feature::IBT),
        0x6a4..=0x6a7 => has(Feature::SHSTK),
        0x6a8 => has(Feature::SHSTK) && has(Feature::LM),
        0xc1..=0xc8 => msr - 0xc1 < eax >> 8 & 0xff,
        0x186..=0x18d => msr - 0x186 < eax >> 8 & 0xff,
        0x309..=0x30b => msr - 0x309 < edx & 0x1f,
        _ => true,
    }
}

/// What KVM_GET_MSR_INDEX_LIST lists.
pub(crate) fn saved(platform: &Platform) -> Vec<u32> {
    let to_save = TO_SAVE.iter().filter(|msr| is_saved(platform, **msr));
    to_save.chain(EMULATED).copied().collect()
}

/// What KVM_GET_MSR_FEATURE_INDEX_LIST lists.
pub(crate) fn features() -> Vec<u32> {
    vmx::MSRS.chain(FEATURES.iter().copied()).collect()
}

/// `kvm_is_immutable_feature_msr`: what may not change once the vCPU has run.
pub(super) fn is_immutable(msr: u32) -> bool {
    msr != 0x8b && (vmx::MSRS.contains(&msr) || FEATURES.contains(&msr))
}

/// `kvm_is_advertised_msr`: user space may read it, and write zero, though the vCPU lacks it.
pub(super) fn is_advertised(platform: &Platform, msr: u32) -> bool {
    EMULATED.contains(&msr) || TO_SAVE.contains(&msr) && is_saved(platform, msr)
}
