//! What a VMM does with an image: which pages, from where, in which order.

use std::borrow::Cow;
use std::ops::Range;

use crate::validate::validate;
use crate::{
    MemoryLayout, Metadata, PAGE_SIZE, SectionAt, SectionFault, SectionKind, TdvfError, hob,
};

/// Where the contents of a region come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// These bytes of the image; what they leave of the last pages is zero.
    File(Range<usize>),
    /// Zero.
    Zeros,
    /// The list of hand-off blocks ([`TdHob::bytes`]), then zero.
    TdHob,
}

/// One `KVM_TDX_INIT_MEM_REGION`: pages that are added, and measured if so marked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Region {
    /// Index of the section in the metadata.
    pub section: usize,
    /// Type of the section.
    pub kind: SectionKind,
    /// First guest physical address.
    pub gpa: u64,
    /// Number of 4 KiB pages.
    pub pages: u64,
    /// What they hold.
    pub source: Source,
    /// Whether the contents are measured (`TDH.MR.EXTEND`); that a page is added always is.
    pub measured: bool,
}

impl Region {
    /// Bytes.
    pub const fn size(&self) -> u64 {
        self.pages * PAGE_SIZE
    }

    /// First address behind it.
    pub const fn end(&self) -> u64 {
        self.gpa + self.size()
    }
}

/// The hand-off blocks and where they go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TdHob {
    /// Their address, which every vCPU gets in RCX and R8 (`KVM_TDX_INIT_VCPU`).
    pub gpa: u64,
    /// The list, without the zeros behind it.
    pub bytes: Vec<u8>,
}

/// The launch of one image with one layout of memory. Building one validates the image, so that
/// regions are page aligned, disjoint, inside of their memslots and of the image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LaunchPlan {
    /// The memory it was made for.
    pub memory: MemoryLayout,
    /// The metadata it was made from.
    pub metadata: Metadata,
    /// What is added, in metadata order. Sections with PAGE.AUG and those that take no memory are
    /// not among them.
    pub regions: Vec<Region>,
    /// The hand-off blocks, if the image has a place for them.
    pub td_hob: Option<TdHob>,
}

impl LaunchPlan {
    /// Parses and validates `image`, and plans its launch in `memory`.
    ///
    /// # Errors
    /// The first thing that is wrong with the image.
    pub fn new(image: &[u8], memory: MemoryLayout) -> Result<Self, TdvfError> {
        Self::of(Metadata::parse(image)?, image.len() as u64, memory)
    }

    /// Validates the metadata of an image of `len` bytes, and plans its launch in `memory`.
    ///
    /// # Errors
    /// The first thing that is wrong with the sections.
    pub fn of(metadata: Metadata, len: u64, memory: MemoryLayout) -> Result<Self, TdvfError> {
        validate(&metadata, len, &memory)?;
        let regions = regions(&metadata);
        let td_hob = td_hob(&regions, &memory)?;
        Ok(Self {
            memory,
            metadata,
            regions,
            td_hob,
        })
    }

    /// Pages that are added.
    pub fn pages_added(&self) -> u64 {
        self.regions.iter().map(|r| r.pages).sum()
    }

    /// Number of `TDH.MR.EXTEND`, 16 for each measured page.
    pub fn extends(&self) -> u64 {
        self.regions
            .iter()
            .filter(|r| r.measured)
            .map(|r| r.pages * 16)
            .sum()
    }

    /// Writes the contents of `region` from its byte `offset` on to the whole of `out`. Bytes
    /// behind the region are zero. `image` is the one that the plan was made from.
    pub fn fill(&self, image: &[u8], region: &Region, offset: u64, out: &mut [u8]) {
        let stored = self.stored(image, region);
        let start = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(stored.len());
        let copied = (stored.len() - start).min(out.len());
        out[..copied].copy_from_slice(&stored[start..start + copied]);
        out[copied..].fill(0);
    }

    /// The contents of `region` as a whole, borrowed where nothing has to be filled up.
    pub fn contents<'a>(&'a self, image: &'a [u8], region: &Region) -> Cow<'a, [u8]> {
        let stored = self.stored(image, region);
        if stored.len() as u64 == region.size() {
            return Cow::Borrowed(stored);
        }
        let mut whole = vec![0; region.size() as usize];
        whole[..stored.len()].copy_from_slice(stored);
        Cow::Owned(whole)
    }

    /// The bytes of `region` that aren't fill. An image that isn't the plan's gives none.
    pub(crate) fn stored<'a>(&'a self, image: &'a [u8], region: &Region) -> &'a [u8] {
        match &region.source {
            Source::File(range) => image.get(range.clone()).unwrap_or_default(),
            Source::Zeros => &[],
            Source::TdHob => self.td_hob.as_ref().map_or(&[], |hob| &hob.bytes),
        }
    }
}

fn regions(metadata: &Metadata) -> Vec<Region> {
    let added = |kind: SectionKind, aug: bool| !(aug || kind.is_informational());
    metadata
        .sections
        .iter()
        .enumerate()
        .filter(|(_, s)| added(s.kind, s.attributes.page_aug()))
        .map(|(section, s)| Region {
            section,
            kind: s.kind,
            gpa: s.gpa,
            pages: s.mem_size / PAGE_SIZE,
            source: match (s.kind, s.raw_size) {
                (SectionKind::TD_HOB, _) => Source::TdHob,
                (_, 0) => Source::Zeros,
                (_, raw) => {
                    let start = s.data_offset as usize;
                    Source::File(start..start + raw as usize)
                }
            },
            measured: s.attributes.mr_extend(),
        })
        .collect()
}

fn td_hob(regions: &[Region], memory: &MemoryLayout) -> Result<Option<TdHob>, TdvfError> {
    let Some(place) = regions.iter().find(|r| r.kind == SectionKind::TD_HOB) else {
        return Ok(None);
    };
    let bytes = hob::list(place.gpa, &hob::memory_map(memory, regions));
    let needed = bytes.len() as u64;
    if needed > place.size() {
        return Err(TdvfError::Section {
            at: SectionAt {
                index: place.section,
                kind: place.kind,
            },
            fault: SectionFault::HobTooSmall {
                mem_size: place.size(),
                needed,
            },
        });
    }
    Ok(Some(TdHob {
        gpa: place.gpa,
        bytes,
    }))
}
