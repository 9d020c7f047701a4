//! The values of a vCPU's fields outside of its VMCSs.

use seamlock_tdx_abi::addr::Hpa;
use seamlock_tdx_abi::field::FieldId;
use seamlock_tdx_abi::status::TdxStatus;

use super::Field;
use super::vmcs::is_interrupt_pending;
use super::vp::VpAccess;
use crate::guest::VeInfo;
use crate::vp_state::VpState;

/// Classes of fields.
mod class {
    pub(super) const VAPIC: u8 = 1;
    pub(super) const VE_INFO: u8 = 2;
    pub(super) const GPRS: u8 = 16;
    pub(super) const STATE: u8 = 17;
    pub(super) const XBUFF: u8 = 18;
    pub(super) const MSRS: u8 = 19;
    pub(super) const MANAGEMENT: u8 = 32;
    pub(super) const CPUID_CONTROL: u8 = 33;
    pub(super) const FAULT_LOG: u8 = 34;
}

const XCR0: u32 = 0x20;
const VCPU_STATE_DETAILS: u32 = 0x100;
const XSS: u32 = 0xda0;
const CPUID_SUPERVISOR_VE: u32 = 7;
const CPUID_USER_VE: u32 = 8;
const PEND_NMI: u32 = 11;
const XFAM: u32 = 12;

/// TDVPS pages with the virtual APIC and with extended state.
const VAPIC_PAGE: usize = 2;
const XBUFF_PAGE: usize = 3;
const WORDS_PER_PAGE: usize = 512;
/// The XSAVE header in words of XBUFF; a debugger may not change it.
const XSAVE_HEADER: std::ops::Range<u32> = 64..72;
/// Component of processor trace, whose first word is IA32_RTIT_CTL.
const PT: usize = 8;

/// The value of an element.
pub(super) fn read(access: &VpAccess<'_>, row: &Field, id: FieldId) -> u64 {
    let (class, code) = (row.id.class(), row.id.code());
    let n = (id.code() - code) as usize;
    match class {
        class::VAPIC => page_word(access, VAPIC_PAGE, n),
        class::XBUFF => page_word(access, XBUFF_PAGE + n / WORDS_PER_PAGE, n % WORDS_PER_PAGE),
        class::STATE if code == VCPU_STATE_DETAILS => is_interrupt_pending(access).into(),
        class::MANAGEMENT => management(access, code, n),
        _ => access.vp.guest.with(|guest| match class {
            class::VE_INFO => ve_info(&guest.ve_info, code),
            class::GPRS => guest.gprs[code as usize & 0xf],
            class::STATE => state(guest, code),
            class::MSRS => msr(guest, id),
            class::CPUID_CONTROL => guest.cpuid_control.get(n).copied().unwrap_or(0).into(),
            class::FAULT_LOG => guest.steps.suspects().get(n).copied().unwrap_or(u64::MAX),
            _ => kept(guest, id),
        }),
    }
}

/// Stores an element that may be written.
pub(super) fn write(
    access: &VpAccess<'_>,
    row: &Field,
    id: FieldId,
    new: u64,
) -> Result<(), TdxStatus> {
    let (class, code) = (row.id.class(), row.id.code());
    check(access, class, id.code(), new)?;
    if class == class::XBUFF {
        let n = (id.code() - code) as usize;
        write_page_word(
            access,
            XBUFF_PAGE + n / WORDS_PER_PAGE,
            n % WORDS_PER_PAGE,
            new,
        );
        return Ok(());
    }
    access.vp.guest.with(|guest| match (class, code) {
        (class::GPRS, code) => guest.gprs[code as usize & 0xf] = new,
        (class::CPUID_CONTROL, 0) => {
            if let Some(control) = guest.cpuid_control.get_mut(id.code() as usize) {
                *control = new as u8;
            }
        }
        (class::STATE, 0..=3) => guest.cpu.dr[code as usize] = new,
        (class::STATE, 6) => guest.cpu.dr6 = new,
        (class::STATE, 0x28) => guest.cpu.cr2 = new,
        (class::MSRS, 0x2103) => guest.cpu.tsc_aux = new,
        (class::MANAGEMENT, CPUID_SUPERVISOR_VE) => guest.cpuid_supervisor_ve = new & 1 != 0,
        (class::MANAGEMENT, CPUID_USER_VE) => guest.cpuid_user_ve = new & 1 != 0,
        (class::MANAGEMENT, PEND_NMI) => guest.pend_nmi = new as u8,
        _ => {
            guest.fields.insert(place(id), new);
        }
    });
    Ok(())
}

fn check(access: &VpAccess<'_>, class: u8, code: u32, new: u64) -> Result<(), TdxStatus> {
    let xfam = access.td.xfam.load();
    let refused = match (class, code) {
        (class::XBUFF, code) => {
            let pt = access.td.config.with(|config| config.xbuff.offsets[PT]) / 8;
            let rtit_ctl = xfam >> PT & 1 != 0 && code == pt;
            (XSAVE_HEADER.contains(&code) || rtit_ctl)
                .then_some(TdxStatus::METADATA_FIELD_NOT_WRITABLE)
        }
        (class::MANAGEMENT, XFAM) => Some(TdxStatus::METADATA_FIELD_NOT_WRITABLE),
        (class::STATE, XCR0) if new & !xfam != 0 => Some(TdxStatus::METADATA_FIELD_VALUE_NOT_VALID),
        (class::MSRS, XSS) if new & !xfam != 0 => Some(TdxStatus::METADATA_FIELD_VALUE_NOT_VALID),
        _ => None,
    };
    refused.map_or(Ok(()), Err)
}

fn place(id: FieldId) -> u32 {
    u32::from(id.class()) << 24 | id.code()
}

fn kept(guest: &VpState, id: FieldId) -> u64 {
    guest.fields.get(&place(id)).copied().unwrap_or(0)
}

fn page_word(access: &VpAccess<'_>, page: usize, n: usize) -> u64 {
    let pa = access.vp.tdvps(page).0;
    access.m.memory.read_u64(Hpa(pa + 8 * n as u64))
}

fn write_page_word(access: &VpAccess<'_>, page: usize, n: usize, new: u64) {
    if let Some(frame) = access.m.memory.frame_mut(access.vp.tdvps(page)) {
        frame.write_words(8 * n, &new.to_le_bytes());
    }
}

fn ve_info(info: &VeInfo, code: u32) -> u64 {
    match code {
        0 => info.reason.into(),
        // What the processor writes there when it delivers #VE by itself.
        1 if info.valid => u32::MAX.into(),
        2 => info.qual,
        3 => info.gla,
        4 => info.gpa,
        0x10 => info.instruction_length.into(),
        0x11 => info.instruction_info.into(),
        _ => 0,
    }
}

fn state(guest: &VpState, code: u32) -> u64 {
    match code {
        0..=3 => guest.cpu.dr[code as usize],
        6 => guest.cpu.dr6,
        XCR0 => guest.cpu.xcr0,
        0x28 => guest.cpu.cr2,
        _ => 0,
    }
}

fn msr(guest: &VpState, id: FieldId) -> u64 {
    match id.code() {
        XSS => guest.cpu.xss,
        0x2081 => guest.cpu.star,
        0x2082 => guest.cpu.lstar,
        0x2084 => guest.cpu.fmask,
        0x2102 => guest.cpu.kernel_gs_base,
        0x2103 => guest.cpu.tsc_aux,
        _ => kept(guest, id),
    }
}

fn management(access: &VpAccess<'_>, code: u32, n: usize) -> u64 {
    let vp = access.vp;
    match code {
        0 => vp.state().0.into(),
        2 => vp.index.load().into(),
        3 => vp.pages.load().into(),
        4 => vp.assoc_lpid.peek().into(),
        6 => vp.epoch.load(),
        XFAM => access.td.xfam.load(),
        0x10 if (n as u32) < vp.pages.load() => {
            access.m.platform.with_hkid(vp.tdvps(n), access.td.hkid())
        }
        _ => vp.guest.with(|guest| match code {
            CPUID_SUPERVISOR_VE => guest.cpuid_supervisor_ve.into(),
            CPUID_USER_VE => guest.cpuid_user_ve.into(),
            10 => guest.last_exit_tsc,
            PEND_NMI => guest.pend_nmi.into(),
            13 => guest.steps.suspects().len() as u64,
            14 => guest.steps.faults().into(),
            15 => guest.last_td_exit.0.into(),
            0x30 => guest.hp_busy_since.unwrap_or(0),
            0x31 => guest.hp_busy_since.is_some().into(),
            _ => guest
                .fields
                .get(&((32 << 24) + code + n as u32))
                .copied()
                .unwrap_or(0),
        }),
    }
}
