//! Files in the page cache: what a process maps of them lies in the machine's own memory.
//!
//! # Locking
//! None: a file's pages are written before anybody has it, and stay as long as the machine does.

use std::sync::Arc;

use seamlock_tdx_abi::{Hpa, PAGE_SIZE};

use super::{Host, Owner};

/// A file whose pages are in the machine's memory. They never leave it, so that whoever has the address
/// of one need not hold a reference.
#[derive(Debug)]
pub struct CachedFile {
    host: Arc<Host>,
    pages: Vec<Hpa>,
}

impl CachedFile {
    /// Reads a file into the page cache; the last page is filled up with zeros. None when the machine's
    /// memory is exhausted.
    pub fn load(host: &Arc<Host>, bytes: &[u8]) -> Option<CachedFile> {
        let mut page = [0; PAGE_SIZE as usize];
        let pages = bytes.chunks(PAGE_SIZE as usize).map(|part| {
            let at = host.alloc_page(Owner::PAGE_CACHE)?;
            page[..part.len()].copy_from_slice(part);
            page[part.len()..].fill(0);
            host.memory().write(at, &page).ok()?;
            Some(at)
        });
        let pages: Option<Vec<Hpa>> = pages.collect();
        Some(CachedFile {
            host: host.clone(),
            pages: pages?,
        })
    }

    /// Bytes of its pages.
    pub fn size(&self) -> u64 {
        self.pages.len() as u64 * PAGE_SIZE
    }

    /// The page at byte `offset`, if the file reaches so far.
    #[inline]
    pub fn page(&self, offset: u64) -> Option<Hpa> {
        self.pages.get((offset / PAGE_SIZE) as usize).copied()
    }

    /// Fills `out` from byte `offset` on, with zeros where the file has ended. All of it lies in one
    /// page.
    pub fn read(&self, offset: u64, out: &mut [u8]) {
        let from = self.page(offset).map(|page| page.0 + offset % PAGE_SIZE);
        let read = from.map(|from| self.host.memory().read(Hpa(from), out));
        if read.is_none_or(|read| read.is_err()) {
            out.fill(0);
        }
    }
}
