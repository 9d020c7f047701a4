//! The project's own small TDVF image, assembled by code: what a launch without firmware uses.
//!
//! 128 KiB that end at 4 GiB, laid out like OVMF:
//!
//! | image offset | section | gpa | pages | measured |
//! |---|---|---|---|---|
//! | 0x4000 to 0x20000 | BFV | 0xfffe4000 | 28 | yes |
//! | 0 to 0x4000 | CFV | 0xfffe0000 | 4 | no |
//! | | TempMem (stack and heap) | 0x810000 | 16 | no |
//! | | TempMem (mailbox) | 0x80b000 | 2 | no |
//! | | TD_HOB | 0x809000 | 2 | no |
//!
//! Every page of the two volumes begins with a line of text that names it. The rest of a BFV page
//! is a byte pattern, so that no two measured pages and no two 256-byte chunks of a page are equal.

use crate::builder::ImageBuilder;
use crate::{Attributes, PAGE_SIZE, Section, SectionKind};

/// Bytes of the image.
pub const LEN: usize = 128 << 10;
const CFV_LEN: usize = 0x4000;
const BASE: u64 = (4 << 30) - LEN as u64;
/// The reset vector, at 4 GiB - 16: `pause; jmp` back to it. A vCPU of a TD begins here in 32-bit
/// protected mode. No `hlt`, because that gives a #VE in a TD and there is no handler.
pub const RESET_VECTOR: [u8; 4] = [0xf3, 0x90, 0xeb, 0xfc];

/// The image.
pub fn image() -> Vec<u8> {
    builder().build()
}

/// What builds the image, for variants of it.
pub fn builder() -> ImageBuilder {
    ImageBuilder::new(LEN)
        .contents(
            0,
            volume("configuration firmware volume", CFV_LEN, |_, _| 0xff),
        )
        .contents(
            CFV_LEN,
            volume("boot firmware volume", LEN - CFV_LEN, pattern),
        )
        .contents(LEN - 0x400, [0; 0x400])
        .contents(LEN - 16, RESET_VECTOR)
        .section(flash(
            SectionKind::BFV,
            CFV_LEN,
            LEN - CFV_LEN,
            Attributes::MR_EXTEND,
        ))
        .section(flash(SectionKind::CFV, 0, CFV_LEN, Attributes::default()))
        .section(ram(SectionKind::TEMP_MEM, 0x81_0000, 16))
        .section(ram(SectionKind::TEMP_MEM, 0x80_b000, 2))
        .section(ram(SectionKind::TD_HOB, 0x80_9000, 2))
}

fn flash(kind: SectionKind, offset: usize, len: usize, attributes: Attributes) -> Section {
    Section {
        kind,
        data_offset: offset as u32,
        raw_size: len as u32,
        gpa: BASE + offset as u64,
        mem_size: len as u64,
        attributes,
    }
}

fn ram(kind: SectionKind, gpa: u64, pages: u64) -> Section {
    let attributes = Attributes::default();
    Section {
        kind,
        data_offset: 0,
        raw_size: 0,
        gpa,
        mem_size: pages * PAGE_SIZE,
        attributes,
    }
}

fn pattern(page: usize, at: usize) -> u8 {
    (at / 256 * 17 + page * 29 + at % 256) as u8
}

fn volume(name: &str, len: usize, fill: impl Fn(usize, usize) -> u8) -> Vec<u8> {
    let page_len = PAGE_SIZE as usize;
    let page = |number| {
        let title = format!("seamlock built-in TDVF, {name}, page {number:02}\n").into_bytes();
        let rest = (title.len()..page_len)
            .map(|at| fill(number, at))
            .collect::<Vec<_>>();
        [title, rest].concat()
    };
    (0..len / page_len).flat_map(page).collect()
}
