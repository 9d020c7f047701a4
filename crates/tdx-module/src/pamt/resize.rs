//! Pages that are joined to a bigger one, and split again.
//!
//! Source: TDX module 1.5, `pamt_promote`, `pamt_demote`.

use seamlock_sync::Mode;
use seamlock_tdx_abi::pamt::PageType;

use super::{Chain, PageSize, PamtEntry};

impl<'m> Chain<'m> {
    /// The entries of the pages that a page of `size` is made of.
    fn parts(self, size: PageSize) -> impl Iterator<Item = &'m PamtEntry> {
        let pages = match size {
            PageSize::M2 => self.region.pages.get(),
            _ => None,
        };
        let regions = match size {
            PageSize::G1 => Some(&self.gigabyte.regions),
            _ => None,
        };
        let pages = pages.into_iter().flat_map(|pages| pages.iter());
        let regions = regions.into_iter().flat_map(|regions| regions.iter());
        pages
            .map(|page| &page.entry)
            .chain(regions.map(|region| &region.entry))
    }

    /// Whether none of the 4 KiB pages of the 2 MiB page is in use. The caller holds the 2 MiB entry
    /// alone, so that nobody can walk to one of them.
    pub(crate) fn is_free_2m(self) -> bool {
        self.parts(PageSize::M2)
            .all(|entry| entry.page_type() == PageType::NDA)
    }

    /// Makes one page of `size` of its 512 parts, which have one owner. None when its entry is busy.
    pub(crate) fn join(self, size: PageSize) -> Option<()> {
        let _guard = self.hold(size, Mode::Exclusive)?;
        let whole = self.entry(size);
        let first = self.parts(size).next()?;
        whole.assign_again(first.page_type(), first.owner());
        self.parts(size)
            .for_each(|part| part.set_type(PageType::NDA));
        Some(())
    }

    /// Makes 512 parts of one page of `size`. None when its entry is busy.
    pub(crate) fn split(self, size: PageSize) -> Option<()> {
        let _guard = self.hold(size, Mode::Exclusive)?;
        let whole = self.entry(size);
        self.parts(size)
            .for_each(|part| part.assign(whole.page_type(), whole.owner()));
        whole.set_type(PageType::NDA);
        Some(())
    }
}
