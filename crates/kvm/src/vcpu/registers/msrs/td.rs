//! MSRs that KVM emulates for a TD. All others are the module's, or do not exist.
//!
//! Source: Linux v7.3.4 `arch/x86/kvm/vmx/tdx.c` (`tdx_has_emulated_msr`, `tdx_get_msr`,
//! `tdx_set_msr`).

use super::{APICBASE, Cx, EFER, Kept, No, common, kept};
use crate::vcpu::State;

const FEAT_CTL: u32 = 0x3a;
const MCG_EXT_CTL: u32 = 0x4d0;
const X2APIC_ID: u32 = 0x802;
const X2APIC_LVR: u32 = 0x803;
const X2APIC_LDR: u32 = 0x80d;
const X2APIC_SPIV: u32 = 0x80f;
const X2APIC_LVTCMCI: u32 = 0x82f;
const X2APIC_LVTT: u32 = 0x832;
const X2APIC_LVTERR: u32 = 0x837;
const X2APIC_TMCCT: u32 = 0x839;
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
    (0x179, 0x17b),
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
    (0x4b56_4d05, 0x4b56_4d05),
];

fn is_emulated(msr: u32) -> bool {
    EMULATED
        .iter()
        .any(|(first, last)| (*first..=*last).contains(&msr))
}

fn is_x2apic(state: &State) -> bool {
    const X2APIC: u64 = 3 << 10;
    state.apic_base & X2APIC == X2APIC
}

fn has_lmce(state: &State) -> bool {
    state.mcg_cap & MCG_LMCE_P != 0
}

pub(super) fn read(cx: &Cx, state: &State, id: u32, msr: u32) -> Result<u64, No> {
    match msr {
        FEAT_CTL if has_lmce(state) => Ok(FEAT_CTL_LOCKED | FEAT_CTL_LMCE),
        FEAT_CTL => Ok(FEAT_CTL_LOCKED),
        MCG_EXT_CTL if !cx.host && !has_lmce(state) => Err(No::Refused),
        MCG_EXT_CTL => Ok(kept(state, msr, 0)),
        _ if !is_emulated(msr) => Err(No::Refused),
        APICBASE => Ok(state.apic_base),
        EFER => Ok(TD_EFER),
        0x800..=0x8ff if !is_x2apic(state) => Err(No::Refused),
        X2APIC_ID => Ok(u64::from(id)),
        X2APIC_SPIV => Ok(kept(state, msr, 0xff)),
        // Masked, but for the BSP's LINT0 (events.rs).
        X2APIC_LVTCMCI | X2APIC_LVTT..=X2APIC_LVTERR => Ok(kept(state, msr, 1 << 16)),
        0x800..=0x8ff | 0x6e0 => Ok(kept(state, msr, 0)),
        _ => common::read(cx, state, msr),
    }
}

pub(super) fn write(cx: &Cx, state: &mut State, msr: u32, value: u64, reaches: bool) -> Kept {
    match msr {
        MCG_EXT_CTL if !cx.host && !has_lmce(state) || value > 1 => Err(No::Refused),
        MCG_EXT_CTL => Ok(Some(value)),
        APICBASE | EFER | FEAT_CTL => Err(No::Refused),
        _ if !is_emulated(msr) => Err(No::Refused),
        0x800..=0x8ff if !is_x2apic(state) => Err(No::Refused),
        X2APIC_ID | X2APIC_LVR | X2APIC_LDR | X2APIC_TMCCT => Err(No::Refused),
        0x800..=0x8ff | 0x6e0 => Ok(Some(value)),
        _ => common::write(cx, state, msr, value, reaches),
    }
}
