//! Control registers and XCR0 in a guest.
//!
//! Source: TDX module 1.5, `helpers.c` (`write_guest_cr0`, `write_guest_cr4`,
//! `check_guest_xcr0_value`).

use crate::Module;
use crate::guest::{Exception, VeInfo};
use crate::td_exit::Inside;

/// VMX exit reason of control-register accesses.
const CR_ACCESS: u32 = 28;
/// Bytes of MOV to a control register.
const MOV_CR_LENGTH: u32 = 3;

mod cr0 {
    pub(super) const PE: u64 = 1;
    pub(super) const NE: u64 = 1 << 5;
    pub(super) const WP: u64 = 1 << 16;
    pub(super) const NW: u64 = 1 << 29;
    pub(super) const CD: u64 = 1 << 30;
    pub(super) const PG: u64 = 1 << 31;
    /// Reserved bits that a write leaves as they are: 28:19, 17 and 15:6.
    pub(super) const IGNORED: u64 = 0x1ffa_ffc0;
}

mod cr4 {
    pub(super) const MCE: u64 = 1 << 6;
    pub(super) const VMXE: u64 = 1 << 13;
    pub(super) const SMXE: u64 = 1 << 14;
    pub(super) const KEY_LOCKER: u64 = 1 << 19;
    pub(super) const PKE: u64 = 1 << 22;
    pub(super) const CET: u64 = 1 << 23;
    pub(super) const PKS: u64 = 1 << 24;
    pub(super) const UINTR: u64 = 1 << 25;
    /// Bits that no processor has: 15 and 63:29.
    pub(super) const RESERVED: u64 = 0xffff_ffff_e000_8000;
}

mod xcr0 {
    pub(super) const X87: u64 = 1;
    pub(super) const SSE: u64 = 1 << 1;
    pub(super) const AVX: u64 = 1 << 2;
    pub(super) const AVX512: u64 = 7 << 5;
    pub(super) const AMX: u64 = 3 << 17;
}

/// XFAM bits: protection keys, CET, user interrupts.
const XFAM_PK: u64 = 1 << 9;
const XFAM_CET: u64 = 3 << 11;
const XFAM_UINTR: u64 = 1 << 14;
/// ATTRIBUTES.PKS.
const ATTRIBUTES_PKS: u64 = 1 << 30;

impl Module {
    /// MOV to CR0 of the guest on `lp`, from the general-purpose register `source` (0 RAX to 15
    /// R15): the value that CR0 gets. The processor has stored its state before, and still makes
    /// its own checks of the result.
    ///
    /// # Errors
    /// A #GP for values that no processor takes, #VE for what no TD can have; #GP when no guest
    /// runs on `lp`.
    pub fn guest_write_cr0(&self, lp: u32, value: u64, source: u8) -> Result<u64, Exception> {
        let at = self.inside(lp).ok_or(Exception::GeneralProtection)?;
        let (old, cr4) = at.vp.guest.with(|guest| (guest.cpu.cr0, guest.cpu.cr4));
        let paging_unprotected = value & cr0::PG != 0 && value & cr0::PE == 0;
        let cet_writes = cr4 & cr4::CET != 0 && value & cr0::WP == 0;
        if value >> 32 != 0 || value & cr0::NE == 0 || paging_unprotected || cet_writes {
            return Err(Exception::GeneralProtection);
        }
        if value & cr0::PE == 0 || value & (cr0::NW | cr0::CD) != 0 {
            return Err(at.cr_ve(0, source));
        }
        Ok(value & !cr0::IGNORED | old & cr0::IGNORED)
    }

    /// MOV to CR4 of the guest on `lp`: the value that CR4 gets. See
    /// [`guest_write_cr0`](Module::guest_write_cr0).
    ///
    /// # Errors
    /// A #GP for reserved bits and for features that the TD does not have, #VE for MCE, VMXE, SMXE.
    pub fn guest_write_cr4(&self, lp: u32, value: u64, source: u8) -> Result<u64, Exception> {
        let at = self.inside(lp).ok_or(Exception::GeneralProtection)?;
        let xfam = at.td.xfam.load();
        let missing = |bits: u64| xfam & bits != bits;
        let not_allowed = cr4::RESERVED
            | cr4::KEY_LOCKER
            | if missing(XFAM_PK) { cr4::PKE } else { 0 }
            | if missing(XFAM_CET) { cr4::CET } else { 0 }
            | if missing(XFAM_UINTR) { cr4::UINTR } else { 0 }
            | if at.td.attributes.load() & ATTRIBUTES_PKS == 0 {
                cr4::PKS
            } else {
                0
            };
        let cr0 = at.vp.guest.with(|guest| guest.cpu.cr0);
        let cet_writes = value & cr4::CET != 0 && cr0 & cr0::WP == 0;
        if value & not_allowed != 0 || cet_writes {
            return Err(Exception::GeneralProtection);
        }
        if value & cr4::MCE == 0 || value & (cr4::VMXE | cr4::SMXE) != 0 {
            return Err(at.cr_ve(4, source));
        }
        Ok(value)
    }

    /// XSETBV of the guest on `lp`.
    ///
    /// # Errors
    /// #GP for another register than XCR0, for components that processor or TD do not have, and for
    /// combinations that do not exist.
    pub fn guest_xsetbv(&self, lp: u32, index: u32, value: u64) -> Result<(), Exception> {
        let at = self.inside(lp).ok_or(Exception::GeneralProtection)?;
        let supported = self.platform.xcr0_supported & at.td.xfam.load();
        let all_or_none = |bits: u64| value & bits == 0 || value & bits == bits;
        let consistent = value & xcr0::X87 != 0
            && (value & xcr0::AVX == 0 || value & xcr0::SSE != 0)
            && (value & xcr0::AVX512 == 0 || value & xcr0::AVX != 0)
            && all_or_none(xcr0::AVX512)
            && all_or_none(xcr0::AMX);
        if index != 0 || value & !supported != 0 || !consistent {
            return Err(Exception::GeneralProtection);
        }
        Ok(())
    }
}

impl Inside<'_> {
    /// #VE for MOV to a control register from a general-purpose register.
    fn cr_ve(&self, control: u64, source: u8) -> Exception {
        let info = VeInfo {
            reason: CR_ACCESS,
            qual: control | u64::from(source) << 8,
            instruction_length: MOV_CR_LENGTH,
            ..VeInfo::default()
        };
        self.vp.guest.with(|guest| guest.raise_ve(info))
    }
}
