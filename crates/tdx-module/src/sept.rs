//! The secure EPT: tables in the TD's own pages, one 64-bit entry each.
//!
//! # Locking
//! A leaf that shares the TDR holds the tree shared to walk, exclusive to block or to remove tables,
//! and the entry's own lock bit to change it. A leaf that holds the TDR alone (PAGE.ADD, MR.EXTEND)
//! needs neither, since everybody else holds the TDR shared. The guest walks without the tree lock.
//! Source: TDX module 1.5, `sept_manager.c`.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use seamlock_sync::{Action, Name, hooked};
use seamlock_tdx_abi::addr::{Gpa, Hpa};
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::sept::{SeptEntry, SeptInfo, SeptState};

use crate::Module;
use crate::locks::SEPT_ENTRY;
use crate::td::{SEPT_ROOT_PAGE, Td};

/// Where a walk ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk<'m> {
    /// The entry in its table.
    pub(crate) slot: &'m AtomicU64,
    /// The entry as the walk read it.
    pub(crate) entry: SeptEntry,
    /// The entry's level: 0 maps 4 KiB.
    pub(crate) level: u8,
    /// The entry's name.
    pub(crate) name: Name,
}

impl Walk<'_> {
    /// Reads the entry again.
    pub(crate) fn reload(&self) -> SeptEntry {
        SeptEntry::from_bits_retain(self.slot.load(SeqCst))
    }

    /// Reports the entry in RCX and RDX, as leaves with extended error information do.
    pub(crate) fn report(&self, regs: &mut Regs) {
        report(self.entry, self.level, regs);
    }

    /// Replaces the entry; lock bits are the caller's to keep in `entry`.
    pub(crate) fn store(&self, entry: SeptEntry) {
        self.slot.store(entry.bits(), SeqCst);
    }
}

/// Reports an entry in RCX and RDX.
pub(crate) fn report(entry: SeptEntry, level: u8, regs: &mut Regs) {
    let state = entry.state().rdx_state().unwrap_or(0);
    regs.rcx = entry.arch_bits();
    regs.rdx = SeptInfo {
        level,
        state,
        vm: 0,
    }
    .to_rdx();
}

/// An entry that maps the page at `hpa` for reading, writing and executing, or keeps it pending.
pub(crate) fn leaf_entry(hpa: Hpa, state: SeptState) -> SeptEntry {
    let fixed = SeptEntry::MT_WB | SeptEntry::SUPPRESS_VE;
    let rwx = if state == SeptState::MAPPED {
        SeptEntry::RWX
    } else {
        SeptEntry::empty()
    };
    let bits = (fixed | rwx).bits() | state.to_bits() | hpa.0;
    SeptEntry::from_bits_retain(bits)
}

/// An entry that points to the table at `hpa`.
pub(crate) fn table_entry(hpa: Hpa) -> SeptEntry {
    let bits = SeptEntry::RWX.bits() | SeptState::NL_MAPPED.to_bits() | hpa.0;
    SeptEntry::from_bits_retain(bits)
}

/// The name of the entry that maps `gpa` at `level`.
#[inline]
pub(crate) fn entry_name(td: &Td, gpa: Gpa, level: u8) -> Name {
    let base = gpa.0 >> (12 + 9 * level) << (12 + 9 * level);
    SEPT_ENTRY.of(td.tdr.0, base | u64::from(level))
}

/// Who orders the walk against changes of the entries above the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ordered {
    /// The caller holds the TDR alone: nobody changes an entry.
    ByTdr,
    /// The caller shares the tree: entries on the way may change, so the loads are watched.
    No,
}

impl Module {
    /// Walks the L1 secure EPT of `td` towards the entry that maps `gpa` at `level`; ends earlier at an
    /// entry that is a leaf or not present.
    #[inline]
    pub(crate) fn walk(&self, td: &Td, gpa: Gpa, level: u8, ordered: Ordered) -> Option<Walk<'_>> {
        let levels = td.ept_levels.load() as u8;
        self.walk_from(
            td,
            td.tdcx(SEPT_ROOT_PAGE),
            levels.checked_sub(1)?,
            gpa,
            level,
            ordered,
        )
    }

    /// Walks a secure EPT from the table at `root`, whose entries are of level `top`.
    pub(crate) fn walk_from(
        &self,
        td: &Td,
        root: Hpa,
        top: u8,
        gpa: Gpa,
        level: u8,
        ordered: Ordered,
    ) -> Option<Walk<'_>> {
        let mut table = root;
        let mut at = top;
        loop {
            let index = (gpa.0 >> (12 + 9 * at)) as usize % 512;
            let slot = &self.memory.frame_mut(table)?.words()[index];
            let name = entry_name(td, gpa, at);
            if ordered == Ordered::No && hooked() {
                seamlock_sync::announce(Action::Load, name, 0);
            }
            let entry = SeptEntry::from_bits_retain(slot.load(SeqCst));
            let present = entry.intersects(SeptEntry::RWX);
            if at <= level || !present || entry.contains(SeptEntry::LEAF) {
                return Some(Walk {
                    slot,
                    entry,
                    level: at,
                    name,
                });
            }
            table = entry.hpa();
            at -= 1;
        }
    }
}

/// The page that a leaf entry of `level` maps for `gpa`.
#[inline]
pub(crate) fn leaf_to_hpa(entry: SeptEntry, gpa: Gpa, level: u8) -> Hpa {
    let inside = (1u64 << (12 + 9 * u32::from(level))) - 1;
    Hpa(entry.hpa().0 & !inside | gpa.0 & inside)
}
