//! KVM's own MSRs.
//!
//! Source: Linux v7.3.4 `arch/x86/kvm/msrs.c`, `kvm_lapic_set_pv_eoi`, `kvm_update_pv_runtime`
//! (`arch/x86/kvm/cpuid.c`).

use seamlock_tdx_abi::kvm::KvmCpuidEntry2;

use super::{Cx, Kept, No, kept};
use crate::vcpu::State;

pub(super) const POLL_CONTROL: u32 = 0x4b56_4d05;
const WALL_CLOCK: u32 = 0x11;
const SYSTEM_TIME: u32 = 0x12;
const WALL_CLOCK_NEW: u32 = 0x4b56_4d00;
const SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
pub(super) const ASYNC_PF_EN: u32 = 0x4b56_4d02;
const STEAL_TIME: u32 = 0x4b56_4d03;
pub(super) const PV_EOI_EN: u32 = 0x4b56_4d04;
const ASYNC_PF_INT: u32 = 0x4b56_4d06;
const ASYNC_PF_ACK: u32 = 0x4b56_4d07;

/// `KVM_STEAL_RESERVED_MASK`.
const STEAL_RESERVED: u64 = 0x3e;
const ASYNC_PF_RESERVED: u64 = 0x30;
/// ENABLED and DELIVERY_AS_INT: both, or pages are not announced.
const ASYNC_PF_ON: u64 = 1 | 1 << 3;
const ENABLED: u64 = 1;
const ASYNC_PF_VMEXIT: u32 = 10;

/// The feature of CPUID that an MSR comes with.
fn feature(msr: u32) -> Option<u32> {
    Some(match msr {
        WALL_CLOCK | SYSTEM_TIME => 0,
        WALL_CLOCK_NEW | SYSTEM_TIME_NEW => 3,
        ASYNC_PF_EN => 4,
        STEAL_TIME => 5,
        PV_EOI_EN => 6,
        POLL_CONTROL => 12,
        ASYNC_PF_INT | ASYNC_PF_ACK => 14,
        _ => return None,
    })
}

/// Whether it is one of them.
pub(super) fn is_one(msr: u32) -> bool {
    feature(msr).is_some()
}

/// Features of KVM in the guest's CPUID: in the leaf after KVM's signature, wherever that is.
fn features(cpuid: &[KvmCpuidEntry2]) -> u32 {
    let word = |text: &[u8; 4]| u32::from_le_bytes(*text);
    let signature = [word(b"KVMK"), word(b"VMKV"), word(b"M\0\0\0")];
    let is_signature = |e: &&KvmCpuidEntry2| {
        (0x4000_0000..0x4001_0000).contains(&e.function)
            && e.function & 0xff == 0
            && [e.ebx, e.ecx, e.edx] == signature
    };
    let base = cpuid.iter().filter(is_signature).map(|e| e.function).min();
    let leaf = base.and_then(|base| cpuid.iter().find(|e| e.function == base + 1));
    leaf.map_or(0, |e| e.eax)
}

/// `guest_pv_has`: everything, unless user space wants CPUID to decide.
fn has(cx: &Cx, state: &State, feature: u32) -> bool {
    guest_pv_has(state, cx.caps.guest(), feature)
}

/// `guest_pv_has` of a vCPU with this CPUID.
pub(crate) fn guest_pv_has(state: &State, cpuid: &[KvmCpuidEntry2], feature: u32) -> bool {
    !state.enforce_pv_features || features(cpuid) >> feature & 1 == 1
}

fn there(cx: &Cx, state: &State, msr: u32) -> Result<(), No> {
    match feature(msr) {
        Some(feature) if has(cx, state, feature) => Ok(()),
        _ => Err(No::Unsupported),
    }
}

pub(super) fn read(cx: &Cx, state: &State, msr: u32) -> Result<u64, No> {
    there(cx, state, msr)?;
    Ok(match msr {
        ASYNC_PF_ACK => 0,
        // Two numbers of the same clock.
        WALL_CLOCK | WALL_CLOCK_NEW => cx.kvm.arch.with(|arch| arch.wall_clock),
        SYSTEM_TIME | SYSTEM_TIME_NEW => kept(state, SYSTEM_TIME, 0),
        POLL_CONTROL => kept(state, msr, 1),
        _ => kept(state, msr, 0),
    })
}

/// `reaches` says whether the guest address that the value names is in a memslot. No time is written
/// there.
pub(super) fn write(cx: &Cx, state: &mut State, msr: u32, value: u64, reaches: bool) -> Kept {
    there(cx, state, msr)?;
    let in_kernel = cx.lapic_in_kernel;
    let allowed = match msr {
        STEAL_TIME => value & STEAL_RESERVED == 0,
        POLL_CONTROL => value & !1 == 0,
        ASYNC_PF_INT => value >> 8 == 0 && in_kernel,
        ASYNC_PF_EN => {
            let by_vmexit = value & 1 << 2 != 0 && !has(cx, state, ASYNC_PF_VMEXIT);
            let by_interrupt = value & 1 << 3 != 0 && !has(cx, state, 14);
            let known = value & ASYNC_PF_RESERVED == 0 && !by_vmexit && !by_interrupt;
            if known && !in_kernel {
                return if value == 0 {
                    Ok(None)
                } else {
                    Err(No::Refused)
                };
            }
            known && (value & ASYNC_PF_ON != ASYNC_PF_ON || reaches)
        }
        PV_EOI_EN => value & !ENABLED & 3 == 0 && (value & ENABLED == 0 || reaches),
        _ => true,
    };
    match msr {
        _ if !allowed => Err(No::Refused),
        WALL_CLOCK | WALL_CLOCK_NEW => {
            cx.kvm.arch.with(|arch| arch.wall_clock = value);
            Ok(None)
        }
        SYSTEM_TIME | SYSTEM_TIME_NEW => {
            state.msrs.insert(SYSTEM_TIME, value);
            Ok(None)
        }
        ASYNC_PF_ACK => Ok(None),
        _ => Ok(Some(value)),
    }
}

/// The guest address that has to be in a memslot for a value to be taken.
pub(super) fn address(msr: u32, value: u64) -> Option<u64> {
    match msr {
        ASYNC_PF_EN if value & ASYNC_PF_ON == ASYNC_PF_ON => Some(value & !0x3f),
        PV_EOI_EN if value & ENABLED != 0 => Some(value & !ENABLED),
        _ => None,
    }
}
