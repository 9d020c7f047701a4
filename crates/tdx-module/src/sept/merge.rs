//! 512 entries that become one, or one that becomes 512.
//!
//! Source: TDX module 1.5, `tdh_mem_page_promote.c`, `tdh_mem_page_demote.c`.

use std::sync::atomic::Ordering::SeqCst;

use seamlock_tdx_abi::addr::{Gpa, Hpa, PAGE_SIZE};
use seamlock_tdx_abi::sept::SeptEntry;
use seamlock_tdx_abi::status::TdxStatus;

use super::{Target, entry_name, leaf_to_hpa, without_accept_counter};
use crate::Module;
use crate::locks::EntryGuard;
use crate::memory::WORDS;
use crate::tables::{SeptTrait, sept_is};

/// Bytes that an entry of `level` maps.
pub(super) const fn bytes(level: u8) -> u64 {
    PAGE_SIZE << (9 * level as u32)
}

/// All entries of a table, locked, which map one contiguous range of one kind.
#[derive(Debug)]
pub(crate) struct LockedTable<'m> {
    locks: Vec<EntryGuard<'m>>,
    first: SeptEntry,
}

impl<'m> LockedTable<'m> {
    /// Locks the entries of the table that the target points to, one after the other, and checks that
    /// they can be merged. What is locked when a check fails is given back.
    ///
    /// # Errors
    /// OPERAND_BUSY or EPT_INVALID_PROMOTE_CONDITIONS, without operand.
    pub(crate) fn lock(
        m: &'m Module,
        target: &Target<'m>,
        table: Hpa,
    ) -> Result<LockedTable<'m>, TdxStatus> {
        let invalid = TdxStatus::EPT_INVALID_PROMOTE_CONDITIONS;
        let level = target.level - 1;
        let words = m.memory.frame_mut(table).ok_or(invalid)?.words();
        let mut locked = LockedTable {
            locks: Vec::with_capacity(WORDS),
            first: SeptEntry::empty(),
        };
        let mut expected = 0;
        for (i, slot) in (0..).zip(words) {
            let gpa = Gpa(target.gpa.0 + i * bytes(level));
            let name = entry_name(target.td(), gpa, level, 0);
            let lock = EntryGuard::try_host(slot, name).ok_or(TdxStatus::OPERAND_BUSY)?;
            locked.locks.push(lock);
            let entry = SeptEntry::from_bits_retain(slot.load(SeqCst));
            let entry = without_accept_counter(entry, level);
            if i == 0 {
                let aligned = leaf_to_hpa(entry, Gpa(0), level).0 & (bytes(target.level) - 1) == 0;
                if !aligned || !sept_is(entry.state(), SeptTrait::MappedOrPending) {
                    return Err(invalid);
                }
                locked.first = entry;
                expected = entry.bits();
            } else {
                expected += bytes(level);
                if entry.bits() != expected {
                    return Err(invalid);
                }
            }
        }
        Ok(locked)
    }

    /// The first entry, without its lock.
    pub(crate) fn first(&self) -> SeptEntry {
        self.first - SeptEntry::TDEL
    }

    /// Leaves the entries as they are, locked: their table is no longer one.
    pub(crate) fn leave_locked(self) {
        self.locks.into_iter().for_each(EntryGuard::forget);
    }
}

/// Fills a new table with the entries of the parts of the page at `pa`, which `whole` maps at `level`.
pub(crate) fn write_parts(m: &Module, table: Hpa, whole: SeptEntry, pa: Hpa, level: u8) {
    let Some(frame) = m.memory.frame_mut(table) else {
        return;
    };
    for (i, word) in (0..).zip(frame.words()) {
        let part = super::with_hpa(whole, Hpa(pa.0 + i * bytes(level - 1)));
        word.store(part.bits(), SeqCst);
    }
}
