//! The bytes that one section gives to MRTD, by a recipe.

use sha2::{Digest, Sha384};

use super::{Contents, Fill, Treatment};
use crate::mrtd::{added_block, measured_page};
use crate::{LaunchPlan, PAGE_SIZE, Section, SectionKind};

const PAGE: usize = PAGE_SIZE as usize;
/// Bytes hashed for a page that is added.
const ADDED: u64 = 128;
/// Bytes hashed for a page that is measured.
const MEASURED: u64 = 16 * (128 + 256);

/// An image with the parts of a recipe that say what its pages hold.
#[derive(Clone, Copy)]
pub(super) struct Recipe<'a> {
    pub(super) image: &'a [u8],
    pub(super) plan: &'a LaunchPlan,
    pub(super) fill: Fill,
    pub(super) descending: bool,
}

/// What is done with a section at one point of the launch.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// Each page is added, and measured at once.
    PageByPage,
    /// All pages are added, then measured.
    AllThenAll,
    /// The pages are added.
    Add,
    /// The pages are measured.
    Measure,
}

impl Recipe<'_> {
    fn section(&self, index: usize) -> &Section {
        &self.plan.metadata.sections[index]
    }

    /// Bytes that [`hash`](Recipe::hash) hashes, at the most.
    pub(super) fn cost(&self, index: usize, act: Act, treatment: Treatment) -> u64 {
        let pages = self.section(index).mem_size / PAGE_SIZE;
        let (adds, measures) = parts(act, treatment);
        let add = if adds { ADDED } else { 0 };
        let measure = if measures.is_some() { MEASURED } else { 0 };
        pages.saturating_mul(add + measure)
    }

    /// Hashes what a section gives.
    pub(super) fn hash(&self, index: usize, act: Act, treatment: Treatment, hash: &mut Sha384) {
        let (adds, measures) = parts(act, treatment);
        let hob = measures.map(|contents| self.hob(index, contents));
        let gpa = self.section(index).gpa;
        for offset in self.offsets(index) {
            if adds {
                hash.update(added_block(gpa + offset));
            }
            if let Some(hob) = hob.as_ref().filter(|_| act == Act::PageByPage) {
                self.measure(index, offset, hob, hash);
            }
        }
        if let Some(hob) = hob.as_ref().filter(|_| act != Act::PageByPage) {
            self.offsets(index)
                .for_each(|offset| self.measure(index, offset, hob, hash));
        }
    }

    /// The pages of a section, as offsets in it.
    fn offsets(&self, index: usize) -> impl Iterator<Item = u64> + use<> {
        let (pages, descending) = (self.section(index).mem_size / PAGE_SIZE, self.descending);
        (0..pages).map(move |page| PAGE_SIZE * if descending { pages - 1 - page } else { page })
    }

    fn measure(&self, index: usize, offset: u64, hob: &[u8], hash: &mut Sha384) {
        let section = self.section(index);
        let mut page = [0; PAGE];
        if section.kind == SectionKind::TD_HOB {
            copy(&mut page, hob, offset);
        } else if !self.file_page(section, offset, &mut page) {
            return;
        }
        measured_page(section.gpa + offset, &page, &mut |bytes| hash.update(bytes));
    }

    /// The list of hand-off blocks, for a TD_HOB.
    fn hob(&self, index: usize, contents: Contents) -> Vec<u8> {
        let section = self.section(index);
        match (section.kind, contents) {
            (SectionKind::TD_HOB, Contents::Usual) => self
                .plan
                .td_hob
                .as_ref()
                .map_or(Vec::new(), |hob| hob.bytes.clone()),
            (SectionKind::TD_HOB, Contents::Gce(machine)) => {
                machine.hob(section.gpa, &self.plan.metadata.sections)
            }
            _ => Vec::new(),
        }
    }

    /// Fills in a page of a section that is not a TD_HOB; whether it is measured.
    fn file_page(&self, section: &Section, offset: u64, page: &mut [u8; PAGE]) -> bool {
        let start = section.data_offset as usize;
        let raw = section.raw_size as usize;
        let stored = self.image.get(start..start + raw).unwrap_or_default();
        let behind = raw as u64 <= offset;
        match self.fill {
            _ if raw == 0 => true,
            Fill::Unmeasured if behind => false,
            Fill::Image => {
                copy(page, self.image.get(start..).unwrap_or_default(), offset);
                true
            }
            fill => {
                page.fill(if fill == Fill::Ones { 0xff } else { 0 });
                copy(page, stored, offset);
                true
            }
        }
    }
}

/// Whether pages are added, and what is measured of them.
fn parts(act: Act, treatment: Treatment) -> (bool, Option<Contents>) {
    let (adds, measures) = match treatment {
        Treatment::LeftOut => (false, None),
        Treatment::Added => (true, None),
        Treatment::Measured(contents) => (true, Some(contents)),
    };
    match act {
        Act::Add => (adds, None),
        Act::Measure => (false, measures),
        Act::PageByPage | Act::AllThenAll => (adds, measures),
    }
}

/// Copies as much of `bytes` from `offset` on as a page holds.
fn copy(page: &mut [u8; PAGE], bytes: &[u8], offset: u64) {
    let from = usize::try_from(offset)
        .unwrap_or(usize::MAX)
        .min(bytes.len());
    let len = (bytes.len() - from).min(PAGE);
    page[..len].copy_from_slice(&bytes[from..from + len]);
}
