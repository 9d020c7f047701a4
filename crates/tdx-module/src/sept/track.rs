//! TLB tracking: whether a vCPU may still use a translation that was blocked.
//!
//! Source: TDX module 1.5, `is_tlb_tracked`; specification "TLB tracking".

use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::status::TdxStatus;

use super::Target;
use crate::call::{Call, Done};
use crate::pamt::PamtEntry;
use crate::tables::{SeptTrait, sept_is, tracking_required};
use crate::td::Td;

/// Bit 63 of BEPOCH: the rest is an epoch of a migration, which TLB tracking knows nothing of.
const MIGRATION_EPOCH: u64 = 1 << 63;

impl Td {
    /// Whether no vCPU can have a translation any more that was blocked in `bepoch`: two epochs have
    /// begun since, or one has and no vCPU that entered before it is still in the guest.
    pub(crate) fn is_tracked(&self, bepoch: u64) -> bool {
        if bepoch & MIGRATION_EPOCH != 0 {
            return false;
        }
        let previous = self.td_epoch.load().wrapping_sub(1);
        bepoch < previous || bepoch == previous && self.refcount[(bepoch & 1) as usize].load() == 0
    }
}

impl Target<'_> {
    /// Whether the entry's state and the TD's ask for TLB tracking before the mapping changes.
    pub(crate) fn tracking_required(&self) -> bool {
        sept_is(self.entry.value().state(), SeptTrait::Tracked)
            && tracking_required(self.td().op_state())
    }

    /// Checks that the mapping can be changed now: where tracking is required, it is blocked and no
    /// vCPU uses it any more. `page` is the metadata of what the entry points to.
    pub(crate) fn check_tracked(&self, call: &mut Call<'_, '_>, page: &PamtEntry) -> Done {
        if !self.tracking_required() {
            return Ok(());
        }
        if !sept_is(self.entry.value().state(), SeptTrait::Blocked) {
            return Err(self.fail(call, TdxStatus::GPA_RANGE_NOT_BLOCKED));
        }
        if !self.td().is_tracked(page.bepoch()) {
            return Err(TdxStatus::TLB_TRACKING_NOT_DONE.with(OperandId::RCX));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use seamlock_tdx_abi::addr::Hpa;

    #[test]
    fn a_block_is_tracked_when_nobody_is_left_from_its_epoch() {
        let td = Td::new(Hpa(0));
        td.td_epoch.poke(5);
        assert!(td.is_tracked(3));
        assert!(td.is_tracked(4));
        assert!(!td.is_tracked(5));
        td.refcount[0].poke(1);
        assert!(!td.is_tracked(4));
        assert!(td.is_tracked(3));
        assert!(!td.is_tracked(MIGRATION_EPOCH));
    }
}
