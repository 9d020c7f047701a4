//! The local APIC's registers, as KVM_GET_LAPIC shows them. No interrupt comes of them.
//!
//! Source: Linux v7.3.4 `arch/x86/kvm/lapic.c`.

use seamlock_tdx_abi::kvm::KVM_APIC_REG_SIZE;

const ID: usize = 0x20;
const VERSION: usize = 0x30;
const TASKPRI: usize = 0x80;
const PROCPRI: usize = 0xa0;
const LDR: usize = 0xd0;
const DFR: usize = 0xe0;
const SPIV: usize = 0xf0;
const LVT_CMCI: usize = 0x2f0;
/// Timer, thermal, performance counters, LINT0, LINT1, error.
const LVTS: std::ops::Range<usize> = 0x320..0x380;
const LVT0: usize = 0x350;
const MASKED: u32 = 1 << 16;
const EXTINT: u32 = 7 << 8;
/// `APIC_VERSION`, with six entries in the local vector table.
const VERSION_OF_SIX: u32 = 0x14 | 5 << 16;

/// One vCPU's.
#[derive(Clone, Debug)]
pub(crate) struct Lapic(Box<[u8; KVM_APIC_REG_SIZE]>);

impl Lapic {
    /// `kvm_lapic_reset`, in xAPIC mode. The boot processor gets the 8259's interrupts.
    pub(super) fn reset(id: u32, is_bsp: bool) -> Lapic {
        let mut lapic = Lapic(Box::new([0; KVM_APIC_REG_SIZE]));
        lapic.set(ID, id << 24);
        lapic.set(VERSION, VERSION_OF_SIX);
        LVTS.step_by(16).for_each(|at| lapic.set(at, MASKED));
        if is_bsp {
            lapic.set(LVT0, EXTINT);
        }
        lapic.set(DFR, u32::MAX);
        lapic.set(SPIV, 0xff);
        lapic
    }

    fn get(&self, at: usize) -> u32 {
        u32::from_le_bytes(std::array::from_fn(|i| self.0[at + i]))
    }

    fn set(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// `kvm_apic_get_state`; in x2APIC mode with the id in the format that user space chose.
    pub(crate) fn to_user(&self, x2apic: Option<(u32, bool)>) -> Box<[u8; KVM_APIC_REG_SIZE]> {
        let mut out = self.clone();
        if let Some((id, x2apic_format)) = x2apic {
            out.set(ID, if x2apic_format { id } else { id << 24 });
        }
        out.0
    }

    /// `kvm_apic_set_state`: whether it was taken over. An id that is not the vCPU's is refused where
    /// user space chose x2APIC's format.
    pub(crate) fn take(
        &mut self,
        new: Box<[u8; KVM_APIC_REG_SIZE]>,
        x2apic: Option<(u32, bool)>,
    ) -> bool {
        let version = self.get(VERSION);
        let mut new = Lapic(new);
        if let Some((id, x2apic_format)) = x2apic {
            if x2apic_format && new.get(ID) != id {
                return false;
            }
            new.set(ID, id);
            // Cluster in the upper half, one bit of sixteen in the lower.
            new.set(LDR, id >> 4 << 16 | 1 << (id & 15));
        }
        new.set(VERSION, version);
        // The priority that interrupts need follows from TPR while none is in service.
        new.set(PROCPRI, new.get(TASKPRI) & 0xff);
        *self = new;
        true
    }

    /// `apic_lvtt_tscdeadline`.
    pub(super) fn has_tsc_deadline(&self) -> bool {
        const LVT_TIMER: usize = 0x320;
        self.get(LVT_TIMER) >> 17 & 3 == 2
    }

    /// CR8: the upper half of TPR.
    pub(crate) fn cr8(&self) -> u64 {
        u64::from(self.get(TASKPRI) >> 4 & 15)
    }

    pub(crate) fn set_cr8(&mut self, cr8: u64) {
        self.set(TASKPRI, (cr8 as u32 & 15) << 4);
        self.set(PROCPRI, (cr8 as u32 & 15) << 4);
    }

    /// The corrected-machine-check interrupt is there when MCG_CAP says so.
    pub(crate) fn set_cmci(&mut self, there: bool) {
        let entries = if there { 6 } else { 5 };
        self.set(VERSION, self.get(VERSION) & !0xff_0000 | entries << 16);
        if there && self.get(LVT_CMCI) == 0 {
            self.set(LVT_CMCI, MASKED);
        }
    }
}
