//! MSRs that KVM emulates for every guest, a TD included.
//!
//! Source: Linux v7.3.4 `kvm_get_msr_common` and `kvm_set_msr_common` (`arch/x86/kvm/msrs.c`),
//! `arch/x86/kvm/mtrr.c`.

use seamlock_tdx_abi::kvm::KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT;

use super::{Cx, Kept, No, kept, pv};
use crate::ioctl::ARCH_CAPABILITIES as HOST_ARCH_CAPABILITIES;
use crate::vcpu::State;
use crate::vcpu::registers::caps::Feature;

const UCODE_REV: u32 = 0x8b;
const PLATFORM_INFO: u32 = 0xce;
const MTRR_CAP: u32 = 0xfe;
const ARCH_CAPABILITIES: u32 = 0x10a;
const MISC_FEATURES_ENABLES: u32 = 0x140;
const MCG_CAP: u32 = 0x179;
const MCG_STATUS: u32 = 0x17a;
const MCG_CTL: u32 = 0x17b;
const MISC_ENABLE: u32 = 0x1a0;
const POWER_CTL: u32 = 0x1fc;
const MTRR_FIRST: u32 = 0x200;
const MTRR_FIXED_LAST: u32 = 0x26f;
const PAT: u32 = 0x277;
const MC0_CTL2: u32 = 0x280;
const MTRR_DEF_TYPE: u32 = 0x2ff;
const MC0_CTL: u32 = 0x400;
const MC_LAST: u32 = 0x47f;

pub(super) const CPUID_FAULT: u64 = 1;
pub(super) const PLATFORM_CPUID_FAULT: u64 = 1 << 31;
/// No PEBS, no BTS.
const MISC_ENABLE_RESET: u64 = 0x1800;
const MISC_ENABLE_MWAIT: u64 = 1 << 18;
const MISC_ENABLE_EMON: u64 = 1 << 7;
/// The microcode revision that KVM starts Intel's processors with.
const UCODE_RESET: u64 = 0x1_0000_0000;
const PAT_RESET: u64 = 0x0007_0406_0007_0406;
const MCG_CTL_P: u64 = 1 << 8;
const MCG_CMCI_P: u64 = 1 << 10;
/// CMCI_EN and the threshold.
const CTL2_BITS: u64 = 1 << 30 | 0x7fff;

/// How many machine-check banks there are.
fn banks(state: &State) -> u32 {
    state.mcg_cap as u32 & 0xff
}

/// The machine-check bank of an MSR, and its registers' first number.
fn bank(msr: u32) -> Option<u32> {
    match msr {
        MC0_CTL..=MC_LAST => Some((msr - MC0_CTL) / 4),
        MC0_CTL2..=0x29f => Some(msr - MC0_CTL2),
        _ => None,
    }
}

/// Memory-type range registers that are there: eight variable ones, the fixed ones, the default.
fn is_mtrr(msr: u32) -> bool {
    matches!(msr, MTRR_FIRST..=0x20f | 0x250 | 0x258 | 0x259 | 0x268..=MTRR_FIXED_LAST)
        || msr == MTRR_DEF_TYPE
}

pub(super) fn read(cx: &Cx, state: &State, msr: u32) -> Result<u64, No> {
    let stuffed = |value| kept(state, msr, cx.stuffed(state, value));
    Ok(match msr {
        UCODE_REV => stuffed(UCODE_RESET),
        PLATFORM_INFO => stuffed(PLATFORM_CPUID_FAULT),
        ARCH_CAPABILITIES if !cx.caps.has(Feature::ARCH_CAPABILITIES) => {
            return Err(No::Unsupported);
        }
        ARCH_CAPABILITIES => stuffed(HOST_ARCH_CAPABILITIES),
        // Write combining, fixed ranges, eight variable ones.
        MTRR_CAP => 0x508,
        MTRR_FIRST..=MTRR_FIXED_LAST if !is_mtrr(msr) => return Err(No::Refused),
        MCG_CAP => state.mcg_cap,
        MCG_CTL if !cx.host && state.mcg_cap & MCG_CTL_P == 0 => return Err(No::Refused),
        MC0_CTL2..=0x29f if !cx.host && state.mcg_cap & MCG_CMCI_P == 0 => {
            return Err(No::Refused);
        }
        _ if bank(msr).is_some_and(|bank| bank >= banks(state)) => return Err(No::Refused),
        MISC_ENABLE => kept(state, msr, MISC_ENABLE_RESET),
        PAT => kept(state, msr, PAT_RESET),
        pv::POLL_CONTROL => return pv::read(cx, state, msr),
        MCG_STATUS | MCG_CTL | POWER_CTL | MISC_FEATURES_ENABLES => kept(state, msr, 0),
        _ if is_mtrr(msr) || bank(msr).is_some() => kept(state, msr, 0),
        _ => return Err(No::Unsupported),
    })
}

pub(super) fn write(cx: &Cx, state: &mut State, msr: u32, value: u64, reaches: bool) -> Kept {
    let allowed = match msr {
        // The guest's own load of microcode does nothing.
        UCODE_REV if !cx.host => return Ok(None),
        ARCH_CAPABILITIES if !cx.host || !cx.caps.has(Feature::ARCH_CAPABILITIES) => {
            return Err(No::Unsupported);
        }
        MTRR_CAP | MCG_CAP => return Err(No::Unsupported),
        MTRR_FIRST..=MTRR_FIXED_LAST | MTRR_DEF_TYPE => is_valid_mtrr(cx, msr, value),
        PAT => is_valid_pat(value),
        MISC_ENABLE => return misc_enable(cx, state, value),
        PLATFORM_INFO => cx.host,
        MISC_FEATURES_ENABLES => {
            let faults = read(cx, state, PLATFORM_INFO)? & PLATFORM_CPUID_FAULT != 0;
            value & !CPUID_FAULT == 0 && (value == 0 || faults)
        }
        MCG_CTL => {
            let there = state.mcg_cap & MCG_CTL_P != 0 || value == 0 && cx.host;
            there && matches!(value, 0 | u64::MAX)
        }
        MC0_CTL2..=0x29f | MC0_CTL..=MC_LAST => may_hold(cx, state, msr, value),
        pv::POLL_CONTROL => return pv::write(cx, state, msr, value, reaches),
        UCODE_REV | ARCH_CAPABILITIES | MCG_STATUS | POWER_CTL => true,
        _ => return Err(No::Unsupported),
    };
    if allowed {
        Ok(Some(value))
    } else {
        Err(No::Refused)
    }
}

/// `set_msr_mce`: a register of a bank.
fn may_hold(cx: &Cx, state: &State, msr: u32, value: u64) -> bool {
    if bank(msr).is_none_or(|bank| bank >= banks(state)) {
        return false;
    }
    match (msr, msr & 3) {
        (MC0_CTL2..=0x29f, _) => {
            let there = state.mcg_cap & MCG_CMCI_P != 0 || value == 0 && cx.host;
            there && value & !CTL2_BITS == 0
        }
        // IA32_MCi_CTL is all zeros or all ones, but for a bit each that old systems clear.
        (_, 0) => value == 0 || value | 1 << 10 | 1 == u64::MAX,
        (_, 1) => cx.host || value == 0,
        _ => true,
    }
}

fn misc_enable(cx: &Cx, state: &State, mut value: u64) -> Kept {
    let old = kept(state, MISC_ENABLE, MISC_ENABLE_RESET);
    if !cx.host {
        if (old ^ value) & MISC_ENABLE_RESET != 0 {
            return Err(No::Refused);
        }
        value = value & !MISC_ENABLE_EMON | old & MISC_ENABLE_EMON;
    }
    let strict = cx
        .kvm
        .has_quirk_disabled(KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT);
    let changes_mwait = (old ^ value) & MISC_ENABLE_MWAIT != 0;
    if strict && changes_mwait && !cx.caps.has(Feature::XMM3) {
        return Err(No::Refused);
    }
    Ok(Some(value))
}

/// `kvm_pat_valid`: eight memory types, each of 0, 1, 4, 5, 6 and 7.
fn is_valid_pat(value: u64) -> bool {
    let valid = |byte: u8| matches!(byte, 0 | 1 | 4..=7);
    value.to_le_bytes().into_iter().all(valid)
}

/// `kvm_mtrr_valid`.
fn is_valid_mtrr(cx: &Cx, msr: u32, value: u64) -> bool {
    let valid = |byte: u8| matches!(byte, 0 | 1 | 4..=6);
    let beyond = u64::MAX.checked_shl(cx.width).unwrap_or(0);
    match msr {
        _ if !is_mtrr(msr) => false,
        MTRR_DEF_TYPE => value & !0xcff == 0 && valid(value as u8),
        0x250..=MTRR_FIXED_LAST => value.to_le_bytes().into_iter().all(valid),
        _ if msr.is_multiple_of(2) => valid(value as u8) && value & (beyond | 0xf00) == 0,
        _ => value & (beyond | 0x7ff) == 0,
    }
}
