//! Paravirtual hypercalls of KVM: they reach other vCPUs of the TD.
//!
//! Source: Linux v7.3.4 `arch/x86/kvm/x86.c`, `arch/x86/kvm/lapic.c`.

use super::Handling;
use super::hypercall::{EINVAL, ENOSYS};
use crate::stats;
use crate::vcpu::Vcpu;
use crate::vcpu::registers::guest_pv_has;

/// `KVM_FEATURE_PV_UNHALT`.
const PV_UNHALT: u32 = 7;
/// `KVM_FEATURE_PV_SEND_IPI`.
const PV_SEND_IPI: u32 = 11;
/// `KVM_FEATURE_PV_SCHED_YIELD`.
const PV_SCHED_YIELD: u32 = 13;
/// The x2APIC's MSR of the spurious-interrupt vector; bit 8 switches the local APIC on.
const SPIV: u32 = 0x80f;
/// Destination that means every vCPU.
const BROADCAST: u32 = u32::MAX;

impl Handling<'_> {
    /// `guest_pv_has`: without KVM_CAP_ENFORCE_PV_FEATURE_CPUID every feature is there.
    fn pv_has(&self, feature: u32) -> bool {
        self.vcpu
            .state
            .with(|state| guest_pv_has(state, &state.cpuid, feature))
    }

    /// KVM_HC_KICK_CPU: the vCPU of an APIC id goes on.
    pub(super) fn kick_cpu(&self, apic_id: u64) -> u64 {
        if !self.pv_has(PV_UNHALT) {
            return ENOSYS;
        }
        let id = apic_id as u32;
        let named = |vcpu: &&Vcpu| id == BROADCAST || vcpu.id == id;
        self.kvm.vcpus().filter(named).for_each(Vcpu::unhalt);
        self.yields();
        0
    }

    /// KVM_HC_SCHED_YIELD. Nobody is scheduled here, so that nobody gives way.
    pub(super) fn sched_yield(&self) -> u64 {
        if !self.pv_has(PV_SCHED_YIELD) {
            return ENOSYS;
        }
        self.yields();
        0
    }

    fn yields(&self) {
        self.vcpu.stats().add(stats::DIRECTED_YIELDS, 1);
    }

    /// KVM_HC_SEND_IPI: to the APIC ids of 128 bits from `min` on; how many local APICs took it.
    pub(super) fn send_ipi(&self, bitmap: [u64; 2], min: u32, icr: u64) -> u64 {
        /// APIC_DEST_MASK, APIC_SHORT_MASK.
        const DESTINATION: u64 = 0x800 | 0xc0000;
        if !self.pv_has(PV_SEND_IPI) {
            return ENOSYS;
        }
        if icr & DESTINATION != 0 {
            return EINVAL;
        }
        let named = |vcpu: &&Vcpu| {
            let halves = [min, min.wrapping_add(64)];
            halves.iter().zip(bitmap).any(|(first, bits)| {
                let at = vcpu.id.checked_sub(*first);
                at.is_some_and(|at| at < 64 && bits >> at & 1 != 0)
            })
        };
        let took = self.kvm.vcpus().filter(named);
        took.filter(|vcpu| takes_ipi(vcpu, icr)).count() as u64
    }
}

/// `__apic_accept_irq`. An interrupt is the module's to deliver, and there is none.
fn takes_ipi(vcpu: &Vcpu, icr: u64) -> bool {
    const LEVEL: u64 = 1 << 15;
    const ASSERT: u64 = 1 << 14;
    let deasserts = icr & LEVEL != 0 && icr & ASSERT == 0;
    match icr >> 8 & 7 {
        // Fixed, lowest priority.
        0 | 1 => {
            let spiv = vcpu.state.with(|state| state.msrs.get(&SPIV).copied());
            !deasserts && spiv.unwrap_or(0) & 1 << 8 != 0
        }
        // NMI.
        4 => {
            vcpu.queue_nmi();
            true
        }
        // INIT, which a TD's vCPU drops later.
        5 => !deasserts,
        // Start-up.
        6 => true,
        // SMI, which a TD lacks; ExtINT.
        _ => false,
    }
}
