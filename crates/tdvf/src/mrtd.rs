//! MRTD, predicted from a plan alone.
//!
//! MRTD is one SHA-384 over 128-byte blocks (TDX module specification, `TDH.MEM.PAGE.ADD` and
//! `TDH.MR.EXTEND`):
//!
//! - a page that is added gives one block: `MEM.PAGE.ADD`, zero to byte 16, the u64 address, zero;
//! - 256 bytes that are measured give three: `MR.EXTEND`, zero to byte 16, the u64 address, zero;
//!   then the bytes. A page is 16 of these.
//!
//! The layout is written down here a second time on purpose, apart from the code that launches:
//! the two check each other.

use std::fmt;

use sha2::{Digest, Sha384};

use crate::{LaunchPlan, PAGE_SIZE, Region};

const CHUNK: usize = 256;

/// In which order the pages of a region are added and measured. The MRTD differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Order {
    /// Each page is measured right after it was added: `KVM_TDX_INIT_MEM_REGION` of Linux 6.16
    /// and later.
    #[default]
    PerPage,
    /// All pages of a section are added, then all are measured: kernels before the merge.
    PerSection,
    /// All pages of the image are added, then all that are to be measured are.
    WholeImage,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::PerPage => "per page",
            Self::PerSection => "per section",
            Self::WholeImage => "whole image",
        })
    }
}

/// A SHA-384 value; prints as 96 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mrtd(pub [u8; 48]);

impl fmt::Display for Mrtd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Mrtd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The MRTD that a launch of `image` by `plan` gives.
pub fn predict(plan: &LaunchPlan, image: &[u8], order: Order) -> Mrtd {
    let mut hash = Sha384::new();
    hashed(plan, image, order, |bytes| hash.update(bytes));
    Mrtd(hash.finalize().into())
}

/// Gives the very bytes that MRTD hashes to `sink`, piece by piece in order.
pub fn hashed(plan: &LaunchPlan, image: &[u8], order: Order, mut sink: impl FnMut(&[u8])) {
    if order == Order::WholeImage {
        for region in &plan.regions {
            pages(region).for_each(|gpa| sink(&added_block(gpa)));
        }
        for region in &plan.regions {
            pages(region).for_each(|gpa| measured(plan, image, region, gpa, &mut sink));
        }
        return;
    }
    for region in &plan.regions {
        hashed_region(plan, image, region, order, &mut sink);
    }
}

/// The bytes of one region, where each region is done before the next. [`Order::WholeImage`] is taken
/// for [`Order::PerSection`].
pub fn hashed_region(
    plan: &LaunchPlan,
    image: &[u8],
    region: &Region,
    order: Order,
    sink: &mut impl FnMut(&[u8]),
) {
    if order == Order::PerPage {
        for gpa in pages(region) {
            sink(&added_block(gpa));
            measured(plan, image, region, gpa, sink);
        }
        return;
    }
    pages(region).for_each(|gpa| sink(&added_block(gpa)));
    pages(region).for_each(|gpa| measured(plan, image, region, gpa, sink));
}

fn pages(region: &Region) -> impl Iterator<Item = u64> + use<> {
    let gpa = region.gpa;
    (0..region.pages).map(move |page| gpa + page * PAGE_SIZE)
}

fn measured(
    plan: &LaunchPlan,
    image: &[u8],
    region: &Region,
    gpa: u64,
    sink: &mut impl FnMut(&[u8]),
) {
    if !region.measured {
        return;
    }
    let mut page = [0; PAGE_SIZE as usize];
    plan.fill(image, region, gpa - region.gpa, &mut page);
    measured_page(gpa, &page, sink);
}

/// What adding the page at `gpa` gives.
pub(crate) fn added_block(gpa: u64) -> [u8; 128] {
    block(b"MEM.PAGE.ADD", gpa)
}

/// What measuring the page at `gpa` gives.
pub(crate) fn measured_page(gpa: u64, page: &[u8], sink: &mut impl FnMut(&[u8])) {
    for (chunk, at) in page.chunks_exact(CHUNK).zip((gpa..).step_by(CHUNK)) {
        sink(&block(b"MR.EXTEND", at));
        sink(chunk);
    }
}

fn block(name: &[u8], gpa: u64) -> [u8; 128] {
    let mut out = [0; 128];
    out[..name.len()].copy_from_slice(name);
    out[16..24].copy_from_slice(&gpa.to_le_bytes());
    out
}
