//! PAMT: what every physical page is used for, and the lock that goes with it.
//!
//! # Locking
//! Each entry's type, owner and BEPOCH are guarded by the entry's own word. An *explicit* operand, one
//! that the host names by its address, is walked to from the top: the 1 GiB and the 2 MiB entry that
//! cover it are held shared while the page's own entry is held in the wanted mode. An *implicit* one,
//! which the module finds through an owner or a secure-EPT entry, takes its own entry only.
//! Source: TDX module 1.5, `pamt_manager.c`.

mod chain;
mod resize;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use seamlock_sync::{Name, SharexHp};
use seamlock_tdx_abi::addr::Hpa;
use seamlock_tdx_abi::pamt::PageType;

use crate::locks::{PAMT_1G, PAMT_2M, PAMT_4K};
use crate::td::Td;
use crate::vp::Vp;

pub(crate) use chain::{Chain, ImplicitPage, PageGuard};

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

impl Pamt {
    pub(crate) fn new(ram_bytes: u64) -> Pamt {
        let gigabytes = ram_bytes.div_ceil(PageSize::G1.bytes());
        Pamt {
            gigabytes: (0..gigabytes).map(|_| OnceLock::new()).collect(),
        }
    }

    /// The chain of entries of the page at `pa`, if its 2 MiB region was touched before.
    #[inline(always)]
    pub(crate) fn known(&self, pa: Hpa) -> Option<Chain<'_>> {
        let gigabyte = self.gigabytes.get((pa.0 >> 30) as usize)?.get()?;
        let region = &gigabyte.regions[(pa.0 >> 21) as usize % 512];
        let page = &region.pages.get()?[(pa.0 >> 12) as usize % 512];
        Some(Chain {
            pa: pa.page(),
            gigabyte,
            region,
            page,
        })
    }

    /// Makes the entries of the page at `pa`, whose 1 GiB block has a complete PAMT; false outside of
    /// memory. `reserved` tells whether a page lies in a reserved area.
    pub(crate) fn touch(&self, pa: Hpa, reserved: &dyn Fn(Hpa) -> bool) -> bool {
        let Some(gigabyte) = self.gigabytes.get((pa.0 >> 30) as usize) else {
            return false;
        };
        let gigabyte = gigabyte.get_or_init(|| Gigabyte {
            entry: PamtEntry::new(PageType::NDA),
            regions: (0..512)
                .map(|_| Region {
                    entry: PamtEntry::new(PageType::NDA),
                    pages: OnceLock::new(),
                })
                .collect(),
        });
        let region = &gigabyte.regions[(pa.0 >> 21) as usize % 512];
        region.pages.get_or_init(|| new_pages(pa, reserved));
        true
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
