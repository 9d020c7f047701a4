//! A vCPU's local APIC as far as KVM has it of a TD: its base, and the posted-interrupt descriptor.

use super::registers::Registers;
use super::{KVM_MAX_MCE_BANKS, Vcpu};
use crate::vm::Kvm;

const APIC_DEFAULT_PHYS_BASE: u64 = 0xfee0_0000;
/// `MSR_IA32_APICBASE_BSP`.
const BSP: u64 = 1 << 8;

impl Vcpu {
    /// `kvm_vcpu_reset`: the xAPIC, 32 banks of machine checks, and registers where KVM has them.
    pub(super) fn reset(&self, is_bsp: bool, unstuffed: bool, registers: Option<Registers>) {
        const ENABLE: u64 = 1 << 11;
        self.state.with(|state| {
            state.apic_base = APIC_DEFAULT_PHYS_BASE | ENABLE | if is_bsp { BSP } else { 0 };
            state.mcg_cap = KVM_MAX_MCE_BANKS;
            state.unstuffed = unstuffed;
            state.registers = registers.map(Box::new);
        });
    }

    /// `kvm_apic_set_base` to the x2APIC. Whether the guest's CPUID has it, and the address.
    pub(crate) fn set_x2apic_base(&self, kvm: &Kvm) -> bool {
        const X2APIC: u64 = 3 << 10;
        let bsp = kvm.arch.with(|arch| arch.bsp_vcpu_id) == self.id;
        let base = APIC_DEFAULT_PHYS_BASE | X2APIC | if bsp { BSP } else { 0 };
        if self.state.with(|state| state.apic_base) == base {
            return true;
        }
        let allowed = self.state.with(|state| {
            let leaf_1 = state.cpuid.iter().find(|e| e.function == 1);
            let has_x2apic = leaf_1.is_some_and(|e| e.ecx & 1 << 21 != 0);
            has_x2apic && base.checked_shr(state.maxphyaddr()).unwrap_or(0) == 0
        });
        if allowed {
            self.state.with(|state| state.apic_base = base);
            drop(kvm.apic_map_lock.lock());
        }
        allowed
    }

    /// Physical address of the posted-interrupt descriptor. KVM has it in its own memory, which is no
    /// TDX page; a fixed address that is not in any TDMR does as well.
    pub(crate) fn pi_desc(&self) -> u64 {
        0x1000 + self.born_at as u64 % 0x3c0 * 64
    }
}
