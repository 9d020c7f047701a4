//! Events of a vCPU: what keeps it awake (`kvm_vcpu_has_events`), what is injected before it is entered,
//! and whether user space may inject an interrupt. Of a TD's, the module has all but NMIs.
//!
//! # Locking
//! `vcpu->mutex`; NMIs and unhalts also come from other vCPUs' hypercalls, without it.
//!
//! Source: Linux v7.3.4 `arch/x86/kvm/x86.c`, `arch/x86/kvm/irq.c`, `arch/x86/kvm/lapic.c`.

use seamlock_tdx_abi::kvm::{
    KVM_CAP_DISABLE_QUIRKS, KVM_CAP_DISABLE_QUIRKS2, KVM_MP_STATE_RUNNABLE, KvmVcpuEvents,
};
use seamlock_tdx_abi::{FieldId, Hpa, Leaf, TdxStatus};

use super::{Vcpu, VcpuRef};
use crate::arch::interrupt;
use crate::stats;
use crate::task::Task;
use crate::tdx::seamcall::tdh_vp_wr;
use crate::vm::{Irqchip, Kvm};

/// Byte offset of `request_interrupt_window` in `struct kvm_run`.
const REQUEST_INTERRUPT_WINDOW: usize = 0;
/// Byte offset of `ready_for_interrupt_injection`.
const READY_FOR_INTERRUPT_INJECTION: usize = 12;
/// Byte offset of `if_flag`.
const IF_FLAG: usize = 13;
/// Byte offset of `cr8`.
const CR8: usize = 16;
/// Byte offset of `apic_base`.
const APIC_BASE: usize = 24;
/// RFLAGS.IF.
const IF: u64 = 1 << 9;
/// `KVM_X86_QUIRK_LINT0_REENABLED`: LINT0 of the BSP takes ExtINT from reset on.
const QUIRK_LINT0_REENABLED: u64 = 1;
/// The x2APIC's MSR of LVT0.
const LVT0: u32 = 0x835;

/// `kvm_event_needs_reinjection`.
fn needs_reinjection(events: &KvmVcpuEvents) -> bool {
    events.exception_injected != 0 || events.interrupt_injected != 0 || events.nmi_injected != 0
}

/// `kvm_is_exception_pending`; a triple fault is one.
fn is_exception_pending(events: &KvmVcpuEvents) -> bool {
    events.exception_pending != 0 || events.triple_fault_pending != 0
}

impl Vcpu {
    /// `kvm_vcpu_has_events`.
    pub(crate) fn has_events(&self, kvm: &Kvm) -> bool {
        let events = self.state.with(|state| state.events);
        events.nmi_pending != 0
            || is_exception_pending(&events)
            || (self.takes_interrupts(kvm) && self.has_extint(kvm))
    }

    /// `kvm_arch_vcpu_runnable` of a vCPU that is not running.
    pub(crate) fn is_woken(&self, kvm: &Kvm) -> bool {
        self.mp_state() == KVM_MP_STATE_RUNNABLE || self.is_unhalted() || self.has_events(kvm)
    }

    /// `vcpu->arch.pv.pv_unhalted`.
    pub(crate) fn is_unhalted(&self) -> bool {
        self.pv_unhalted.load()
    }

    /// KVM_HC_KICK_CPU, as the local APIC takes it: another vCPU ends this one's halt.
    pub(crate) fn unhalt(&self) {
        self.pv_unhalted.store(true);
        self.kick();
    }

    /// `kvm_inject_nmi`: an NMI is pending until the vCPU is entered. Two at most.
    pub(crate) fn queue_nmi(&self) {
        self.state.with(|state| {
            let pending = &mut state.events.nmi_pending;
            *pending = pending.saturating_add(1).min(2);
        });
        self.kick();
    }

    /// `tdx_interrupt_allowed`: all that KVM knows is what the guest said when it halted.
    fn takes_interrupts(&self, kvm: &Kvm) -> bool {
        self.state.with(|state| match &state.registers {
            Some(registers) => registers.general.rflags & IF != 0,
            None => !(kvm.is_td() && state.halted_with_interrupts_blocked),
        })
    }

    /// `kvm_apic_accept_pic_intr`: LVT0 takes ExtINT.
    fn accepts_extint(&self, kvm: &Kvm) -> bool {
        const MASKED: u64 = 1 << 16;
        const MODE: u64 = 7 << 8;
        let reset = kvm.arch.with(|arch| {
            let quirks = [KVM_CAP_DISABLE_QUIRKS, KVM_CAP_DISABLE_QUIRKS2];
            let disabled = quirks.iter().filter_map(|cap| arch.enabled(*cap));
            let keeps = disabled.fold(0, |all, one| all | one) & QUIRK_LINT0_REENABLED == 0;
            arch.bsp_vcpu_id == self.id && keeps
        });
        match self.state.with(|state| state.msrs.get(&LVT0).copied()) {
            Some(lvt0) => lvt0 & MASKED == 0 && lvt0 & MODE == MODE,
            None => reset,
        }
    }

    /// `kvm_cpu_has_extint` with a split irqchip: what KVM_INTERRUPT queued.
    fn has_extint(&self, kvm: &Kvm) -> bool {
        let split = kvm.arch.with(|arch| arch.irqchip) == Irqchip::Split;
        split && interrupt::is_pending(self) && self.accepts_extint(kvm)
    }

    /// `kvm_vcpu_ready_for_interrupt_injection`, or a PIC in the kernel.
    fn is_ready_for_injection(&self, kvm: &Kvm) -> bool {
        let accepts = match kvm.arch.with(|arch| arch.irqchip) {
            Irqchip::Kernel => return true,
            Irqchip::None => true,
            Irqchip::Split => !self.has_extint(kvm) && self.accepts_extint(kvm),
        };
        let events = self.state.with(|state| state.events);
        accepts
            && self.takes_interrupts(kvm)
            && !needs_reinjection(&events)
            && !is_exception_pending(&events)
    }

    /// Whether user space asked for KVM_EXIT_IRQ_WINDOW_OPEN, and can have it
    /// (`dm_request_for_irq_injection`).
    pub(super) fn opens_irq_window(&self, kvm: &Kvm) -> bool {
        let mut wanted = [0];
        self.run_page().read(REQUEST_INTERRUPT_WINDOW, &mut wanted);
        wanted[0] != 0
            && kvm.arch.with(|arch| arch.irqchip) != Irqchip::Kernel
            && self.is_ready_for_injection(kvm)
    }

    /// KVM_REQ_TRIPLE_FAULT, which user space sets with KVM_SET_VCPU_EVENTS; taken back.
    pub(super) fn take_triple_fault(&self) -> bool {
        let pending =
            |state: &mut super::State| std::mem::take(&mut state.events.triple_fault_pending) != 0;
        self.state.with(pending)
    }
}

/// `post_kvm_run_save`: what every KVM_RUN tells. Interrupts and CR8 of a TD are not KVM's to see.
pub(super) fn post_kvm_run_save(vcpu: &VcpuRef) {
    let kvm = vcpu.kvm();
    let in_kernel = kvm.arch.with(|arch| arch.irqchip) != Irqchip::None;
    let (apic_base, interrupts, cr8) = vcpu.state.with(|state| {
        let own = state.registers.as_ref();
        let rflags = own.map_or(0, |r| r.general.rflags);
        let cr8 = own.map_or(0, |r| {
            if in_kernel {
                r.lapic.cr8()
            } else {
                r.sregs.cr8
            }
        });
        (state.apic_base, rflags & IF != 0, cr8)
    });
    let run = vcpu.run_page();
    run.write(IF_FLAG, &[interrupts.into()]);
    run.write(CR8, &cr8.to_le_bytes());
    run.write(APIC_BASE, &apic_base.to_le_bytes());
    let ready = vcpu.is_ready_for_injection(kvm);
    run.write(READY_FOR_INTERRUPT_INJECTION, &[ready.into()]);
}

/// `kvm_check_and_inject_events` of a TD. An exception or an interrupt goes nowhere, and stays injected:
/// nothing in a TD exit says that it was taken.
pub(super) fn inject_events(task: &Task, kvm: &Kvm, vcpu: &Vcpu, tdvpr: Hpa) {
    let (nmi, may_take) = vcpu.state.with(|state| {
        let events = &mut state.events;
        let exception = events.exception_injected != 0 || events.exception_pending != 0;
        let again = events.nmi_injected != 0 && !exception;
        let fresh = events.nmi_pending != 0 && !needs_reinjection(events) && !exception;
        let may_take = !exception && !needs_reinjection(events) && !fresh;
        if events.exception_pending != 0 {
            (events.exception_pending, events.exception_injected) = (0, 1);
        }
        if again || fresh {
            // tdx_inject_nmi tells the module once, however many are pending.
            (events.nmi_pending, events.nmi_injected) = (0, 0);
        }
        (again || fresh, may_take)
    });
    if nmi {
        tdx_inject_nmi(task, kvm, vcpu, tdvpr);
    }
    if may_take
        && vcpu.has_extint(kvm)
        && vcpu.takes_interrupts(kvm)
        && let Some(vector) = interrupt::take(vcpu)
    {
        vcpu.state.with(|state| {
            let events = &mut state.events;
            (events.interrupt_injected, events.interrupt_soft) = (1, 0);
            events.interrupt_nr = vector as u8;
        });
    }
}

fn tdx_inject_nmi(task: &Task, kvm: &Kvm, vcpu: &Vcpu, tdvpr: Hpa) {
    const SITE: &str = "tdx.c:1132 tdx_inject_nmi: tdh_vp_wr_failed";
    vcpu.stats().add(stats::NMI_INJECTIONS, 1);
    let on = kvm.on_this_cpu(task);
    let status = tdh_vp_wr(on, tdvpr, FieldId::VP_PEND_NMI, 1, 0xff);
    if kvm.discipline.seal.late_nmi_is_dropped && status.is(TdxStatus::VCPU_STATE_INCORRECT) {
        return;
    }
    kvm.tdx_bug_on(status, Leaf::VP_WR, SITE, [0; 3]);
}
