//! The pages of a guest_memfd, sparse: a file costs what is allocated in it.
//!
//! # Locking
//! `filemap_invalidate_lock` of the inode, which a fault does not take, and inside of it the lock of each
//! folio, but for memory errors. The page cache's own locking is Private; what others can tell of it is
//! announced on one cell.

use std::collections::{BTreeMap, BTreeSet};

use seamlock_sync::{Action, Class, Name, Private, announce, hooked};
use seamlock_tdx_abi::Hpa;

use crate::host::{Host, Owner};

/// A folio's lock (`PG_locked`): a bit in its flags, of which lockdep knows nothing, and so none of the
/// locks of [`CLASSES`](crate::locks::CLASSES). It guards nothing here and is there for a hook only:
/// nobody waits for it, nor hangs in it, where none is installed.
pub static FOLIO_LOCK: Class = Class::new("folio lock");

/// `folio_lock` until it is dropped: `folio_unlock`.
#[derive(Debug)]
#[must_use]
pub struct FolioLock(Name);

impl FolioLock {
    fn take(name: Name) -> FolioLock {
        announce(Action::Lock, name, 0);
        FolioLock(name)
    }
}

impl Drop for FolioLock {
    fn drop(&mut self) {
        announce(Action::Unlock, self.0, 0);
    }
}

const PER_NODE: u64 = 512;
const NONE: u64 = u64::MAX;
const EMPTY: [u64; PER_NODE as usize] = [NONE; PER_NODE as usize];

type Node = Box<[u64; PER_NODE as usize]>;

/// Why a page can't be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoFolio {
    /// Memory is exhausted.
    NoMemory,
    /// The page had a memory error.
    Poisoned,
}

#[derive(Debug, Default)]
struct Cache {
    nodes: BTreeMap<u64, Node>,
    poisoned: BTreeSet<u64>,
    /// Pages that are up to date (`folio_test_uptodate`), where anybody asks.
    prepared: BTreeSet<u64>,
}

impl Cache {
    #[inline]
    fn get(&self, index: u64) -> Option<Hpa> {
        let page = self.nodes.get(&(index / PER_NODE))?[(index % PER_NODE) as usize];
        (page != NONE).then_some(Hpa(page))
    }

    /// The pages that there are from `start` to `end`.
    fn indices(&self, start: u64, end: u64) -> Vec<u64> {
        let nodes = self
            .nodes
            .keys()
            .flat_map(|at| at * PER_NODE..(at + 1) * PER_NODE);
        let there = |index: &u64| (start..end).contains(index) && self.get(*index).is_some();
        nodes.filter(there).collect()
    }

    fn take_range(&mut self, start: u64, end: u64) -> Vec<Hpa> {
        // They are of the page, and the next one is another.
        for marked in [&mut self.prepared, &mut self.poisoned] {
            marked.retain(|index| !(start..end).contains(index));
        }
        take_range(&mut self.nodes, start, end)
    }

    fn insert(&mut self, index: u64, page: Hpa) {
        let node = self
            .nodes
            .entry(index / PER_NODE)
            .or_insert_with(|| Box::new(EMPTY));
        node[(index % PER_NODE) as usize] = page.0;
    }
}

/// The page cache of one guest_memfd.
#[derive(Debug)]
pub struct Folios {
    owner: Owner,
    cell: Name,
    cache: Private<Cache>,
}

impl Folios {
    /// An empty one, whose accesses are announced on `cell`.
    pub fn new(owner: Owner, cell: Name) -> Folios {
        Folios {
            owner,
            cell,
            cache: Private::default(),
        }
    }

    fn lock_name(&self, index: u64) -> Name {
        FOLIO_LOCK.of(self.cell.a, self.cell.b << 40 | index)
    }

    /// `folio_lock` of a page that there is.
    pub fn lock(&self, index: u64) -> Option<FolioLock> {
        announce(Action::Load, self.cell, index);
        let there = self.get(index).is_some();
        there.then(|| FolioLock::take(self.lock_name(index)))
    }

    /// `kvm_gmem_get_folio`, and `folio_unlock`: the page of an index, allocated now if there is none.
    ///
    /// # Errors
    /// When memory is exhausted, or the page had a memory error.
    #[inline]
    pub fn get_or_alloc(&self, host: &Host, index: u64) -> Result<Hpa, NoFolio> {
        let _locked = FolioLock::take(self.lock_name(index));
        announce(Action::Load, self.cell, 0);
        let found = self.cache.with(|cache| {
            let poisoned = !cache.poisoned.is_empty() && cache.poisoned.contains(&index);
            (cache.get(index), poisoned)
        });
        match found {
            (_, true) => Err(NoFolio::Poisoned),
            (Some(page), false) => Ok(page),
            (None, false) => self.alloc(host, index),
        }
    }

    fn alloc(&self, host: &Host, index: u64) -> Result<Hpa, NoFolio> {
        announce(Action::Update, self.cell, index);
        let page = host.alloc_page(self.owner).ok_or(NoFolio::NoMemory)?;
        let kept = self.cache.with(|cache| match cache.get(index) {
            Some(kept) => kept,
            None => {
                cache.insert(index, page);
                page
            }
        });
        if kept != page {
            // Another thread was faster.
            host.free_page(self.owner, page);
        }
        Ok(kept)
    }

    /// The page of an index, if there is one.
    pub fn get(&self, index: u64) -> Option<Hpa> {
        self.cache.with(|cache| cache.get(index))
    }

    /// `truncate_inode_pages_range`: waits for the lock of each page of `start..end`, and frees it.
    pub fn truncate(&self, host: &Host, start: u64, end: u64) {
        if hooked() {
            announce(Action::Load, self.cell, start);
            let there = self.cache.with(|cache| cache.indices(start, end));
            there.into_iter().for_each(|index| drop(self.lock(index)));
        }
        announce(Action::Store, self.cell, start);
        let gone = self.cache.with(|cache| cache.take_range(start, end));
        for page in gone {
            host.free_page(self.owner, page);
        }
    }

    /// `kvm_gmem_mark_prepared`: the page is up to date from now on.
    pub fn mark_prepared(&self, index: u64) {
        if self.is_prepared(index) {
            return;
        }
        announce(Action::Store, self.cell, index);
        self.cache.with(|cache| cache.prepared.insert(index));
    }

    /// Whether the page is up to date.
    pub fn is_prepared(&self, index: u64) -> bool {
        announce(Action::Load, self.cell, index);
        self.cache.with(|cache| cache.prepared.contains(&index))
    }

    /// Marks the page, if there is one, as having a memory error.
    pub fn poison(&self, index: u64) {
        announce(Action::Store, self.cell, index);
        self.cache.with(|cache| {
            if cache.get(index).is_some() {
                cache.poisoned.insert(index);
            }
        });
    }

    /// Pages allocated.
    pub fn count(&self) -> u64 {
        self.cache.with(|cache| {
            let used = |node: &Node| node.iter().filter(|page| **page != NONE).count() as u64;
            cache.nodes.values().map(used).sum()
        })
    }

    /// The inode is gone: all pages return, and so does their owner's memory.
    pub fn evict(&self, host: &Host) {
        self.truncate(host, 0, NONE);
        host.pages().close(self.owner);
    }
}

fn take_range(nodes: &mut BTreeMap<u64, Node>, start: u64, end: u64) -> Vec<Hpa> {
    let mut gone = Vec::new();
    if start >= end {
        return gone;
    }
    for (at, node) in nodes.range_mut(start / PER_NODE..=(end - 1) / PER_NODE) {
        for (i, page) in node.iter_mut().enumerate() {
            let index = at * PER_NODE + i as u64;
            if *page != NONE && (start..end).contains(&index) {
                gone.push(Hpa(*page));
                *page = NONE;
            }
        }
    }
    let empty = |node: &Node| node.iter().all(|page| *page == NONE);
    let span = start / PER_NODE..=(end - 1) / PER_NODE;
    nodes.retain(|at, node| !span.contains(at) || !empty(node));
    gone
}
