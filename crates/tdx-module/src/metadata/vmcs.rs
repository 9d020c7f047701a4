//! VMCS fields of a vCPU: those that the host or a debugger changed are kept by encoding, those
//! that are guest state live with the guest's registers, all others have the value that VP.INIT
//! gave them.
//!
//! Source: TDX module 1.5, `td_vmcs_init.c`; Intel SDM, "Field Encoding in VMCS".

use seamlock_tdx_abi::addr::{Gpa, Hpa, NULL_PA};
use seamlock_tdx_abi::status::TdxStatus;

use super::vp::VpAccess;
use crate::guest::{CpuState, Segment};
use crate::vp_state::{VpState, gpr};

const VPID: u32 = 0x0000;
const POSTED_INTERRUPT_VECTOR: u32 = 0x0002;
const GUEST_INTERRUPT_STATUS: u32 = 0x0810;
const IO_BITMAP_A: u32 = 0x2000;
const IO_BITMAP_B: u32 = 0x2002;
const MSR_BITMAP: u32 = 0x2004;
const EXIT_MSR_STORE: u32 = 0x2006;
const EXIT_MSR_LOAD: u32 = 0x2008;
const ENTRY_MSR_LOAD: u32 = 0x200a;
const EXECUTIVE_VMCS: u32 = 0x200c;
const PML_ADDRESS: u32 = 0x200e;
const TSC_OFFSET: u32 = 0x2010;
const VIRTUAL_APIC: u32 = 0x2012;
const APIC_ACCESS: u32 = 0x2014;
/// Address of the posted-interrupt descriptor.
pub(super) const POSTED_INTERRUPT_DESCRIPTOR: u32 = 0x2016;
const EPTP: u32 = 0x201a;
const EPTP_LIST: u32 = 0x2024;
const VMREAD_BITMAP: u32 = 0x2026;
const VMWRITE_BITMAP: u32 = 0x2028;
const VE_INFO: u32 = 0x202a;
const ENCLS_EXITING: u32 = 0x202e;
const TSC_MULTIPLIER: u32 = 0x2032;
const TERTIARY_CONTROLS: u32 = 0x2034;
const ENCLV_EXITING: u32 = 0x2036;
const PASID_LOW: u32 = 0x2038;
const PASID_HIGH: u32 = 0x203a;
const SHARED_EPTP: u32 = 0x203c;
const PCONFIG_EXITING: u32 = 0x203e;
const VMCS_LINK: u32 = 0x2800;
const DEBUGCTL: u32 = 0x2802;
const PAT: u32 = 0x2804;
const EFER: u32 = 0x2806;
const PERF_GLOBAL_CTRL: u32 = 0x2808;
const PDPTE0: u32 = 0x280a;
const PDPTE3: u32 = 0x2810;
const PIN_CONTROLS: u32 = 0x4000;
const EXCEPTION_BITMAP: u32 = 0x4004;
const SECONDARY_CONTROLS: u32 = 0x401e;
const HKID: u32 = 0x4026;
const CR0_MASK: u32 = 0x6000;
const CR4_MASK: u32 = 0x6002;
const CR0_SHADOW: u32 = 0x6004;
const CR4_SHADOW: u32 = 0x6006;
const GUEST_CR0: u32 = 0x6800;
const GUEST_CR3: u32 = 0x6802;
const GUEST_CR4: u32 = 0x6804;

/// TDCS page that reads as zeros, which tables that a TD does not have point to.
const ZERO_PAGE: usize = 4;
/// TDCS page with the MSR bitmaps.
const MSR_BITMAPS_PAGE: usize = 2;
/// Low bits of a VPID, which say which VM of the TD it is; the HKID is above.
const VPID_VM_BITS: u32 = 2;
/// TDVPS page with the virtual APIC.
const VAPIC_PAGE: usize = 2;

const POSTED_INTERRUPTS: u64 = 1 << 7;
const PML_ENABLE: u64 = 1 << 17;
/// A vector that no interrupt has: none was given yet.
const NO_VECTOR: u64 = 0xffff;
const MAX_VECTOR: u64 = 0xff;
/// Machine checks leave the guest.
const MACHINE_CHECK_EXITS: u64 = 1 << 18;
/// PERF_GLOBAL_CTRL after a reset: all programmable counters.
const ALL_COUNTERS: u64 = 0xff;
/// Bits of CR0 that a TD can't choose: PE, NE, NW, CD and what is reserved; as it reads them.
const CR0_FIXED: (u64, u64) = (0xffff_ffff_7ffa_ffe1, 0x21);
/// MCE, VMXE, SMXE; as a TD reads them.
const CR4_FIXED: (u64, u64) = (0x6040, 0x40);
const CR4_VMXE: u64 = 1 << 13;
/// Uncore performance-monitor interrupts, which the host decides about.
const DEBUGCTL_UNCORE_PMI: u64 = 1 << 13;

/// The place of a field of a VM in the vCPU's map: that of the TD itself is the encoding.
fn place(vm: u32, encoding: u32) -> u32 {
    vm << 16 | encoding
}

/// The value of a field.
pub(super) fn read(access: &VpAccess<'_>, vm: u32, encoding: u32) -> u64 {
    let kept = access.vp.guest.with(|guest| {
        let kept = guest.vmcs.get(&place(vm, encoding)).copied();
        kept.or_else(|| (vm == 0).then(|| guest_state(guest, encoding)).flatten())
    });
    kept.unwrap_or_else(|| initial(access, vm, encoding))
}

/// Stores a field after the checks that are its own.
pub(super) fn write(
    access: &VpAccess<'_>,
    vm: u32,
    encoding: u32,
    new: u64,
    mask: u64,
) -> Result<(), TdxStatus> {
    let new = if vm == 0 {
        check(access, encoding, new, mask)?
    } else {
        new
    };
    access.vp.guest.with(|guest| {
        if vm != 0 || !set_guest_state(guest, encoding, new) {
            guest.vmcs.insert(place(vm, encoding), new);
        }
    });
    Ok(())
}

/// Whether an interrupt that the virtual APIC would deliver is pending for the guest.
pub(super) fn is_interrupt_pending(access: &VpAccess<'_>) -> bool {
    let status = read(access, 0, GUEST_INTERRUPT_STATUS);
    let page = access.vp.tdvps(VAPIC_PAGE);
    let ppr = access.m.memory.read_u64(Hpa(page.0 + 0xa0));
    status & 0xf0 > ppr & 0xf0
}

fn check(access: &VpAccess<'_>, encoding: u32, new: u64, mask: u64) -> Result<u64, TdxStatus> {
    let invalid = TdxStatus::METADATA_FIELD_VALUE_NOT_VALID;
    match encoding {
        POSTED_INTERRUPT_VECTOR if new > MAX_VECTOR => Err(invalid),
        PIN_CONTROLS if new & POSTED_INTERRUPTS != 0 => {
            let missing = |field| TdxStatus::TD_VMCS_FIELD_NOT_INITIALIZED.with_details(field);
            if read(access, 0, POSTED_INTERRUPT_VECTOR) == NO_VECTOR {
                return Err(missing(POSTED_INTERRUPT_VECTOR));
            }
            if read(access, 0, POSTED_INTERRUPT_DESCRIPTOR) == NULL_PA {
                return Err(missing(POSTED_INTERRUPT_DESCRIPTOR));
            }
            Ok(new)
        }
        SECONDARY_CONTROLS if new & mask & PML_ENABLE != 0 => {
            let address = read(access, 0, PML_ADDRESS);
            let ready = access.td.is_debug() && address >> 63 == 0;
            if ready { Ok(new) } else { Err(invalid) }
        }
        GUEST_CR0 => control_register(read(access, 0, GUEST_CR0), new, CR0_FIXED).ok_or(invalid),
        GUEST_CR4 => control_register(read(access, 0, GUEST_CR4), new, CR4_FIXED).ok_or(invalid),
        GUEST_CR3 if !access.td.is_private_gpa(Gpa(new & !0x18)) => Err(invalid),
        DEBUGCTL => Ok(new & !DEBUGCTL_UNCORE_PMI),
        _ => Ok(new),
    }
}

/// A control register as if the guest wrote it: bits that it does not own must be as it reads them.
fn control_register(old: u64, new: u64, (mask, shadow): (u64, u64)) -> Option<u64> {
    (new & mask == shadow & mask).then_some(old & mask | new & !mask)
}

fn initial(access: &VpAccess<'_>, vm: u32, encoding: u32) -> u64 {
    let (m, td, vp) = (access.m, access.td, access.vp);
    let owned = |pa| m.platform.with_hkid(pa, td.hkid());
    match encoding {
        POSTED_INTERRUPT_VECTOR => NO_VECTOR,
        POSTED_INTERRUPT_DESCRIPTOR
        | IO_BITMAP_A
        | IO_BITMAP_B
        | EXIT_MSR_STORE
        | EXIT_MSR_LOAD
        | ENTRY_MSR_LOAD
        | EXECUTIVE_VMCS
        | PML_ADDRESS
        | APIC_ACCESS
        | EPTP_LIST
        | VMREAD_BITMAP
        | VMWRITE_BITMAP
        | ENCLS_EXITING
        | ENCLV_EXITING
        | PCONFIG_EXITING
        | VMCS_LINK
        | PDPTE0..=PDPTE3 => u64::MAX,
        SHARED_EPTP | PASID_LOW | PASID_HIGH => owned(td.tdcx(ZERO_PAGE)),
        MSR_BITMAP if vm == 0 => owned(td.tdcx(MSR_BITMAPS_PAGE)),
        VIRTUAL_APIC if vm == 0 => owned(vp.tdvps(VAPIC_PAGE)),
        VE_INFO if vm == 0 => owned(vp.tdvps(0)),
        VIRTUAL_APIC | VE_INFO => NULL_PA,
        EPTP if vm == 0 => td.config.with(|config| config.eptp),
        TSC_OFFSET => td.config.with(|config| config.tsc_offset),
        TSC_MULTIPLIER => td.config.with(|config| config.tsc_multiplier),
        TERTIARY_CONTROLS => u64::from(td.gpaw_52.load()) << 5,
        HKID => td.hkid().0.into(),
        VPID => u64::from(td.hkid().0) << VPID_VM_BITS | u64::from(vm),
        EXCEPTION_BITMAP => MACHINE_CHECK_EXITS,
        PERF_GLOBAL_CTRL => ALL_COUNTERS,
        CR0_MASK if vm == 0 => CR0_FIXED.0,
        CR4_MASK if vm == 0 => CR4_FIXED.0,
        CR0_MASK | CR4_MASK => u64::MAX,
        CR0_SHADOW => CR0_FIXED.1,
        CR4_SHADOW => CR4_FIXED.1,
        _ => 0,
    }
}

/// A field that is part of the guest's registers.
fn guest_state(guest: &VpState, encoding: u32) -> Option<u64> {
    let cpu = &guest.cpu;
    Some(match encoding {
        PAT => cpu.pat,
        EFER => cpu.efer,
        GUEST_CR0 => cpu.cr0,
        GUEST_CR3 => cpu.cr3,
        GUEST_CR4 => cpu.cr4 | CR4_VMXE,
        0x4810 => cpu.gdtr.limit.into(),
        0x4812 => cpu.idtr.limit.into(),
        0x6816 => cpu.gdtr.base,
        0x6818 => cpu.idtr.base,
        0x681a => cpu.dr7,
        0x681c => guest.gprs[gpr::RSP],
        0x681e => cpu.rip,
        0x6820 => cpu.rflags,
        _ => {
            let (part, index) = segment_part(encoding)?;
            let segment = *segment(cpu, index)?;
            match part {
                Part::Selector => segment.selector.into(),
                Part::Limit => segment.limit.into(),
                Part::Access => segment.access.into(),
                Part::Base => segment.base,
            }
        }
    })
}

/// Writes a field that is part of the guest's registers; false when it is not.
fn set_guest_state(guest: &mut VpState, encoding: u32, new: u64) -> bool {
    let cpu = &mut guest.cpu;
    match encoding {
        PAT => cpu.pat = new,
        EFER => cpu.efer = new,
        GUEST_CR0 => cpu.cr0 = new,
        GUEST_CR3 => cpu.cr3 = new,
        GUEST_CR4 => cpu.cr4 = new & !CR4_VMXE,
        0x4810 => cpu.gdtr.limit = new as u16,
        0x4812 => cpu.idtr.limit = new as u16,
        0x6816 => cpu.gdtr.base = new,
        0x6818 => cpu.idtr.base = new,
        0x681a => cpu.dr7 = new,
        0x681c => guest.gprs[gpr::RSP] = new,
        0x681e => cpu.rip = new,
        0x6820 => cpu.rflags = new,
        _ => {
            let part = segment_part(encoding);
            let Some((part, segment)) = part.and_then(|(p, i)| Some((p, segment_mut(cpu, i)?)))
            else {
                return false;
            };
            match part {
                Part::Selector => segment.selector = new as u16,
                Part::Limit => segment.limit = new as u32,
                Part::Access => segment.access = new as u32,
                Part::Base => segment.base = new,
            }
        }
    }
    true
}

enum Part {
    Selector,
    Limit,
    Access,
    Base,
}

/// Segments in the order of VMCS encodings: ES, CS, SS, DS, FS, GS, LDTR, TR.
fn segment_part(encoding: u32) -> Option<(Part, u32)> {
    let index = |first: u32| encoding.wrapping_sub(first) / 2;
    Some(match encoding {
        0x0800..0x0810 => (Part::Selector, index(0x0800)),
        0x4800..0x4810 => (Part::Limit, index(0x4800)),
        0x4814..0x4824 => (Part::Access, index(0x4814)),
        0x6806..0x6816 => (Part::Base, index(0x6806)),
        _ => return None,
    })
}

fn segment(cpu: &CpuState, index: u32) -> Option<&Segment> {
    Some(match index {
        0 => &cpu.es,
        1 => &cpu.cs,
        2 => &cpu.ss,
        3 => &cpu.ds,
        4 => &cpu.fs,
        5 => &cpu.gs,
        6 => &cpu.ldtr,
        7 => &cpu.tr,
        _ => return None,
    })
}

fn segment_mut(cpu: &mut CpuState, index: u32) -> Option<&mut Segment> {
    Some(match index {
        0 => &mut cpu.es,
        1 => &mut cpu.cs,
        2 => &mut cpu.ss,
        3 => &mut cpu.ds,
        4 => &mut cpu.fs,
        5 => &mut cpu.gs,
        6 => &mut cpu.ldtr,
        7 => &mut cpu.tr,
        _ => return None,
    })
}
