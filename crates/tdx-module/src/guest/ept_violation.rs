//! A guest access that the EPT does not allow: #PF, #VE, or a TD exit.
//!
//! Source: TDX module 1.5, `td_ept_violation.c`; base specification "EPT Violations".

use seamlock_tdx_abi::addr::Gpa;

use crate::Module;
use crate::guest::translate::EEQ_PENDING;
use crate::guest::{Exception, GuestAfter, VeInfo};
use crate::sept::Ordered;
use crate::tables::{SeptTrait, sept_is};
use crate::td_exit::{AsyncExit, EPT_VIOLATION, Inside};

/// Bits of an EPT violation's exit qualification (SDM, "Exit Qualification for EPT Violations").
pub mod qualification {
    /// The access was a read.
    pub const READ: u64 = 1;
    /// The access was a write.
    pub const WRITE: u64 = 1 << 1;
    /// The access was an instruction fetch.
    pub const FETCH: u64 = 1 << 2;
    /// The guest linear address is valid.
    pub const GLA_VALID: u64 = 1 << 7;
    /// The access was to the page that the linear address translates to, not to a page table.
    pub const GLA_TRANSLATED: u64 = 1 << 8;
    /// The access was a shadow-stack access.
    pub const SHADOW_STACK: u64 = 1 << 13;
}

/// Bits of a page fault's error code.
mod pfec {
    pub(super) const PRESENT: u32 = 1;
    pub(super) const WRITE: u32 = 1 << 1;
    pub(super) const USER: u32 = 1 << 2;
    pub(super) const RESERVED: u32 = 1 << 3;
    pub(super) const FETCH: u32 = 1 << 4;
    pub(super) const SHADOW_STACK: u32 = 1 << 6;
}

/// An access that the EPT does not allow, as the processor reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EptViolation {
    /// Guest physical address, all its bits.
    pub gpa: u64,
    /// Guest linear address.
    pub gla: u64,
    /// Exit qualification; see [`qualification`].
    pub qual: u64,
    /// The entry that refused the access has suppress-#VE clear: the processor itself raises #VE as
    /// long as the guest has read the last one. Shared addresses without memory are of this kind.
    pub convertible: bool,
    /// Bytes of the instruction.
    pub instruction_length: u32,
    /// VM-exit instruction information.
    pub instruction_info: u32,
}

impl Module {
    /// Decides about an EPT violation of the guest on `lp`. The processor has stored its state
    /// before. A call when no guest runs there is our caller's bug and answered with #GP.
    pub fn ept_violation(&self, lp: u32, violation: &EptViolation) -> GuestAfter {
        let Some(at) = self.inside(lp) else {
            return GuestAfter::Inject(Exception::GeneralProtection);
        };
        let EptViolation { gpa, qual, .. } = *violation;
        if violation.convertible
            && let Some(exception) = at.convert(violation)
        {
            return GuestAfter::Inject(exception);
        }
        at.note_exit(EPT_VIOLATION, qual, gpa);
        if let Some(exit) = at.dead(EPT_VIOLATION, qual) {
            return GuestAfter::TdExit(at.leave(exit));
        }
        at.check_progress();
        if gpa >> at.td.gpa_width() != 0 && qual & qualification::GLA_VALID != 0 {
            return GuestAfter::Inject(at.reserved_page_fault(violation));
        }
        let mut ext_qual = 0;
        if at.td.is_private_gpa(Gpa(gpa)) {
            let walk = self.walk(at.td, Gpa(gpa), 0, Ordered::No);
            if walk.is_some_and(|walk| sept_is(walk.entry.state(), SeptTrait::Acceptable)) {
                if !at.td.pending_exits() {
                    return GuestAfter::Inject(at.raise_ve(violation));
                }
                ext_qual = EEQ_PENDING;
            }
            at.note_fault(Gpa(gpa));
        }
        GuestAfter::TdExit(at.leave(AsyncExit::ept_violation(Gpa(gpa), qual, ext_qual)))
    }
}

impl Inside<'_> {
    /// The #VE that the processor raises by itself; None while the guest has not read the last one.
    fn convert(&self, violation: &EptViolation) -> Option<Exception> {
        let unread = self.vp.guest.with(|guest| guest.ve_info.valid);
        (!unread).then(|| self.raise_ve(violation))
    }

    fn raise_ve(&self, violation: &EptViolation) -> Exception {
        let info = VeInfo {
            valid: true,
            reason: EPT_VIOLATION,
            qual: violation.qual,
            gla: violation.gla,
            gpa: violation.gpa,
            instruction_length: violation.instruction_length,
            instruction_info: violation.instruction_info,
        };
        self.vp.guest.with(|guest| guest.raise_ve(info))
    }

    /// An address above the TD's width is a reserved bit in a page table.
    fn reserved_page_fault(&self, violation: &EptViolation) -> Exception {
        let user = self.vp.guest.with(|guest| guest.cpu.cpl()) == 3;
        let bit = |set: bool, bit: u32| if set { bit } else { 0 };
        let qual = |mask: u64| violation.qual & mask != 0;
        Exception::PageFault {
            error_code: pfec::PRESENT
                | pfec::RESERVED
                | bit(qual(qualification::WRITE), pfec::WRITE)
                | bit(user, pfec::USER)
                | bit(qual(qualification::FETCH), pfec::FETCH)
                | bit(qual(qualification::SHADOW_STACK), pfec::SHADOW_STACK),
            address: violation.gla,
        }
    }
}
