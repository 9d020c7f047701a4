//! Model-specific registers that the module looks at or virtualises.

use seamlock_tdx_abi::td_params::TdParams;

use crate::platform::Platform;

/// IA32_TSC_ADJUST.
pub(crate) const TSC_ADJUST: u32 = 0x3b;

/// TD_PARAMS.MSR_CONFIG_CTLS: IA32_ARCH_CAPABILITIES is configured.
pub(crate) const ARCH_CAPABILITIES_CONFIG: u8 = 1;

/// Bits of IA32_ARCH_CAPABILITIES.
mod arch_capabilities {
    /// A TD has the bit when the processor has it and the host configures it: SSB_NO, BHI_NO,
    /// PBRSB_NO.
    pub(super) const ALLOW: u64 = 1 << 4 | 1 << 20 | 1 << 24;
    /// A TD has the bit when the processor has it or the host configures it: RRSBA.
    pub(super) const FORCE: u64 = 1 << 19;
    /// Only with transactional memory: TSX_CTRL.
    pub(super) const TSX_CTRL: u64 = 1 << 7;
    /// Every TD has it: XAPIC_DISABLE_STATUS.
    pub(super) const FIXED1: u64 = 1 << 21;
    /// No TD has these: MCU_CTLS, MISC_PACKAGE_CTLS, ENERGY_FILTERING_CTL, bit 16, FB_CLEAR,
    /// FB_CLEAR_CTRL, bit 22, OVERCLOCKING_STATUS, bits 63:25.
    pub(super) const FIXED0: u64 = 7 << 9 | 7 << 16 | 3 << 22 | !0 << 25;
}

/// Bits that TD_PARAMS.IA32_ARCH_CAPABILITIES_CONFIG may set.
pub(crate) const ARCH_CAPABILITIES_CONFIG_MASK: u64 =
    arch_capabilities::ALLOW | arch_capabilities::FORCE;

/// IA32_ARCH_CAPABILITIES as the TD sees it; None when the host asks for what it may not.
pub(crate) fn virtual_arch_capabilities(
    platform: &Platform,
    params: &TdParams,
    tsx: bool,
) -> Option<u64> {
    use arch_capabilities::{ALLOW, FIXED0, FIXED1, FORCE, TSX_CTRL};
    let asked = params.ia32_arch_capabilities_config;
    let configured = params.msr_config_ctls & ARCH_CAPABILITIES_CONFIG != 0;
    if asked & !ARCH_CAPABILITIES_CONFIG_MASK != 0 || (asked != 0 && !configured) {
        return None;
    }
    let native = platform.ia32_arch_capabilities;
    let without_tsx = if tsx { 0 } else { TSX_CTRL };
    Some(native & !(FIXED0 | without_tsx) & (asked | !ALLOW) | asked & FORCE | FIXED1)
}
