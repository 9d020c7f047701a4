//! Registers of a vCPU that is no TD's, as KVM keeps them while the vCPU is outside of its guest. No
//! such guest runs here; user space sets up and reads back.
//!
//! # Locking
//! `vcpu->mutex`, as all of a vCPU's state.
//!
//! Source: Linux v7.3.4 `kvm_vcpu_reset` (`arch/x86/kvm/x86.c`), `vmx_vcpu_reset`
//! (`arch/x86/kvm/vmx/vmx.c`), `kvm_lapic_reset` (`arch/x86/kvm/lapic.c`).

mod caps;
mod lapic;
mod msrs;
mod sregs;
mod xstate;

use seamlock_tdx_abi::kvm::{KvmRegs, KvmSegment, KvmSregs};
use zerocopy::FromZeros;

pub(crate) use caps::{Caps, Feature};
pub(crate) use lapic::Lapic;
pub(crate) use msrs::{HypervVcpu, No, SUPPORTED_PERF_CAP, VmxMsrs, guest_pv_has};
pub(crate) use msrs::{features as feature_msrs, saved as saved_msrs};
pub(crate) use sregs::pae_paging;
pub(crate) use xstate::Xsave;

/// RFLAGS bit 1 (`X86_EFLAGS_FIXED`).
pub(crate) const RFLAGS_FIXED: u64 = 1 << 1;
const DR6_ACTIVE_LOW: u64 = 0xffff_0ff0;
const DR7_FIXED_1: u64 = 0x400;
/// CD, NW and ET.
const RESET_CR0: u64 = 0x6000_0010;
/// Family, model and stepping where CPUID says nothing yet.
const RESET_RDX: u64 = 0x600;
const RESET_RIP: u64 = 0xfff0;

/// All of them.
#[derive(Clone, Debug)]
pub(crate) struct Registers {
    pub(crate) general: KvmRegs,
    /// Segments, tables, control registers and EFER. CR8 is there only without a local APIC in the kernel;
    /// APIC base and interrupts are kept elsewhere.
    pub(crate) sregs: KvmSregs,
    pub(crate) pdptrs: [u64; 4],
    pub(crate) db: [u64; 4],
    pub(crate) dr6: u64,
    pub(crate) dr7: u64,
    /// `vcpu->guest_debug`.
    pub(crate) guest_debug: u32,
    pub(crate) xcr0: u64,
    pub(crate) xsave: Xsave,
    pub(crate) lapic: Lapic,
    pub(crate) tsc_offset: u64,
    pub(crate) vmx: VmxMsrs,
}

impl Registers {
    /// As after a reset.
    pub(crate) fn reset(id: u32, is_bsp: bool, in_kernel: bool, vmx: VmxMsrs) -> Registers {
        let mut general = KvmRegs::new_zeroed();
        (general.rip, general.rflags, general.rdx) = (RESET_RIP, RFLAGS_FIXED, RESET_RDX);
        Registers {
            general,
            sregs: reset_sregs(),
            pdptrs: [0; 4],
            db: [0; 4],
            dr6: DR6_ACTIVE_LOW,
            dr7: DR7_FIXED_1,
            guest_debug: 0,
            xcr0: 1,
            xsave: Xsave::default(),
            lapic: Lapic::reset(id, is_bsp && in_kernel),
            tsc_offset: 0,
            vmx,
        }
    }
}

fn reset_sregs() -> KvmSregs {
    // `seg_setup`: read, write and accessed data, and code the same.
    let segment = |base, selector, r#type, s| KvmSegment {
        base,
        limit: 0xffff,
        selector,
        r#type,
        present: 1,
        s,
        ..KvmSegment::new_zeroed()
    };
    let data = segment(0, 0, 3, 1);
    let mut sregs = KvmSregs::new_zeroed();
    sregs.cs = KvmSegment {
        r#type: 11,
        ..segment(0xffff_0000, 0xf000, 3, 1)
    };
    for place in [
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
        &mut sregs.ss,
    ] {
        *place = data;
    }
    sregs.tr = segment(0, 0, 11, 0);
    sregs.ldt = segment(0, 0, 2, 0);
    (sregs.gdt.limit, sregs.idt.limit) = (0xffff, 0xffff);
    sregs.cr0 = RESET_CR0;
    sregs
}
