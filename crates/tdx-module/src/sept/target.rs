//! The entry that a leaf works on while it shares the TDR: held with everything above it.

use std::ops::RangeInclusive;

use seamlock_sync::Mode;
use seamlock_tdx_abi::addr::{Gpa, Hpa};
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::sept::SeptEntry;
use seamlock_tdx_abi::status::TdxStatus;

use super::{Ordered, Walk};
use crate::Module;
use crate::call::{Call, Done};
use crate::locks::{EntryGuard, HpGuard, SEPT_TREE, SharexGuard};
use crate::operand::{TdrGuard, check_mapping, check_private_gpa, hold_op_state};
use crate::pamt::{ImplicitPage, PageSize};
use crate::tables::sept_state_allows;
use crate::td::Td;

/// A guest page as a leaf names it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named {
    /// GPA and level, as in RCX.
    pub(crate) mapping: u64,
    /// The TDR's address.
    pub(crate) tdr: u64,
}

impl Named {
    /// The page that RCX and RDX name.
    pub(crate) fn of(operands: &Regs) -> Named {
        Named {
            mapping: operands.rcx,
            tdr: operands.rdx,
        }
    }
}

/// One secure-EPT entry, locked.
#[derive(Debug)]
pub(crate) struct LockedEntry<'m> {
    walk: Walk<'m>,
    _lock: EntryGuard<'m>,
}

impl<'m> LockedEntry<'m> {
    /// One attempt to lock the entry that a walk found, which is then read again.
    pub(crate) fn try_lock(mut walk: Walk<'m>) -> Option<LockedEntry<'m>> {
        let _lock = EntryGuard::try_host(walk.slot, walk.name)?;
        walk.entry = walk.reload();
        Some(LockedEntry { walk, _lock })
    }

    /// The entry as it was when it was locked, or as it was stored since; its own lock bits left out.
    pub(crate) fn value(&self) -> SeptEntry {
        self.walk.entry - SeptEntry::TDEL - SeptEntry::HP
    }

    /// Replaces the entry, which stays locked.
    fn store(&mut self, entry: SeptEntry) {
        self.walk.entry = entry | SeptEntry::TDEL;
        self.walk.store_watched(self.walk.entry);
    }

    /// Reports the entry in RCX and RDX.
    pub(crate) fn report(&self, call: &mut Call<'_, '_>) {
        self.walk.report(call.r);
    }
}

/// One secure-EPT entry, locked, with the tree, OP_STATE and the TDR held above it.
#[derive(Debug)]
pub(crate) struct Target<'m> {
    // Dropped in this order.
    pub(crate) entry: LockedEntry<'m>,
    _tree: SharexGuard<'m>,
    _op_state: HpGuard<'m>,
    pub(crate) tdr: TdrGuard<'m>,
    pub(crate) gpa: Gpa,
    pub(crate) level: u8,
}

impl<'m> Target<'m> {
    /// The TD.
    pub(crate) fn td(&self) -> &'m Td {
        self.tdr.td
    }

    /// Checks and takes all that a leaf needs to work on the entry that `named` names: TDR shared,
    /// the TD's state, OP_STATE shared, GPA, tree, the walk, the entry's lock. Levels above the TD's
    /// topmost are refused, whatever `levels` says.
    ///
    /// A walk that ends early and a busy entry are reported in RCX and RDX.
    pub(crate) fn hold(
        call: &mut Call<'m, '_>,
        named: Named,
        levels: RangeInclusive<u8>,
        tree: Mode,
    ) -> Result<Target<'m>, TdxStatus> {
        let tdr = call.m.hold_tdr(named.tdr, Mode::Shared, OperandId::RDX)?;
        let op_state = hold_op_state(tdr.td, call.leaf)?;
        Target::below(call, tdr, op_state, named.mapping, levels, tree)
    }

    /// [`hold`](Target::hold) once the TDR and OP_STATE are held.
    pub(crate) fn below(
        call: &mut Call<'m, '_>,
        tdr: TdrGuard<'m>,
        _op_state: HpGuard<'m>,
        mapping: u64,
        levels: RangeInclusive<u8>,
        tree: Mode,
    ) -> Result<Target<'m>, TdxStatus> {
        let td = tdr.td;
        let highest = (*levels.end()).min(td.top_level());
        let (gpa, level) = check_mapping(mapping, *levels.start()..=highest)?;
        check_private_gpa(td, gpa, OperandId::RCX)?;
        let _tree = SharexGuard::try_take(&td.sept_lock, tree, SEPT_TREE.at(td.tdr.0))
            .ok_or(TdxStatus::OPERAND_BUSY.with(OperandId::SEPT_TREE))?;
        let failed = TdxStatus::EPT_WALK_FAILED.with(OperandId::RCX);
        let walk = call.m.walk(td, gpa, level, Ordered::No).ok_or(failed)?;
        if walk.level != level {
            walk.report(call.r);
            return Err(failed);
        }
        let Some(entry) = LockedEntry::try_lock(walk) else {
            walk.report(call.r);
            return Err(TdxStatus::OPERAND_BUSY.with(OperandId::RCX));
        };
        Ok(Target {
            entry,
            _tree,
            _op_state,
            tdr,
            gpa,
            level,
        })
    }

    /// Replaces the entry, which stays locked.
    pub(crate) fn store(&mut self, entry: SeptEntry) {
        if self.level > 0 {
            self.td().last_table.forget();
        }
        self.entry.store(entry);
    }

    /// Checks that the leaf is allowed on the entry's state.
    pub(crate) fn check_state(&self, call: &mut Call<'_, '_>) -> Done {
        if sept_state_allows(call.leaf, self.entry.value().state()) {
            return Ok(());
        }
        Err(self.fail(call, TdxStatus::EPT_ENTRY_STATE_INCORRECT))
    }

    /// A status about the entry: it is reported in RCX and RDX, and named by RCX.
    pub(crate) fn fail(&self, call: &mut Call<'_, '_>, status: TdxStatus) -> TdxStatus {
        self.entry.report(call);
        status.with(OperandId::RCX)
    }
}

impl Module {
    /// A page that an entry points to, held alone.
    pub(crate) fn hold_implicit(
        &self,
        pa: Hpa,
        size: PageSize,
    ) -> Result<ImplicitPage<'_>, TdxStatus> {
        self.chain(pa)
            .and_then(|chain| chain.hold_implicit(size))
            .ok_or(TdxStatus::OPERAND_BUSY.with(OperandId::RCX))
    }
}
