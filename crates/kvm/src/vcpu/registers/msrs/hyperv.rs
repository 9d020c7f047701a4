//! Hyper-V's MSRs, as user space and a guest's hypervisor see them: no time passes, no message is sent.
//!
//! # Locking
//! Those of the partition are under `hv_lock` in the kernel, a mutex that nothing is nested in; here the
//! VM's [`Private`](seamlock_sync::Private). The others are under `vcpu->mutex`.
//!
//! Source: Linux v7.3.4 `arch/x86/kvm/hyperv.c`.

use std::collections::BTreeMap;

use super::{Cx, Kept, No};
use crate::vcpu::State;
use crate::vm::KVM_MAX_VCPUS;

const GUEST_OS_ID: u32 = 0x4000_0000;
pub(super) const HYPERCALL: u32 = 0x4000_0001;
const VP_INDEX: u32 = 0x4000_0002;
const RESET: u32 = 0x4000_0003;
const VP_RUNTIME: u32 = 0x4000_0010;
const TIME_REF_COUNT: u32 = 0x4000_0020;
const REFERENCE_TSC: u32 = 0x4000_0021;
const TSC_FREQUENCY: u32 = 0x4000_0022;
const APIC_FREQUENCY: u32 = 0x4000_0023;
const EOI: u32 = 0x4000_0070;
const ICR: u32 = 0x4000_0071;
const TPR: u32 = 0x4000_0072;
pub(super) const VP_ASSIST_PAGE: u32 = 0x4000_0073;
const SCONTROL: u32 = 0x4000_0080;
const SVERSION: u32 = 0x4000_0081;
const EOM: u32 = 0x4000_0084;
const SINT0: u32 = 0x4000_0090;
const SINT15: u32 = 0x4000_009f;
const STIMER0_CONFIG: u32 = 0x4000_00b0;
const STIMER3_COUNT: u32 = 0x4000_00b7;
const SYNDBG_CONTROL: u32 = 0x4000_00f1;
const SYNDBG_OPTIONS: u32 = 0x4000_00ff;
const CRASH_P0: u32 = 0x4000_0100;
const CRASH_CTL: u32 = 0x4000_0105;
const TSC_EMULATION_STATUS: u32 = 0x4000_0108;
const TSC_INVARIANT_CONTROL: u32 = 0x4000_0118;

pub(super) const ENABLE: u64 = 1;
const CRASH_NOTIFY: u64 = 1 << 63;
const SINT_MASKED: u64 = 1 << 16;
/// Enable bit, direct mode and number of the interrupt of a timer.
const TIMER_ENABLE: u64 = 1;
const TIMER_DIRECT: u64 = 1 << 12;
const TIMER_SINT: u64 = 0xf << 16;

/// `struct kvm_vcpu_hv`.
#[derive(Clone, Debug, Default)]
pub(crate) struct HypervVcpu {
    /// The synthetic interrupt controller was enabled.
    pub(crate) synic: bool,
    /// The number that user space chose; the vCPU's index before.
    vp_index: Option<u32>,
    msrs: BTreeMap<u32, u64>,
}

impl HypervVcpu {
    /// `kvm_hv_activate_synic`.
    pub(crate) fn activate_synic(&mut self) {
        self.synic = true;
        self.msrs.insert(SCONTROL, ENABLE);
    }
}

/// Whether it is one of them.
pub(super) fn is_one(msr: u32) -> bool {
    matches!(msr, GUEST_OS_ID..=SINT15 | STIMER0_CONFIG..=STIMER3_COUNT)
        || matches!(msr, SYNDBG_CONTROL..=0x4000_00f5 | SYNDBG_OPTIONS)
        || matches!(msr, CRASH_P0..=TSC_EMULATION_STATUS | TSC_INVARIANT_CONTROL)
}

/// `kvm_hv_msr_partition_wide`.
fn is_partition_wide(msr: u32) -> bool {
    matches!(
        msr,
        GUEST_OS_ID | HYPERCALL | RESET | TIME_REF_COUNT | REFERENCE_TSC
    ) || msr >= SYNDBG_CONTROL
}

/// Those of a vCPU that nothing but their number is special about.
fn is_synic(msr: u32) -> bool {
    matches!(msr, SCONTROL..=EOM | SINT0..=SINT15)
}

pub(super) fn read(cx: &Cx, state: &State, msr: u32) -> Result<u64, No> {
    if is_partition_wide(msr) {
        let kept = cx.kvm.hyperv.with(|msrs| msrs.get(&msr).copied());
        return Ok(kept.unwrap_or(0));
    }
    let own = &state.hyperv;
    let kept = |after_reset| own.msrs.get(&msr).copied().unwrap_or(after_reset);
    Ok(match msr {
        VP_INDEX => own.vp_index.map_or(cx.index, u64::from),
        ICR | TPR if cx.lapic_in_kernel => kept(0),
        TSC_FREQUENCY => u64::from(state.tsc_khz) * 1000,
        APIC_FREQUENCY => 1_000_000_000 / cx.kvm.arch.with(|arch| arch.apic_bus_cycle_ns),
        EOM => 0,
        SVERSION => kept(1),
        SINT0..=SINT15 => kept(SINT_MASKED),
        VP_RUNTIME | VP_ASSIST_PAGE => kept(0),
        _ if is_synic(msr) || matches!(msr, STIMER0_CONFIG..=STIMER3_COUNT) => kept(0),
        _ => return Err(No::Refused),
    })
}

/// `reaches`: the page that the value names was there and has been written.
pub(super) fn write(cx: &Cx, state: &mut State, msr: u32, value: u64, reaches: bool) -> Kept {
    if is_partition_wide(msr) {
        return write_partition(cx, msr, value, reaches);
    }
    let own = &mut state.hyperv;
    match msr {
        VP_INDEX if value as u32 >= KVM_MAX_VCPUS => return Err(No::Refused),
        VP_INDEX => {
            own.vp_index = Some(value as u32);
            return Ok(None);
        }
        VP_ASSIST_PAGE if value & ENABLE != 0 && !reaches => return Err(No::Refused),
        // An interrupt that no vCPU gets, and the end of none.
        EOI if cx.lapic_in_kernel && value >> 32 == 0 => return Ok(None),
        TPR if cx.lapic_in_kernel && value >> 32 == 0 => {}
        ICR if cx.lapic_in_kernel => {}
        // Read-only, which user space is not told.
        TSC_FREQUENCY | APIC_FREQUENCY => return Ok(None),
        VP_ASSIST_PAGE | VP_RUNTIME => {}
        STIMER0_CONFIG..=STIMER3_COUNT if !own.synic && value != 0 => return Err(No::Refused),
        STIMER0_CONFIG..=STIMER3_COUNT => {
            let before = own.msrs.get(&msr).copied().unwrap_or(0);
            own.msrs.insert(msr, timer(msr, before, value));
            return Ok(None);
        }
        _ if !is_synic(msr) || !own.synic && value != 0 => return Err(No::Refused),
        EOM => return Ok(None),
        _ => {}
    }
    own.msrs.insert(msr, value);
    Ok(None)
}

/// What a timer's register becomes: one that was on goes off where it would interrupt by SINT 0.
fn timer(msr: u32, before: u64, value: u64) -> u64 {
    let is_config = (msr - STIMER0_CONFIG).is_multiple_of(2);
    let direct_or_sint = value & (TIMER_DIRECT | TIMER_SINT) != 0;
    if is_config && before & TIMER_ENABLE != 0 && !direct_or_sint {
        value & !TIMER_ENABLE
    } else {
        value
    }
}

/// `kvm_hv_set_msr_pw`.
fn write_partition(cx: &Cx, msr: u32, value: u64, reaches: bool) -> Kept {
    cx.kvm.hyperv.with(|msrs| {
        let value = match msr {
            GUEST_OS_ID => {
                // Without a guest there is no hypercall page.
                if value == 0
                    && let Some(page) = msrs.get_mut(&HYPERCALL)
                {
                    *page &= !ENABLE;
                }
                value
            }
            HYPERCALL if !has_guest(msrs) => return Ok(None),
            HYPERCALL if value & ENABLE != 0 && !reaches => return Err(No::Refused),
            CRASH_CTL => value & CRASH_NOTIFY,
            RESET | TIME_REF_COUNT => return Ok(None),
            TSC_INVARIANT_CONTROL if value & !ENABLE != 0 => return Err(No::Refused),
            _ => value,
        };
        msrs.insert(msr, value);
        Ok(None)
    })
}

/// Whether the guest has told what it is.
pub(super) fn has_guest(msrs: &BTreeMap<u32, u64>) -> bool {
    msrs.get(&GUEST_OS_ID).is_some_and(|id| *id != 0)
}
