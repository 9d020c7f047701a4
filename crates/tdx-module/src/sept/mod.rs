//! The secure EPT: tables in the TD's own pages, one 64-bit entry each.
//!
//! # Locking
//! A leaf that shares the TDR holds the tree shared to walk, exclusive to block or to remove tables,
//! and the entry's own lock bit to change it. A leaf that holds the TDR alone (PAGE.ADD, MR.EXTEND)
//! needs neither, since everybody else holds the TDR shared. The guest walks without the tree lock.
//! Source: TDX module 1.5, `sept_manager.c`.

mod entry;
pub(crate) mod l2;
mod merge;
mod target;
mod track;

pub(crate) use entry::{
    blocked, is_aliased, leaf_entry, leaf_to_hpa, table_entry, unblocked, with_alias, with_hpa,
    without_accept_counter,
};
pub(crate) use merge::{LockedTable, write_parts};
pub(crate) use target::{LockedEntry, Named, Target};

use std::sync::atomic::{AtomicU64, Ordering::Release, Ordering::SeqCst};

use seamlock_sync::{Action, Name, Plain, hooked};
use seamlock_tdx_abi::addr::{Gpa, Hpa};
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::sept::{SeptEntry, SeptState};

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
    /// The table that the entry is in.
    pub(crate) table: Hpa,
}

/// An entry that nobody else can change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot<'m> {
    word: &'m AtomicU64,
    /// The entry's level: 0 maps 4 KiB.
    pub(crate) level: u8,
}

impl Slot<'_> {
    /// The entry.
    #[inline]
    pub(crate) fn load(&self) -> SeptEntry {
        SeptEntry::from_bits_retain(self.word.load(SeqCst))
    }

    /// Replaces the entry. No hook is told: whoever may read it orders itself by the TDR.
    #[inline]
    pub(crate) fn store(&self, entry: SeptEntry) {
        self.word.store(entry.bits(), Release);
    }

    /// Reports the entry in RCX and RDX, as leaves with extended error information do.
    pub(crate) fn report(&self, regs: &mut Regs) {
        entry::report(self.load(), self.level, regs);
    }
}

/// The table of 4 KiB entries where the last walk of a caller that held the TDR alone ended.
///
/// # Locking
/// Written and read under TDR exclusive; forgotten under TDR shared, by whoever changes a table entry.
#[derive(Debug, Default)]
pub(crate) struct LastTable {
    /// The GPA in units of 2 MiB, plus one; zero when there is no table.
    region: Plain<u64>,
    table: Plain<u64>,
}

impl LastTable {
    #[inline]
    fn of(&self, gpa: Gpa) -> Option<Hpa> {
        (self.region.load() == (gpa.0 >> 21) + 1).then(|| Hpa(self.table.load()))
    }

    fn remember(&self, gpa: Gpa, table: Hpa) {
        self.region.store((gpa.0 >> 21) + 1);
        self.table.store(table.0);
    }

    /// A table was blocked, removed or put elsewhere.
    pub(crate) fn forget(&self) {
        self.region.store(0);
    }
}

impl Walk<'_> {
    /// Reads the entry again.
    pub(crate) fn reload(&self) -> SeptEntry {
        SeptEntry::from_bits_retain(self.slot.load(SeqCst))
    }

    /// Reports the entry in RCX and RDX, as leaves with extended error information do.
    pub(crate) fn report(&self, regs: &mut Regs) {
        entry::report(self.entry, self.level, regs);
    }

    /// Replaces the entry where others may read it; lock bits are the caller's to keep in `entry`.
    pub(crate) fn store_watched(&self, entry: SeptEntry) {
        if hooked() {
            seamlock_sync::announce(Action::Store, self.name, entry.bits());
        }
        self.slot.store(entry.bits(), SeqCst);
    }
}

/// The name of the entry that maps `gpa` at `level` for L2 VM `vm`, or for the TD itself (0).
#[inline]
pub(crate) fn entry_name(td: &Td, gpa: Gpa, level: u8, vm: u8) -> Name {
    let base = gpa.0 >> (12 + 9 * level) << (12 + 9 * level);
    SEPT_ENTRY.of(td.tdr.0, base | u64::from(level) | u64::from(vm) << 4)
}

/// One tree of tables.
#[derive(Clone, Copy, Debug)]
struct Tree {
    /// The table at the top.
    root: Hpa,
    /// The level of its entries.
    top: u8,
    /// The L2 VM, or 0 for the TD itself.
    vm: u8,
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
        let tree = Tree {
            root: td.tdcx(SEPT_ROOT_PAGE),
            top: td.top_level(),
            vm: 0,
        };
        self.walk_tree(td, tree, gpa, level, ordered)
    }

    /// Walks to the entry that maps the 4 KiB page at `gpa`, or as far as there are tables. The caller
    /// holds the TDR alone: nobody changes an entry.
    ///
    /// Pages are mostly added in order, so the last table is remembered until a table goes.
    #[inline(always)]
    pub(crate) fn walk_alone(&self, td: &Td, gpa: Gpa) -> Option<Slot<'_>> {
        match td.last_table.of(gpa) {
            Some(table) => self.memory.frame(table).map(|frame| Slot {
                word: &frame.words()[(gpa.0 >> 12) as usize % 512],
                level: 0,
            }),
            None => self.walk_and_remember(td, gpa),
        }
    }

    #[cold]
    fn walk_and_remember(&self, td: &Td, gpa: Gpa) -> Option<Slot<'_>> {
        let walk = self.walk(td, gpa, 0, Ordered::ByTdr)?;
        if walk.level == 0 {
            td.last_table.remember(gpa, walk.table);
        }
        Some(Slot {
            word: walk.slot,
            level: walk.level,
        })
    }

    /// The entry for `gpa` at `level` however it is reached, through blocked tables too; None where
    /// there is no table. For whoever looks at lock words from outside.
    pub(crate) fn find_entry(&self, td: &Td, gpa: Gpa, level: u8) -> Option<Walk<'_>> {
        let (mut table, mut at) = (td.tdcx(SEPT_ROOT_PAGE), td.top_level());
        loop {
            let index = (gpa.0 >> (12 + 9 * at)) as usize % 512;
            let slot = &self.memory.frame_mut(table)?.words()[index];
            let entry = SeptEntry::from_bits_retain(slot.load(SeqCst));
            if at == level {
                let name = entry_name(td, gpa, at, 0);
                return Some(Walk {
                    slot,
                    entry,
                    level,
                    name,
                    table,
                });
            }
            let state = entry.state();
            if state != SeptState::NL_MAPPED && state != SeptState::NL_BLOCKED {
                return None;
            }
            table = entry.hpa();
            at = at.checked_sub(1)?;
        }
    }

    fn walk_tree(
        &self,
        td: &Td,
        tree: Tree,
        gpa: Gpa,
        level: u8,
        ordered: Ordered,
    ) -> Option<Walk<'_>> {
        let mut table = tree.root;
        let mut at = tree.top;
        loop {
            let index = (gpa.0 >> (12 + 9 * at)) as usize % 512;
            let slot = &self.memory.frame_mut(table)?.words()[index];
            let name = entry_name(td, gpa, at, tree.vm);
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
                    table,
                });
            }
            table = entry.hpa();
            at -= 1;
        }
    }
}
