//! The pages of a guest_memfd, sparse: a file costs what is allocated in it.
//!
//! # Locking
//! `filemap_invalidate_lock` of the inode; the page cache's own locking is Private.

use std::collections::{BTreeMap, BTreeSet};

use seamlock_sync::Private;
use seamlock_tdx_abi::Hpa;

use crate::host::{Host, Owner};

const PER_NODE: u64 = 512;
const NONE: u64 = u64::MAX;

type Node = Box<[u64; PER_NODE as usize]>;

/// The page cache of one guest_memfd.
#[derive(Debug)]
pub struct Folios {
    owner: Owner,
    pages: Private<BTreeMap<u64, Node>>,
    poisoned: Private<BTreeSet<u64>>,
}

impl Folios {
    /// An empty one.
    pub fn new(owner: Owner) -> Folios {
        Folios {
            owner,
            pages: Private::default(),
            poisoned: Private::default(),
        }
    }

    /// `kvm_gmem_get_folio`: the page of an index, allocated now if there is none. None when memory
    /// is exhausted.
    #[inline]
    pub fn get_or_alloc(&self, host: &Host, index: u64) -> Option<Hpa> {
        if let Some(page) = self.get(index) {
            return Some(page);
        }
        let page = host.alloc_page(self.owner)?;
        let kept = self.pages.with(|nodes| {
            let node = nodes
                .entry(index / PER_NODE)
                .or_insert_with(|| Box::new([NONE; PER_NODE as usize]));
            let slot = &mut node[(index % PER_NODE) as usize];
            if *slot == NONE {
                *slot = page.0;
            }
            Hpa(*slot)
        });
        if kept != page {
            // Another thread was faster.
            host.free_page(self.owner, page);
        }
        Some(kept)
    }

    /// The page of an index, if there is one.
    #[inline]
    pub fn get(&self, index: u64) -> Option<Hpa> {
        self.pages.with(|nodes| {
            let page = nodes.get(&(index / PER_NODE))?[(index % PER_NODE) as usize];
            (page != NONE).then_some(Hpa(page))
        })
    }

    /// `truncate_inode_pages_range`: frees the pages of `start..end`.
    pub fn truncate(&self, host: &Host, start: u64, end: u64) {
        let gone = self.pages.with(|nodes| take_range(nodes, start, end));
        for page in gone {
            host.free_page(self.owner, page);
        }
    }

    /// Whether the page had a memory error.
    #[inline]
    pub fn is_poisoned(&self, index: u64) -> bool {
        self.poisoned.with(|poisoned| poisoned.contains(&index))
    }

    /// Marks the page as having a memory error.
    pub fn poison(&self, index: u64) {
        self.poisoned.with(|poisoned| poisoned.insert(index));
    }

    /// Pages allocated.
    pub fn count(&self) -> u64 {
        self.pages.with(|nodes| {
            nodes
                .values()
                .map(|n| n.iter().filter(|p| **p != NONE).count() as u64)
                .sum()
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
