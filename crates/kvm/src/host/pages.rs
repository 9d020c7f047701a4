//! The page allocator: which physical page is free, and whose the others are.
//!
//! Every owner takes its pages from chunks of its own. So the address of a page depends on what its
//! owner did and not on how other threads were scheduled, and a lock that is named after the address
//! has the same name in every interleaving of the owners.
//!
//! # Locking
//! Private: the kernel's allocator has locks of its own that nothing here depends on.

use std::collections::{BTreeMap, BTreeSet};

use seamlock_sync::Private;
use seamlock_tdx_abi::{Hpa, PAGE_SIZE};
use seamlock_tdx_module::platform::Range;

/// Pages in the unit that an owner is given, 256 KiB.
const CHUNK_PAGES: u64 = 64;

/// Whose a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// The VM's number; 0 is the host itself.
    pub vm: u64,
    /// The part of the VM: itself, a vCPU or a guest_memfd.
    pub part: u64,
}

impl Owner {
    /// The host's page cache.
    pub const PAGE_CACHE: Owner = Owner {
        vm: 0,
        part: u64::MAX,
    };

    /// The VM itself.
    pub const fn vm(vm: u64) -> Owner {
        Owner { vm, part: 0 }
    }

    /// The vCPU of this index in order of creation.
    pub const fn vcpu(vm: u64, index: u64) -> Owner {
        Owner {
            vm,
            part: 1 + index,
        }
    }

    /// The guest_memfd of this number.
    pub const fn gmem(vm: u64, number: u64) -> Owner {
        Owner {
            vm,
            part: (1 << 32) + number,
        }
    }
}

#[derive(Debug, Default)]
struct Stream {
    free: Vec<u64>,
    fresh: std::ops::Range<u64>,
    chunks: BTreeSet<u64>,
    out: u64,
}

#[derive(Debug)]
struct Inner {
    /// Ranges of page frames that nobody was ever given, ascending.
    untouched: Vec<std::ops::Range<u64>>,
    /// Chunks that came back whole.
    returned: BTreeSet<u64>,
    streams: BTreeMap<Owner, Stream>,
    out: u64,
}

/// The allocator.
#[derive(Debug)]
pub struct Pages {
    inner: Private<Inner>,
}

impl Pages {
    /// An allocator over these ranges of physical memory; partial pages and chunks are left out.
    pub fn over(ranges: &[Range]) -> Pages {
        let chunk = CHUNK_PAGES * PAGE_SIZE;
        let whole = |r: &Range| {
            let first = r.base.div_ceil(chunk) * CHUNK_PAGES;
            first..(r.end() / chunk * CHUNK_PAGES).max(first)
        };
        let untouched = ranges.iter().map(whole).filter(|r| !r.is_empty()).collect();
        let inner = Inner {
            untouched,
            returned: BTreeSet::new(),
            streams: BTreeMap::new(),
            out: 0,
        };
        Pages {
            inner: Private::new(inner),
        }
    }

    /// A page for `owner`; None when memory is exhausted.
    #[inline]
    pub fn alloc(&self, owner: Owner) -> Option<Hpa> {
        self.inner
            .with(|inner| inner.alloc(owner))
            .map(|pfn| Hpa(pfn * PAGE_SIZE))
    }

    /// Takes back a page that `owner` was given.
    #[inline]
    pub fn free(&self, owner: Owner, page: Hpa) {
        self.inner.with(|inner| {
            let Some(stream) = inner.streams.get_mut(&owner) else {
                return;
            };
            stream.free.push(page.0 / PAGE_SIZE);
            stream.out -= 1;
            inner.out -= 1;
        });
    }

    /// `owner` will take no more pages: its chunks return if all of its pages have. Returns the
    /// pages that have not, which stay lost.
    pub fn close(&self, owner: Owner) -> u64 {
        self.inner.with(|inner| {
            let Some(stream) = inner.streams.remove(&owner) else {
                return 0;
            };
            if stream.out == 0 {
                inner.returned.extend(stream.chunks);
            }
            stream.out
        })
    }

    /// Pages that somebody has now, lost ones included.
    pub fn in_use(&self) -> u64 {
        self.inner.with(|inner| inner.out)
    }

    /// Pages that the parts of a VM have now.
    pub fn held_by_vm(&self, vm: u64) -> u64 {
        let parts = Owner { vm, part: 0 }..=Owner { vm, part: u64::MAX };
        self.inner
            .with(|inner| inner.streams.range(parts).map(|(_, s)| s.out).sum())
    }
}

impl Inner {
    fn alloc(&mut self, owner: Owner) -> Option<u64> {
        let stream = self.streams.entry(owner).or_default();
        let mut pfn = stream.free.pop().or_else(|| stream.fresh.next());
        if pfn.is_none() {
            let chunk = take_chunk(&mut self.returned, &mut self.untouched)?;
            stream.chunks.insert(chunk);
            stream.fresh = chunk..chunk + CHUNK_PAGES;
            pfn = stream.fresh.next();
        }
        stream.out += 1;
        self.out += 1;
        pfn
    }
}

fn take_chunk(returned: &mut BTreeSet<u64>, untouched: &mut [std::ops::Range<u64>]) -> Option<u64> {
    if let Some(chunk) = returned.pop_first() {
        return Some(chunk);
    }
    let range = untouched.iter_mut().find(|r| !r.is_empty())?;
    let chunk = range.start;
    range.start += CHUNK_PAGES;
    Some(chunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Owner = Owner::vm(1);
    const B: Owner = Owner::vcpu(1, 0);

    fn pages() -> Pages {
        Pages::over(&[Range {
            base: 0x10_0000,
            size: 0x8_0000,
        }])
    }

    #[test]
    fn the_pages_of_an_owner_do_not_depend_on_what_others_take_in_between() {
        let (alone, mixed) = (pages(), pages());
        let first = alone.alloc(A);
        let second = alone.alloc(A);
        assert_eq!(mixed.alloc(A), first);
        assert!(mixed.alloc(B).is_some());
        assert_eq!(mixed.alloc(A), second);
    }

    #[test]
    fn memory_ends_and_comes_back() {
        let pages = pages();
        let taken: Vec<Hpa> = std::iter::from_fn(|| pages.alloc(A)).collect();
        assert_eq!(taken.len(), 128);
        assert_eq!((pages.in_use(), pages.held_by_vm(1)), (128, 128));
        for page in taken {
            pages.free(A, page);
        }
        assert_eq!(pages.close(A), 0);
        assert_eq!(std::iter::from_fn(|| pages.alloc(B)).count(), 128);
    }

    #[test]
    fn an_owner_that_keeps_a_page_keeps_its_chunks_lost() {
        let pages = pages();
        let page = pages.alloc(A);
        assert!(page.is_some());
        assert_eq!(pages.close(A), 1);
        assert_eq!(std::iter::from_fn(|| pages.alloc(B)).count(), 64);
        assert_eq!(pages.in_use(), 65);
    }
}
