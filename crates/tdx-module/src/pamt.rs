//! PAMT: what every physical page is used for, and the lock that goes with it.
//!
//! # Locking
//! Each entry's type, owner and BEPOCH are guarded by the entry's own word. An *explicit* operand, one
//! that the host names by its address, is walked to from the top: the 1 GiB and the 2 MiB entry that
//! cover it are held shared while the page's own entry is held in the wanted mode. An *implicit* one,
//! which the module finds through an owner or a secure-EPT entry, takes its own entry only.
//! Source: TDX module 1.5, `pamt_manager.c`.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use seamlock_sync::{Mode, Name, SharexHp};
use seamlock_tdx_abi::addr::Hpa;
use seamlock_tdx_abi::pamt::PageType;

use crate::locks::{HpGuard, PAMT_1G, PAMT_2M, PAMT_4K};
use crate::td::Td;
use crate::vp::Vp;

/// The metadata of one page, at one of the three levels.
#[derive(Debug)]
pub(crate) struct PamtEntry {
    lock: SharexHp,
    page_type: AtomicU8,
    owner: AtomicU64,
    bepoch: AtomicU64,
}

impl PamtEntry {
    const fn new(page_type: PageType) -> PamtEntry {
        PamtEntry {
            lock: SharexHp::new(),
            page_type: AtomicU8::new(page_type.0),
            owner: AtomicU64::new(0),
            bepoch: AtomicU64::new(0),
        }
    }

    /// The entry's lock word.
    pub(crate) fn lock(&self) -> &SharexHp {
        &self.lock
    }

    /// What the page is used for.
    #[inline]
    pub(crate) fn page_type(&self) -> PageType {
        PageType(self.page_type.load(Relaxed))
    }

    /// The TDR that owns the page. Stale when the type says that nobody does.
    #[inline]
    pub(crate) fn owner(&self) -> Hpa {
        Hpa(self.owner.load(Relaxed))
    }

    /// The TLB epoch at which the page's range was blocked.
    pub(crate) fn bepoch(&self) -> u64 {
        self.bepoch.load(Relaxed)
    }

    /// Writes the epoch at which the page's range was blocked.
    pub(crate) fn set_bepoch(&self, epoch: u64) {
        self.bepoch.store(epoch, Relaxed);
    }

    /// Gives the page to a TD.
    #[inline]
    pub(crate) fn assign(&self, page_type: PageType, owner: Hpa) {
        self.page_type.store(page_type.0, Relaxed);
        self.owner.store(owner.0, Relaxed);
        self.bepoch.store(0, Relaxed);
    }

    /// Gives the page to a TD; what is left of an earlier BEPOCH stays.
    pub(crate) fn assign_again(&self, page_type: PageType, owner: Hpa) {
        self.page_type.store(page_type.0, Relaxed);
        self.owner.store(owner.0, Relaxed);
    }

    /// Changes the type alone; the owner stays.
    pub(crate) fn set_type(&self, page_type: PageType) {
        self.page_type.store(page_type.0, Relaxed);
    }
}

/// A 4 KiB page: its metadata, and what it holds when it is the root of a TD or of a vCPU.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) entry: PamtEntry,
    // Made when the page first becomes a TDR or TDVPR, reused when it does again.
    td: OnceLock<Box<Td>>,
    vp: OnceLock<Box<Vp>>,
}

#[derive(Debug)]
struct Region {
    entry: PamtEntry,
    pages: OnceLock<Box<[Page]>>,
}

#[derive(Debug)]
struct Gigabyte {
    entry: PamtEntry,
    regions: Box<[Region]>,
}

/// The size of the page that a PAMT entry describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PageSize {
    /// 4 KiB.
    K4 = 0,
    /// 2 MiB.
    M2 = 1,
    /// 1 GiB.
    G1 = 2,
}

impl PageSize {
    /// Bytes.
    pub(crate) const fn bytes(self) -> u64 {
        1 << (12 + 9 * self as u32)
    }

    /// Pages of 4 KiB.
    pub(crate) const fn pages(self) -> u64 {
        1 << (9 * self as u32)
    }

    /// The name of the entry of this size that covers `pa`.
    #[inline]
    pub(crate) fn name(self, pa: Hpa) -> Name {
        let base = pa.0 & !(self.bytes() - 1);
        match self {
            PageSize::K4 => PAMT_4K.at(base),
            PageSize::M2 => PAMT_2M.at(base),
            PageSize::G1 => PAMT_1G.at(base),
        }
    }

    /// The size of the page that a secure-EPT leaf of `level` maps.
    pub(crate) const fn of_level(level: u8) -> PageSize {
        match level {
            0 => PageSize::K4,
            1 => PageSize::M2,
            _ => PageSize::G1,
        }
    }
}

/// All metadata of the machine. Costs host memory for the 2 MiB regions that were touched.
#[derive(Debug)]
pub(crate) struct Pamt {
    gigabytes: Vec<OnceLock<Gigabyte>>,
}

/// A page's chain of entries, from the top.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain<'m> {
    pa: Hpa,
    gigabyte: &'m Gigabyte,
    region: &'m Region,
    pub(crate) page: &'m Page,
}

impl Pamt {
    pub(crate) fn new(ram_bytes: u64) -> Pamt {
        let gigabytes = ram_bytes.div_ceil(PageSize::G1.bytes());
        Pamt {
            gigabytes: (0..gigabytes).map(|_| OnceLock::new()).collect(),
        }
    }

    /// The chain of entries of the page at `pa`, which lies in a TDMR. `reserved` tells whether a page
    /// lies in a reserved area; it is asked when a region is first touched.
    #[inline]
    pub(crate) fn chain(&self, pa: Hpa, reserved: &dyn Fn(Hpa) -> bool) -> Option<Chain<'_>> {
        let pa = pa.page();
        let gigabyte = self
            .gigabytes
            .get((pa.0 >> 30) as usize)?
            .get_or_init(|| Gigabyte {
                entry: PamtEntry::new(PageType::NDA),
                regions: (0..512)
                    .map(|_| Region {
                        entry: PamtEntry::new(PageType::NDA),
                        pages: OnceLock::new(),
                    })
                    .collect(),
            });
        let region = &gigabyte.regions[(pa.0 >> 21) as usize % 512];
        let pages = region.pages.get_or_init(|| new_pages(pa, reserved));
        Some(Chain {
            pa,
            gigabyte,
            region,
            page: &pages[(pa.0 >> 12) as usize % 512],
        })
    }

    /// Every entry that was ever touched, ascending; a bigger page before the pages in it. For accounting.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Touched<'_>> {
        let gigabytes = (0..).zip(&self.gigabytes);
        gigabytes
            .filter_map(|(g, gigabyte)| Some((g << 30, gigabyte.get()?)))
            .flat_map(|(base, gigabyte)| {
                let own = Touched::new(PageSize::G1, base, &gigabyte.entry, None);
                [own].into_iter().chain(touched_regions(base, gigabyte))
            })
    }
}

/// An entry that was touched, and its 4 KiB page if it describes one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Touched<'m> {
    pub(crate) size: PageSize,
    pub(crate) pa: Hpa,
    pub(crate) entry: &'m PamtEntry,
    pub(crate) page: Option<&'m Page>,
}

impl<'m> Touched<'m> {
    fn new(size: PageSize, pa: u64, entry: &'m PamtEntry, page: Option<&'m Page>) -> Touched<'m> {
        let pa = Hpa(pa);
        Touched {
            size,
            pa,
            entry,
            page,
        }
    }
}

fn touched_regions(base: u64, gigabyte: &Gigabyte) -> impl Iterator<Item = Touched<'_>> {
    let regions = (0..).zip(&gigabyte.regions);
    regions
        .filter_map(move |(r, region)| Some((base | r << 21, region, region.pages.get()?)))
        .flat_map(|(base, region, pages)| {
            let own = Touched::new(PageSize::M2, base, &region.entry, None);
            let pages = (0..).zip(pages).map(move |(p, page)| {
                Touched::new(PageSize::K4, base | p << 12, &page.entry, Some(page))
            });
            [own].into_iter().chain(pages)
        })
}

fn new_pages(pa: Hpa, reserved: &dyn Fn(Hpa) -> bool) -> Box<[Page]> {
    let first = pa.0 & !(PageSize::M2.bytes() - 1);
    let page = |i: u64| {
        let rsvd = reserved(Hpa(first + (i << 12)));
        let page_type = if rsvd { PageType::RSVD } else { PageType::NDA };
        Page {
            entry: PamtEntry::new(page_type),
            td: OnceLock::new(),
            vp: OnceLock::new(),
        }
    };
    (0..512).map(page).collect()
}

impl Page {
    /// The TD whose TDR this page is or last was.
    #[inline]
    pub(crate) fn td(&self) -> Option<&Td> {
        self.td.get().map(|td| &**td)
    }

    /// The TD of a page that becomes a TDR now.
    pub(crate) fn new_td(&self, tdr: Hpa) -> &Td {
        self.td.get_or_init(|| Box::new(Td::new(tdr)))
    }

    /// The vCPU whose TDVPR this page is or last was.
    #[inline]
    pub(crate) fn vp(&self) -> Option<&Vp> {
        self.vp.get().map(|vp| &**vp)
    }

    /// The vCPU of a page that becomes a TDVPR now.
    pub(crate) fn new_vp(&self, tdvpr: Hpa) -> &Vp {
        self.vp.get_or_init(|| Box::new(Vp::new(tdvpr)))
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
    // Dropped in this order: the page first, the 1 GiB entry last.
    leaf: HpGuard<'m>,
    _region: Option<HpGuard<'m>>,
    _gigabyte: Option<HpGuard<'m>>,
    chain: Chain<'m>,
    size: PageSize,
}

impl<'m> PageGuard<'m> {
    /// The entry that describes the page.
    #[inline]
    pub(crate) fn entry(&self) -> &'m PamtEntry {
        match self.size {
            PageSize::K4 => &self.chain.page.entry,
            PageSize::M2 => &self.chain.region.entry,
            PageSize::G1 => &self.chain.gigabyte.entry,
        }
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
    pub(crate) fn size(&self) -> PageSize {
        self.size
    }

    /// The address of the 4 KiB page.
    pub(crate) fn pa(&self) -> Hpa {
        self.chain.pa
    }

    /// Leaves the page's words held, until `Chain::release_kept`.
    pub(crate) fn keep(self) -> Chain<'m> {
        let PageGuard {
            leaf,
            _region,
            _gigabyte,
            chain,
            size: _,
        } = self;
        leaf.keep();
        if let Some(region) = _region {
            region.keep();
        }
        if let Some(gigabyte) = _gigabyte {
            gigabyte.keep();
        }
        chain
    }
}

impl<'m> Chain<'m> {
    /// The name of the entry at `size`.
    #[inline]
    pub(crate) fn name(&self, size: PageSize) -> Name {
        size.name(self.pa)
    }

    /// The entry at `size`.
    pub(crate) fn entry(&self, size: PageSize) -> &'m PamtEntry {
        match size {
            PageSize::K4 => &self.page.entry,
            PageSize::M2 => &self.region.entry,
            PageSize::G1 => &self.gigabyte.entry,
        }
    }

    #[inline]
    fn try_hold(&self, size: PageSize, mode: Mode) -> Option<HpGuard<'m>> {
        HpGuard::try_host(&self.entry(size).lock, mode, self.name(size))
    }

    /// Takes the entry at `size` alone, as an implicit operand. None when it is busy.
    #[inline]
    pub(crate) fn hold(&self, size: PageSize, mode: Mode) -> Option<HpGuard<'m>> {
        self.try_hold(size, mode)
    }

    /// Walks down to the page as an explicit operand, to the entry at `target` or to a bigger page
    /// that covers it. None when an entry on the way is busy.
    #[inline]
    pub(crate) fn walk(self, target: PageSize, mode: Mode) -> Option<PageGuard<'m>> {
        let gigabyte = self.try_hold(PageSize::G1, Mode::Shared)?;
        if target == PageSize::G1 || self.gigabyte.entry.page_type() == PageType::REG {
            let leaf = promoted(gigabyte, mode)?;
            let size = PageSize::G1;
            return Some(PageGuard {
                leaf,
                _region: None,
                _gigabyte: None,
                chain: self,
                size,
            });
        }
        let region = self.try_hold(PageSize::M2, Mode::Shared)?;
        if target == PageSize::M2 || self.region.entry.page_type() == PageType::REG {
            let leaf = promoted(region, mode)?;
            let (size, _gigabyte) = (PageSize::M2, Some(gigabyte));
            return Some(PageGuard {
                leaf,
                _region: None,
                _gigabyte,
                chain: self,
                size,
            });
        }
        let leaf = self.try_hold(PageSize::K4, mode)?;
        Some(PageGuard {
            leaf,
            _region: Some(region),
            _gigabyte: Some(gigabyte),
            chain: self,
            size: PageSize::K4,
        })
    }

    /// Takes the entry at `size` alone and exclusively, as an implicit operand.
    pub(crate) fn hold_implicit(self, size: PageSize) -> Option<ImplicitPage<'m>> {
        let _guard = self.try_hold(size, Mode::Exclusive)?;
        Some(ImplicitPage {
            _guard,
            entry: self.entry(size),
        })
    }

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
        let _guard = self.try_hold(size, Mode::Exclusive)?;
        let whole = self.entry(size);
        let first = self.parts(size).next()?;
        whole.assign_again(first.page_type(), first.owner());
        self.parts(size)
            .for_each(|part| part.set_type(PageType::NDA));
        Some(())
    }

    /// Makes 512 parts of one page of `size`. None when its entry is busy.
    pub(crate) fn split(self, size: PageSize) -> Option<()> {
        let _guard = self.try_hold(size, Mode::Exclusive)?;
        let whole = self.entry(size);
        self.parts(size)
            .for_each(|part| part.assign(whole.page_type(), whole.owner()));
        whole.set_type(PageType::NDA);
        Some(())
    }

    /// Gives back the words of a 4 KiB page that [`PageGuard::keep`] left held.
    pub(crate) fn release_kept(&self, mode: Mode) {
        self.page.entry.lock.release(mode, self.name(PageSize::K4));
        self.region
            .entry
            .lock
            .release(Mode::Shared, self.name(PageSize::M2));
        self.gigabyte
            .entry
            .lock
            .release(Mode::Shared, self.name(PageSize::G1));
    }
}

fn promoted(mut guard: HpGuard<'_>, mode: Mode) -> Option<HpGuard<'_>> {
    if mode == Mode::Exclusive && !guard.promote() {
        return None;
    }
    Some(guard)
}
