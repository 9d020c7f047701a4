//! MSRs of a vCPU that is no TD's, but for those that are registers.
//!
//! Source: Linux v7.3.4 `__kvm_set_msr`, `kvm_set_msr_common` (`arch/x86/kvm/msrs.c`), `vmx_set_msr`
//! (`arch/x86/kvm/vmx/vmx.c`), `arch/x86/kvm/lapic.c`.

use super::{Cx, Kept, No, TSX_CTRL, canonical, common, hyperv, is_canonical, kept, pmu, pv};
use crate::vcpu::State;
use crate::vcpu::registers::Registers;
use crate::vcpu::registers::caps::{Feature, is_in};

const TSC: u32 = 0x10;
const SMI_COUNT: u32 = 0x34;
const FEAT_CTL: u32 = 0x3a;
const TSC_ADJUST: u32 = 0x3b;
const SPEC_CTRL: u32 = 0x48;
const SMBASE: u32 = 0x9e;
const UMWAIT_CONTROL: u32 = 0xe1;
const SYSENTER_CS: u32 = 0x174;
const SYSENTER_ESP: u32 = 0x175;
const SYSENTER_EIP: u32 = 0x176;
const XFD: u32 = 0x1c4;
const XFD_ERR: u32 = 0x1c5;
const DEBUGCTL: u32 = 0x1d9;
const MCG_EXT_CTL: u32 = 0x4d0;
const U_CET: u32 = 0x6a0;
const S_CET: u32 = 0x6a2;
const PL0_SSP: u32 = 0x6a4;
const INT_SSP_TAB: u32 = 0x6a8;
const TSC_DEADLINE: u32 = 0x6e0;
const XSS: u32 = 0xda0;
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const CSTAR: u32 = 0xc000_0083;
const SYSCALL_MASK: u32 = 0xc000_0084;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
const TSC_AUX: u32 = 0xc000_0103;
const HWCR: u32 = 0xc001_0015;

const SMBASE_RESET: u64 = 0x3_0000;
/// LOCKED, VMX in and out of SMX, SGX and its launch control, LMCE.
const FEAT_CTL_KNOWN: u64 = 0x16_0007;
/// Bits of AMD's HWCR that do nothing, and McStatusWrEn and TscFreqSel.
const HWCR_IGNORED: u64 = 1 << 3 | 1 << 6 | 1 << 8;
const HWCR_KEPT: u64 = 1 << 18 | 1 << 24;
/// BTF and LBR, which are dropped, bus locks and RTM.
const DEBUGCTL_DROPPED: u64 = 3;
const DEBUGCTL_BUS_LOCK: u64 = 1 << 2;
const DEBUGCTL_RTM: u64 = 1 << 15;
/// Reserved bits, those of shadow stacks, and those of branch tracking.
const CET_RESERVED: u64 = 0xf << 6;
const CET_SHSTK: u64 = 3;
const CET_IBT: u64 = !(CET_SHSTK | CET_RESERVED);
/// The legacy bitmap's address is a multiple of four pages.
const CET_BITMAP_RESERVED: u64 = 3 << 12;
const CET_SUPPRESS: u64 = 1 << 10;
const CET_WAIT_ENDBR: u64 = 1 << 11;

/// MSRs that read as zero and that writes to are ignored of, or refused: what old guests look for.
const ZERO: &[u32] = &[
    0x17,
    0x2a,
    0x1db,
    0x1dc,
    0x1dd,
    0x1de,
    0x199,
    0x606,
    0x611,
    0x619,
    0x639,
    0x641,
    0xc001_0010,
    0xc001_001f,
    0xc001_0055,
    0xc001_0058,
    0xc001_0112,
    0xc001_0113,
    0xc001_0117,
    0xc001_1022,
    0xc001_1023,
    0xc001_102a,
    0xc001_102c,
];
/// MSRs that user space may write whatever it likes to, and nothing is kept.
const IGNORED: &[u32] = &[
    0x79,
    0x11e,
    0xc001_001b,
    0xc001_001f,
    0xc001_0020,
    0xc001_0117,
    0xc001_1022,
    0xc001_1023,
    0xc001_102a,
    0xc001_102c,
];
/// MSRs that always read the same: bus frequencies, the frequency of now, caches, a clock of AMD's.
const CONSTANT: &[(u32, u64)] = &[
    (0x2c, 1 << 24),
    (0xcd, 3),
    (0x11e, 0xbe70_2111),
    (0x198, 1000 | 4 << 40),
    (0xc001_001b, 0x2000_0000),
];

/// Counters and event selects of processors before architectural monitoring: there in any case.
fn is_old_counter(msr: u32) -> bool {
    matches!(msr, 0xc1 | 0xc2 | 0x186 | 0x187 | 0xc001_0000..=0xc001_0007)
}

/// Whether the guest has what an MSR of control-flow enforcement is for.
fn cet(cx: &Cx, msr: u32) -> Result<(), No> {
    let shstk = cx.caps.has(Feature::SHSTK);
    let there = match msr {
        U_CET | S_CET => shstk || cx.caps.has(Feature::IBT),
        _ => shstk,
    };
    if there { Ok(()) } else { Err(No::Unsupported) }
}

pub(super) fn read(cx: &Cx, state: &State, msr: u32) -> Result<u64, No> {
    let constant = CONSTANT.iter().find(|(known, _)| *known == msr);
    Ok(match msr {
        U_CET | S_CET | PL0_SSP..=INT_SSP_TAB => cet(cx, msr).map(|()| kept(state, msr, 0))?,
        SMBASE => kept(state, msr, SMBASE_RESET),
        // What the guest may not use is off.
        TSX_CTRL => kept(state, msr, u64::from(!cx.caps.has(Feature::RTM))),
        pmu::PERF_CAPABILITIES if !cx.caps.has(Feature::PDCM) => return Err(No::Unsupported),
        pmu::PERF_CAPABILITIES => kept(state, msr, cx.stuffed(state, pmu::SUPPORTED_PERF_CAP)),
        // The local APIC's registers are there in x2APIC mode, which is kept and not lived in.
        0x800..=0x8ff => return Err(No::Refused),
        _ if is_plain(msr) => kept(state, msr, 0),
        _ if ZERO.contains(&msr) => 0,
        _ if let Some((_, value)) = constant => *value,
        _ if hyperv::is_one(msr) => hyperv::read(cx, state, msr)?,
        _ if pv::is_one(msr) => pv::read(cx, state, msr)?,
        _ => {
            let pmu = pmu::Pmu::of(cx, state);
            return match common::read(cx, state, msr) {
                Err(No::Unsupported) if pmu.has(msr) => Ok(pmu.read(state, msr)),
                Err(No::Unsupported) if is_old_counter(msr) => Ok(0),
                value => value,
            };
        }
    })
}

/// MSRs that are there with any CPUID, and zero after a reset.
fn is_plain(msr: u32) -> bool {
    matches!(msr, TSC | SMI_COUNT | FEAT_CTL | TSC_ADJUST | SPEC_CTRL)
        || matches!(
            msr,
            UMWAIT_CONTROL | SYSENTER_CS..=SYSENTER_EIP | XFD | XFD_ERR
        )
        || matches!(msr, DEBUGCTL | MCG_EXT_CTL | TSC_DEADLINE | XSS | HWCR)
        || matches!(msr, STAR..=SYSCALL_MASK | KERNEL_GS_BASE | TSC_AUX)
}

pub(super) fn write(
    cx: &Cx,
    state: &mut State,
    registers: &Registers,
    (msr, value): (u32, u64),
    reaches: bool,
) -> Kept {
    let platform = cx.caps.platform();
    let allowed = match msr {
        LSTAR | CSTAR | KERNEL_GS_BASE => is_canonical(value),
        SYSENTER_ESP | SYSENTER_EIP => return Ok(Some(canonical(value))),
        TSC_AUX => value >> 32 == 0,
        U_CET | S_CET => cet(cx, msr).map(|()| is_valid_cet(cx, value))?,
        PL0_SSP..=INT_SSP_TAB => {
            cet(cx, msr)?;
            let aligned = msr == INT_SSP_TAB || value.is_multiple_of(4);
            is_canonical(value) && aligned
        }
        FEAT_CTL => value & !FEAT_CTL_KNOWN == 0,
        MCG_EXT_CTL => value <= 1,
        SPEC_CTRL => value & !spec_ctrl(platform.cpuid(7, 2)[3]) == 0,
        TSX_CTRL => value & !3 == 0,
        UMWAIT_CONTROL => value & (2 | !0xffff_ffff) == 0,
        DEBUGCTL => return debugctl(cx, value),
        XFD | XFD_ERR => value & !(cx.caps.xcr0() & 1 << 18) == 0,
        XSS if !is_in(cx.caps.guest(), Feature::XSAVES) => return Err(No::Unsupported),
        XSS => value & !cx.caps.xss() == 0,
        TSC_ADJUST if !cx.caps.has(Feature::TSC_ADJUST) => return Ok(None),
        // Only a timer in that mode has a deadline.
        TSC_DEADLINE if !registers.lapic.has_tsc_deadline() => return Ok(None),
        HWCR if value & !(HWCR_IGNORED | HWCR_KEPT) == 0 => return Ok(Some(value & HWCR_KEPT)),
        HWCR => false,
        // AMD's place of the extended configuration space: there is none.
        0xc001_0058 => {
            return if value == 0 {
                Ok(None)
            } else {
                Err(No::Refused)
            };
        }
        pmu::PERF_CAPABILITIES if !cx.caps.has(Feature::PDCM) => return Err(No::Unsupported),
        pmu::PERF_CAPABILITIES => pmu::may_have(cx, value),
        0x800..=0x8ff => false,
        SMBASE => true,
        _ if IGNORED.contains(&msr) => return Ok(None),
        _ if is_plain(msr) => true,
        _ if hyperv::is_one(msr) => return hyperv::write(cx, state, msr, value, reaches),
        _ if pv::is_one(msr) => return pv::write(cx, state, msr, value, reaches),
        _ => {
            let pmu = pmu::Pmu::of(cx, state);
            return match common::write(cx, state, msr, value, reaches) {
                Err(No::Unsupported) if pmu.has(msr) => pmu.write(cx, state, msr, value),
                Err(No::Unsupported) if is_old_counter(msr) => Ok(None),
                kept => kept,
            };
        }
    };
    if allowed {
        Ok(Some(value))
    } else {
        Err(No::Refused)
    }
}

/// Bits that the processor takes, by CPUID 7.2 EDX: IBRS, STIBP, SSBD, and the controls there.
fn spec_ctrl(edx: u32) -> u64 {
    let with = [
        (0, 1 << 7),
        (1, 3 << 3),
        (2, 3 << 5),
        (3, 1 << 8),
        (4, 1 << 10),
    ];
    let there = with.iter().filter(|(bit, _)| edx >> bit & 1 == 1);
    there.fold(7, |all, (_, bits)| all | bits)
}

/// `vmx_is_valid_debugctl`, of a processor whose LBRs KVM does not share.
fn debugctl(cx: &Cx, value: u64) -> Kept {
    let host = |function, feature| {
        let [eax, ebx, ecx, edx] = cx.caps.platform().cpuid(function, 0);
        let leaf = seamlock_tdx_abi::kvm::KvmCpuidEntry2 {
            function,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        };
        is_in(&[leaf], feature)
    };
    let mut known = 0;
    if host(7, Feature::BUS_LOCK) {
        known |= DEBUGCTL_BUS_LOCK;
    }
    if host(7, Feature::RTM) {
        known |= DEBUGCTL_RTM;
    }
    match value & !(known | DEBUGCTL_DROPPED) {
        0 => Ok(Some(value & known)),
        _ => Err(No::Refused),
    }
}

/// `kvm_is_valid_u_s_cet`.
fn is_valid_cet(cx: &Cx, value: u64) -> bool {
    let shstk = cx.caps.has(Feature::SHSTK) || value & CET_SHSTK == 0;
    let ibt = cx.caps.has(Feature::IBT) || value & CET_IBT == 0;
    let waits = value & CET_SUPPRESS != 0 && value & CET_WAIT_ENDBR != 0;
    value & (CET_RESERVED | CET_BITMAP_RESERVED) == 0 && shstk && ibt && !waits
}
