//! Mirror page tables and their entries.

use std::sync::OnceLock;

use seamlock_sync::Shared;
use seamlock_tdx_abi::Hpa;

use crate::host::Owner;
use crate::locks::cells;

/// The value of an entry that somebody is working on (`FROZEN_SPTE`).
pub const FROZEN: u64 = 0x5a0;
const PRESENT: u64 = 1;
const ENTRIES: usize = 512;

/// What an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spte {
    /// Nothing is mapped.
    None,
    /// Another thread is changing the entry.
    Frozen,
    /// A page, or a table, at this address.
    Present(Hpa),
}

impl Spte {
    /// The entry of a value.
    #[inline]
    pub fn of(value: u64) -> Spte {
        match value {
            0 => Spte::None,
            FROZEN => Spte::Frozen,
            value => Spte::Present(Hpa(value & !0xfff)),
        }
    }

    /// The value of an entry for the page or table at `page`.
    #[inline]
    pub fn present(page: Hpa) -> u64 {
        page.0 | PRESENT
    }
}

/// A table below an entry, and the secure-EPT page that the TDX module keeps for it.
#[derive(Debug)]
pub struct Child {
    /// The table.
    pub table: Table,
    /// `sp->external_spt`.
    pub sept_page: Hpa,
    /// Whose page that is.
    pub owner: Owner,
}

/// One page table of the mirror.
#[derive(Debug)]
pub struct Table {
    vm: u64,
    level: u8,
    base_gfn: u64,
    entries: Box<[Shared<u64>]>,
    children: Box<[OnceLock<Box<Child>>]>,
}

impl Table {
    /// An empty table whose entries are of `level` (1 maps 4 KiB pages), from frame `base_gfn` on.
    pub fn new(vm: u64, level: u8, base_gfn: u64) -> Table {
        // Level 1 to 5 in the low bits; the frame above them.
        let name = |i: usize| {
            let gfn = base_gfn + ((i as u64) << Table::shift(level));
            cells::MIRROR_SPTE.of(vm, gfn << 12 | u64::from(level))
        };
        let entries = (0..ENTRIES).map(|i| Shared::new(name(i), 0)).collect();
        let children = if level > 1 { ENTRIES } else { 0 };
        let children = (0..children).map(|_| OnceLock::new()).collect();
        Table {
            vm,
            level,
            base_gfn,
            entries,
            children,
        }
    }

    /// Bits of a frame number below an entry of this level.
    pub const fn shift(level: u8) -> u32 {
        9 * (level as u32 - 1)
    }

    /// Level of the entries; 1 maps 4 KiB pages.
    pub fn level(&self) -> u8 {
        self.level
    }

    /// The VM's number.
    pub fn vm(&self) -> u64 {
        self.vm
    }

    /// Index of the entry for a frame.
    #[inline]
    pub fn index(&self, gfn: u64) -> usize {
        (gfn >> Table::shift(self.level)) as usize % ENTRIES
    }

    /// An entry.
    #[inline]
    pub fn entry(&self, index: usize) -> &Shared<u64> {
        &self.entries[index]
    }

    /// First frame that an entry maps.
    pub fn gfn_of(&self, index: usize) -> u64 {
        self.base_gfn + ((index as u64) << Table::shift(self.level))
    }

    /// The table below an entry.
    #[inline]
    pub fn child(&self, index: usize) -> Option<&Table> {
        self.children.get(index)?.get().map(|child| &child.table)
    }

    /// Puts a table below an entry that the caller has frozen.
    pub(super) fn set_child(&self, index: usize, child: Child) {
        // Frozen by the caller, so nobody else sets it; tables stay until the VM ends.
        let _ = self.children[index].set(Box::new(child));
    }

    /// Visits the 4 KiB entries of `start..end` that have a table, ascending.
    pub fn for_each_leaf<'t>(
        &'t self,
        start: u64,
        end: u64,
        visit: &mut dyn FnMut(u64, &'t Shared<u64>),
    ) {
        let span = 1u64 << Table::shift(self.level);
        let first = start.saturating_sub(self.base_gfn) / span;
        for i in (first as usize).min(ENTRIES)..ENTRIES {
            let gfn = self.gfn_of(i);
            if gfn >= end {
                break;
            }
            if self.level == 1 {
                visit(gfn, &self.entries[i]);
            } else if let Some(child) = self.child(i) {
                child.for_each_leaf(start, end, visit);
            }
        }
    }

    /// Takes all tables below apart, lowest first, for their secure-EPT pages.
    pub(crate) fn sept_pages(&self) -> Vec<(Owner, Hpa)> {
        let mut pages = Vec::new();
        self.collect(&mut pages);
        pages
    }

    fn collect(&self, pages: &mut Vec<(Owner, Hpa)>) {
        for child in self.children.iter().filter_map(OnceLock::get) {
            child.table.collect(pages);
            pages.push((child.owner, child.sept_page));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_found_by_frame_and_level() {
        let table = Table::new(1, 2, 0x4_0000);
        assert_eq!(table.index(0x4_0000 + 512 * 3 + 7), 3);
        assert_eq!(table.gfn_of(3), 0x4_0000 + 1536);
        assert_eq!(
            Spte::of(Spte::present(Hpa(0x1234_5000))),
            Spte::Present(Hpa(0x1234_5000))
        );
        assert_eq!((Spte::of(0), Spte::of(FROZEN)), (Spte::None, Spte::Frozen));
    }

    #[test]
    fn a_walk_over_a_huge_range_visits_only_tables_that_exist() {
        let root = Table::new(1, 2, 0);
        let owner = Owner::vm(1);
        let table = Table::new(1, 1, 512 * 5);
        root.set_child(
            5,
            Child {
                table,
                sept_page: Hpa(0x1000),
                owner,
            },
        );
        let mut seen = Vec::new();
        root.for_each_leaf(512 * 5 + 500, u64::MAX, &mut |gfn, _| seen.push(gfn));
        assert_eq!(seen, (3060..3072).collect::<Vec<_>>());
        assert_eq!(root.sept_pages(), [(owner, Hpa(0x1000))]);
    }
}
