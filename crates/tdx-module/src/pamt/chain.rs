//! Page operands: the entries on the way to a page, and how they are held.

use seamlock_sync::{Mode, Name};
use seamlock_tdx_abi::addr::Hpa;
use seamlock_tdx_abi::pamt::PageType;
use seamlock_tdx_abi::status::TdxStatus;

use super::{Gigabyte, Page, PageSize, PamtEntry, Region};
use crate::locks::HpGuard;

/// A page's chain of entries, from the top.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain<'m> {
    pub(super) pa: Hpa,
    pub(super) gigabyte: &'m Gigabyte,
    pub(super) region: &'m Region,
    pub(crate) page: &'m Page,
}

impl<'m> Chain<'m> {
    /// The name of the entry at `size`.
    #[inline]
    pub(crate) fn name(&self, size: PageSize) -> Name {
        size.name(self.pa)
    }

    /// The entry at `size`.
    #[inline]
    pub(crate) fn entry(&self, size: PageSize) -> &'m PamtEntry {
        match size {
            PageSize::K4 => &self.page.entry,
            PageSize::M2 => &self.region.entry,
            PageSize::G1 => &self.gigabyte.entry,
        }
    }

    #[inline(always)]
    fn try_word(&self, size: PageSize, mode: Mode) -> bool {
        self.entry(size).lock.try_acquire(mode, self.name(size))
    }

    #[inline(always)]
    fn release_word(&self, size: PageSize, mode: Mode) {
        self.entry(size).lock.release(mode, self.name(size));
    }

    /// Takes the entry at `size` alone, as an implicit operand. None when it is busy.
    #[inline]
    pub(crate) fn hold(&self, size: PageSize, mode: Mode) -> Option<HpGuard<'m>> {
        HpGuard::try_host(&self.entry(size).lock, mode, self.name(size))
    }

    /// Walks down to the page as an explicit operand, to the entry at `target` or to a bigger page
    /// that covers it. None when an entry on the way is busy.
    #[inline(always)]
    pub(crate) fn walk(self, target: PageSize, mode: Mode) -> Option<PageGuard<'m>> {
        let held = self.take_words(target, mode)?;
        Some(self.guard(held))
    }

    /// Walks down to the page as an explicit operand that must be of a size and type, which is looked at
    /// once it is held: a busy page of a wrong type is busy.
    ///
    /// # Errors
    /// OPERAND_BUSY or PAGE_METADATA_INCORRECT, without operand.
    #[inline(always)]
    pub(crate) fn walk_to(
        self,
        size: PageSize,
        mode: Mode,
        expected: PageType,
    ) -> Result<Held, TdxStatus> {
        let held = self.take_words(size, mode).ok_or(TdxStatus::OPERAND_BUSY)?;
        if held.size() == size && self.entry(size).page_type() == expected {
            return Ok(held);
        }
        drop(self.guard(held));
        Err(TdxStatus::PAGE_METADATA_INCORRECT)
    }

    /// What gives back the words that a walk took.
    #[inline(always)]
    pub(crate) fn guard(self, held: Held) -> PageGuard<'m> {
        PageGuard { chain: self, held }
    }

    #[inline(always)]
    fn take_words(self, target: PageSize, mode: Mode) -> Option<Held> {
        if !self.try_word(PageSize::G1, Mode::Shared) {
            return None;
        }
        if target == PageSize::G1 || self.gigabyte.entry.page_type() == PageType::REG {
            return self.end_above(PageSize::G1, mode);
        }
        if !self.try_word(PageSize::M2, Mode::Shared) {
            self.release_above(PageSize::M2);
            return None;
        }
        if target == PageSize::M2 || self.region.entry.page_type() == PageType::REG {
            return self.end_above(PageSize::M2, mode);
        }
        if !self.try_word(PageSize::K4, mode) {
            self.release_above(PageSize::K4);
            return None;
        }
        Some(Held::new(PageSize::K4, mode))
    }

    /// Ends a walk at a bigger page, whose entry is held shared.
    #[cold]
    fn end_above(self, size: PageSize, mode: Mode) -> Option<Held> {
        let entry = self.entry(size);
        if mode == Mode::Exclusive && !entry.lock.promote(self.name(size)) {
            self.release_word(size, Mode::Shared);
            self.release_above(size);
            return None;
        }
        Some(Held::new(size, mode))
    }

    /// Gives back the entries that cover the one at `size`, the nearest first.
    #[inline(always)]
    fn release_above(&self, size: PageSize) {
        if size < PageSize::M2 {
            self.release_word(PageSize::M2, Mode::Shared);
        }
        if size < PageSize::G1 {
            self.release_word(PageSize::G1, Mode::Shared);
        }
    }

    /// Takes the entry at `size` alone and exclusively, as an implicit operand.
    pub(crate) fn hold_implicit(self, size: PageSize) -> Option<ImplicitPage<'m>> {
        let _guard = self.hold(size, Mode::Exclusive)?;
        Some(ImplicitPage {
            _guard,
            entry: self.entry(size),
        })
    }

    /// Gives back the words of a 4 KiB page that [`PageGuard::keep`] left held.
    pub(crate) fn release_kept(&self, mode: Mode) {
        self.release_word(PageSize::K4, mode);
        self.release_above(PageSize::K4);
    }
}

/// A page that the module found by itself, held alone: its own entry, and none above it.
#[derive(Debug)]
pub(crate) struct ImplicitPage<'m> {
    _guard: HpGuard<'m>,
    pub(crate) entry: &'m PamtEntry,
}

/// An explicit page operand, held: its entry in the wanted mode, those above it shared.
#[derive(Debug)]
pub(crate) struct PageGuard<'m> {
    chain: Chain<'m>,
    held: Held,
}

/// Which entry of a chain is held, and how. One word, which moves faster than two small fields.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held(u64);

impl Held {
    const EXCLUSIVE: u64 = 1 << 8;

    #[inline]
    fn new(size: PageSize, mode: Mode) -> Held {
        let exclusive = if mode == Mode::Exclusive {
            Held::EXCLUSIVE
        } else {
            0
        };
        Held(size as u64 | exclusive)
    }

    #[inline]
    fn size(self) -> PageSize {
        match self.0 & 0xff {
            0 => PageSize::K4,
            1 => PageSize::M2,
            _ => PageSize::G1,
        }
    }

    #[inline]
    fn mode(self) -> Mode {
        if self.0 & Held::EXCLUSIVE != 0 {
            Mode::Exclusive
        } else {
            Mode::Shared
        }
    }
}

impl<'m> PageGuard<'m> {
    /// The entry that describes the page.
    #[inline]
    pub(crate) fn entry(&self) -> &'m PamtEntry {
        self.chain.entry(self.held.size())
    }

    /// The 4 KiB page at the operand's address.
    #[inline]
    pub(crate) fn page(&self) -> &'m Page {
        self.chain.page
    }

    /// The entries from the top to the page.
    pub(crate) fn chain(&self) -> Chain<'m> {
        self.chain
    }

    /// The size of the page found.
    #[inline]
    pub(crate) fn size(&self) -> PageSize {
        self.held.size()
    }

    /// The address of the 4 KiB page.
    #[inline]
    pub(crate) fn pa(&self) -> Hpa {
        self.chain.pa
    }

    /// Leaves the page's words held, until `Chain::release_kept`.
    pub(crate) fn keep(self) -> Chain<'m> {
        let chain = self.chain;
        std::mem::forget(self);
        chain
    }
}

impl Drop for PageGuard<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        let size = self.held.size();
        self.chain.release_word(size, self.held.mode());
        self.chain.release_above(size);
    }
}
