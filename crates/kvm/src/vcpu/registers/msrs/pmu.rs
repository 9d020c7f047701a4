//! MSRs of the performance counters, which count nothing.
//!
//! Source: Linux v7.3.4 `arch/x86/kvm/pmu.c`, `arch/x86/kvm/vmx/pmu_intel.c`.

use super::{Cx, Kept, No, is_canonical, kept};
use crate::vcpu::State;
use crate::vcpu::registers::caps::Feature;

const PERFCTR0: u32 = 0xc1;
const EVNTSEL0: u32 = 0x186;
const FIXED_CTR0: u32 = 0x309;
const FIXED_CTR_CTRL: u32 = 0x38d;
const GLOBAL_STATUS: u32 = 0x38e;
const GLOBAL_CTRL: u32 = 0x38f;
const GLOBAL_OVF_CTRL: u32 = 0x390;
const PEBS_ENABLE: u32 = 0x3f1;
/// The first counter in its full width.
const PMC0: u32 = 0x4c1;
const DS_AREA: u32 = 0x600;
pub(super) const PERF_CAPABILITIES: u32 = 0x345;

const FW_WRITES: u64 = 1 << 13;
const PEBS_FORMAT: u64 = 0xf00;
const LBR_FORMAT: u64 = 0x3f;
/// `PERF_CAP_PEBS_MASK`: trap, architectural registers, format, baseline.
const PEBS_MASK: u64 = 0x4fc0;
/// `kvm_caps.supported_perf_cap` of a processor with architectural LBRs and PEBS format 4: KVM drops
/// adaptive PEBS.
pub(crate) const SUPPORTED_PERF_CAP: u64 = FW_WRITES | 4 << 8 | 3 << 6;
/// Bits of an event select that nobody may set, IN_TX not among them where the processor has TSX.
const RESERVED: u64 = 0xffff_ffff_0020_0000 & !(1 << 32);
const IN_TX_CHECKPOINTED: u64 = 1 << 33;
/// Kernel, user and interrupt of one fixed counter.
const FIXED_BITS: u64 = 0xb;
/// Buffer overflow, and a condition that changed.
const STATUS_BITS: u64 = 3 << 62;

/// `struct kvm_pmu`, as far as CPUID decides it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pmu {
    version: u32,
    counters: u32,
    fixed: u32,
    mask: u64,
    fixed_mask: u64,
    perf_cap: u64,
    has_ds: bool,
}

/// Which kind of register an MSR is.
enum Register {
    Counter(u32),
    Event(u32),
    Fixed,
}

impl Pmu {
    /// `intel_pmu_refresh`.
    pub(super) fn of(cx: &Cx, state: &State) -> Pmu {
        let has_pmu = cx.kvm.has_pmu();
        let perf_cap = match cx.caps.has(Feature::PDCM) {
            true => kept(
                state,
                PERF_CAPABILITIES,
                cx.stuffed(state, SUPPORTED_PERF_CAP),
            ),
            false => 0,
        };
        let has_ds = cx.caps.has(Feature::DS);
        let leaf = cx.caps.guest().iter().find(|e| e.function == 0xa);
        let version = leaf.map_or(0, |e| e.eax & 0xff);
        let Some(leaf) = leaf.filter(|_| has_pmu && version != 0) else {
            return Pmu {
                perf_cap,
                has_ds,
                ..Pmu::default()
            };
        };
        let [eax, _, _, edx] = cx.caps.platform().cpuid(0xa, 0);
        let fewer = |own: u32, host: u32, shift: u32, mask: u32| {
            (own >> shift & mask).min(host >> shift & mask)
        };
        let ones = |bits: u32| 1u64.checked_shl(bits).map_or(u64::MAX, |bit| bit - 1);
        let fixed = fewer(leaf.edx, edx, 0, 0x1f).min(3);
        Pmu {
            version,
            counters: fewer(leaf.eax, eax, 8, 0xff).min(8),
            fixed: if version > 1 { fixed } else { 0 },
            mask: ones(fewer(leaf.eax, eax, 16, 0xff)),
            fixed_mask: ones(fewer(leaf.edx, edx, 5, 0xff)),
            perf_cap,
            has_ds,
        }
    }

    fn register(&self, msr: u32) -> Option<Register> {
        let nth = |first: u32, count: u32| msr.checked_sub(first).filter(|n| *n < count);
        let full = if self.perf_cap & FW_WRITES != 0 {
            self.counters
        } else {
            0
        };
        let counter = nth(PERFCTR0, self.counters).or(nth(PMC0, full));
        if let Some(n) = counter {
            return Some(Register::Counter(n));
        }
        if let Some(n) = nth(EVNTSEL0, self.counters) {
            return Some(Register::Event(n));
        }
        nth(FIXED_CTR0, self.fixed).map(|_| Register::Fixed)
    }

    /// `kvm_pmu_is_valid_msr`.
    pub(super) fn has(&self, msr: u32) -> bool {
        match msr {
            FIXED_CTR_CTRL | GLOBAL_STATUS | GLOBAL_CTRL | GLOBAL_OVF_CTRL => self.version > 1,
            PEBS_ENABLE => self.perf_cap & PEBS_FORMAT != 0,
            DS_AREA => self.has_ds,
            _ => self.register(msr).is_some(),
        }
    }

    fn global_bits(&self) -> u64 {
        let fixed = (1 << self.fixed) - 1;
        ((1 << self.counters) - 1) | fixed << 32
    }

    /// What an MSR that is there reads as.
    pub(super) fn read(&self, state: &State, msr: u32) -> u64 {
        match (msr, self.register(msr)) {
            (GLOBAL_OVF_CTRL, _) => 0,
            // Every counter is enabled after a reset.
            (GLOBAL_CTRL, _) => kept(state, msr, (1 << self.counters) - 1),
            (_, Some(Register::Counter(n))) => kept(state, PERFCTR0 + n, 0) & self.mask,
            _ => kept(state, msr, 0),
        }
    }

    /// `kvm_pmu_set_msr` of an MSR that is there. One counter has two MSRs, and is kept by the first.
    pub(super) fn write(&self, cx: &Cx, state: &mut State, msr: u32, value: u64) -> Kept {
        let fixed_bits = (0..self.fixed).fold(0, |all, n| all | FIXED_BITS << (4 * n));
        let allowed = match msr {
            FIXED_CTR_CTRL => fixed_bits,
            GLOBAL_STATUS | GLOBAL_OVF_CTRL => self.global_bits() | STATUS_BITS,
            GLOBAL_CTRL => self.global_bits(),
            PEBS_ENABLE => (1 << self.counters) - 1,
            DS_AREA if !is_canonical(value) => return Err(No::Refused),
            _ => u64::MAX,
        };
        if value & !allowed != 0 {
            return Err(No::Refused);
        }
        match self.register(msr) {
            Some(Register::Counter(n)) => {
                if msr >= PMC0 && value & !self.mask != 0 {
                    return Err(No::Refused);
                }
                let value = match cx.host || msr >= PMC0 {
                    true => value,
                    false => i64::from(value as i32) as u64,
                };
                state.msrs.insert(PERFCTR0 + n, value & self.mask);
                Ok(None)
            }
            Some(Register::Event(n)) => {
                let checkpoint = if n == 2 { IN_TX_CHECKPOINTED } else { 0 };
                match value & RESERVED & !checkpoint {
                    0 => Ok(Some(value)),
                    _ => Err(No::Refused),
                }
            }
            Some(Register::Fixed) => Ok(Some(value & self.fixed_mask)),
            None if msr == GLOBAL_OVF_CTRL => Ok(None),
            None => Ok(Some(value)),
        }
    }
}

/// IA32_PERF_CAPABILITIES of a guest that has it.
pub(super) fn may_have(cx: &Cx, value: u64) -> bool {
    let pebs = value & PEBS_FORMAT == 0
        || value & PEBS_MASK == SUPPORTED_PERF_CAP & PEBS_MASK
            && cx.caps.has(Feature::DS)
            && cx.caps.has(Feature::DTES64);
    value & !SUPPORTED_PERF_CAP == 0 && value & LBR_FORMAT == 0 && pebs
}

/// `kvm_pmu_reset`, which a new CPUID brings: nothing that was counted or chosen is left.
pub(crate) fn reset(state: &mut State) {
    let is_reset = |msr: &u32| {
        matches!(msr, PERFCTR0..=0xc8 | EVNTSEL0..=0x18d | FIXED_CTR0..=0x30b)
            || matches!(*msr, FIXED_CTR_CTRL | GLOBAL_STATUS | GLOBAL_CTRL)
    };
    state.msrs.retain(|msr, _| !is_reset(msr));
}
