//! Everything that can be wrong with an image, each in one line: what, where, and what is right.

use std::fmt;

use thiserror::Error;

use crate::metadata::{MAX_SECTIONS, VERSION};
use crate::{MAX_IMAGE_LEN, SectionKind};

/// Which section an error is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SectionAt {
    /// Its index in the metadata, from 0.
    pub index: usize,
    /// Its type.
    pub kind: SectionKind,
}

impl fmt::Display for SectionAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "section {} ({})", self.index, self.kind)
    }
}

/// Why an image can't be launched. Offsets and sizes are bytes.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum TdvfError {
    /// No bytes.
    #[error("image: empty; a TDVF image has at least one page")]
    ImageEmpty,
    /// Less than a page.
    #[error("image: {len} bytes, truncated; a TDVF image has at least 4096")]
    ImageTooShort {
        /// Its size.
        len: u64,
    },
    /// Does not fit the flash window.
    #[error(
        "image: {len} bytes, too large; firmware must fit the 16 MiB flash window below 4 GiB \
             (at most {MAX_IMAGE_LEN} bytes)"
    )]
    ImageTooLarge {
        /// Its size.
        len: u64,
    },
    /// Not a whole number of pages.
    #[error("image: {len} bytes, not a multiple of 4096; truncated?")]
    ImageNotPages {
        /// Its size.
        len: u64,
    },
    /// The layout was made for another image.
    #[error("image: {len} bytes, but the memory layout has a firmware slot of {slot}")]
    ImageNotSlot {
        /// Its size.
        len: u64,
        /// Size of the firmware slot.
        slot: u64,
    },
    /// Guest memory of no or of odd size.
    #[error("memory: {memory} bytes; must be a multiple of 4096 and more than 0")]
    MemoryNotPages {
        /// The size asked for.
        memory: u64,
    },
    /// Guest memory that reaches the shared half.
    #[error("memory: {memory} bytes, too large; with a GPA width of {gpaw} at most {limit}")]
    MemoryTooLarge {
        /// The size asked for.
        memory: u64,
        /// The largest size.
        limit: u64,
        /// Width in bits.
        gpaw: u32,
    },
    /// Neither a table nor a pointer.
    #[error(
        "no TDX metadata: no GUIDed table (footer 96b582de-1fb2-45f7-baea-a366c55a082d) ends \
             32 bytes before the end of the image, and no TDVF pointer stands there; truncated, \
             or not a TDVF image"
    )]
    NoGuidTable,
    /// The footer's length.
    #[error("GUIDed table: length {len}; must be 18 to {room}, which is where the image begins")]
    TableLength {
        /// As found.
        len: usize,
        /// Bytes in front of the footer's end.
        room: usize,
    },
    /// An entry's length.
    #[error(
        "GUIDed table: entry length {len} at image offset {offset:#x}; must be 18 to {room}, \
             which is what the table has left"
    )]
    TableEntryLength {
        /// Where the length stands.
        offset: usize,
        /// As found.
        len: usize,
        /// Bytes left in the table.
        room: usize,
    },
    /// A table, but not of TDX firmware.
    #[error(
        "no TDX metadata: the GUIDed table has no entry e47a6535-984a-4798-865e-4685a7bf8ec2; \
             this firmware is not built for TDX"
    )]
    NoTdxEntry,
    /// The entry has no room for its u32.
    #[error("TDX metadata entry: {len} bytes of data; must be 4, the descriptor's offset")]
    TdxEntryShort {
        /// As found.
        len: usize,
    },
    /// The descriptor isn't in the image.
    #[error(
        "TDX metadata offset: {from_end:#x} bytes before the end of the image, out of range; \
             must be 0x10 to {image_len:#x}"
    )]
    DescriptorOffset {
        /// As found.
        from_end: u32,
        /// Size of the image.
        image_len: u64,
    },
    /// Something else is where the descriptor should be.
    #[error(
        "TDVF descriptor at image offset {offset:#x}: signature {:?}; must be \"TDVF\"",
        String::from_utf8_lossy(found)
    )]
    Signature {
        /// Where.
        offset: usize,
        /// As found.
        found: [u8; 4],
    },
    /// Not version 1.
    #[error("TDVF descriptor: version {version}; must be {VERSION}")]
    Version {
        /// As found.
        version: u32,
    },
    /// No section, or too many.
    #[error("TDVF descriptor: count of sections {count}; must be 1 to {MAX_SECTIONS}")]
    Count {
        /// As found.
        count: u32,
    },
    /// Length and count disagree.
    #[error("TDVF descriptor: length {length}; must be {expected} with {count} sections")]
    Length {
        /// As found.
        length: u32,
        /// Number of sections.
        count: u32,
        /// What it must be.
        expected: u64,
    },
    /// Sections reach past the end of the image.
    #[error(
        "TDVF descriptor at image offset {offset:#x}: length {length}, but the image ends \
             after {room} bytes"
    )]
    DescriptorTruncated {
        /// Where.
        offset: usize,
        /// As found.
        length: u32,
        /// Bytes up to the end of the image.
        room: u64,
    },
    /// A TD without code.
    #[error("no BFV section; a TDVF image has at least one boot firmware volume")]
    NoBfv,
    /// One section is wrong.
    #[error("{at}: {fault}")]
    Section {
        /// Which one.
        at: SectionAt,
        /// What is wrong with it.
        fault: SectionFault,
    },
}

impl TdvfError {
    /// The section that the error is about, if it is about one.
    pub const fn section(&self) -> Option<SectionAt> {
        match self {
            Self::Section { at, .. } => Some(*at),
            _ => None,
        }
    }
}

/// What is wrong with one section. Each message begins with the field.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum SectionFault {
    /// A type without a meaning.
    #[error("type {0:#x}; must be 0 to 8")]
    UnknownKind(u32),
    /// Reserved attribute bits.
    #[error("attributes: unknown bits {0:#x}; only bit 0 (MR.EXTEND) and bit 1 (PAGE.AUG) exist")]
    UnknownAttributes(u32),
    /// PAGE.AUG where contents or a measurement are wanted.
    #[error("attributes: PAGE.AUG, but {0}; pages given at run time are empty and not measured")]
    AugWithContents(&'static str),
    /// A section that only informs, yet wants memory.
    #[error("mem_size {0:#x}; must be 0, this type takes no guest memory")]
    InformationWithMemory(u64),
    /// No memory.
    #[error("mem_size 0; must be at least one page (4096)")]
    MemSizeZero,
    /// Memory that isn't whole pages.
    #[error("mem_size {0:#x}; must be a multiple of 4096")]
    MemSizeUnaligned(u64),
    /// An address that isn't a page's.
    #[error("gpa {0:#x}; must be a multiple of 4096")]
    GpaUnaligned(u64),
    /// gpa + mem_size is not a number.
    #[error("gpa {gpa:#x} + mem_size {mem_size:#x} is more than 64 bits; must end below {end:#x}")]
    GpaOverflow {
        /// As found.
        gpa: u64,
        /// As found.
        mem_size: u64,
        /// First address that isn't private.
        end: u64,
    },
    /// Beyond the width of addresses.
    #[error("gpa {gpa:#x} to {end:#x}: above the GPA width of {bits} bits")]
    AboveGpaw {
        /// As found.
        gpa: u64,
        /// First address behind the section.
        end: u64,
        /// The width.
        bits: u32,
    },
    /// In the shared half.
    #[error("gpa {gpa:#x} to {end:#x}: has the shared bit ({bit}); must be private")]
    SharedBit {
        /// As found.
        gpa: u64,
        /// First address behind the section.
        end: u64,
        /// The number of the shared bit.
        bit: u32,
    },
    /// Firmware that isn't in the firmware slot.
    #[error(
        "gpa {gpa:#x} to {end:#x}: outside of the firmware at {low:#x} to 0x100000000, \
             which is where an image of this size lies"
    )]
    OutsideFlash {
        /// As found.
        gpa: u64,
        /// First address behind the section.
        end: u64,
        /// Where the firmware begins.
        low: u64,
    },
    /// Memory that the guest does not have.
    #[error("gpa {gpa:#x} to {end:#x}: above or outside of guest memory, which is {ram}")]
    OutsideRam {
        /// As found.
        gpa: u64,
        /// First address behind the section.
        end: u64,
        /// The ranges there are.
        ram: String,
    },
    /// Contents outside of the image.
    #[error(
        "data_offset {offset:#x} + raw_size {raw_size:#x}: out of the image, which has \
         {image_len:#x} bytes; truncated, or a _CODE image without its _VARS?"
    )]
    DataOutOfImage {
        /// As found.
        offset: u32,
        /// As found.
        raw_size: u32,
        /// Size of the image.
        image_len: u64,
    },
    /// More contents than memory.
    #[error("raw_size {raw_size:#x} is more than mem_size {mem_size:#x}")]
    RawLargerThanMemory {
        /// As found.
        raw_size: u32,
        /// As found.
        mem_size: u64,
    },
    /// Contents where the VMM or nobody provides them.
    #[error("raw_size {0:#x}; must be 0, this type has no contents in the image")]
    RawNotWanted(u32),
    /// No contents where there must be some.
    #[error("raw_size 0; must be more, the contents of this type come from the image")]
    RawMissing,
    /// Two sections share memory.
    #[error("gpa {gpa:#x} to {end:#x}: overlaps {other} at {other_gpa:#x} to {other_end:#x}")]
    Overlap {
        /// As found.
        gpa: u64,
        /// First address behind the section.
        end: u64,
        /// The section of lower index that it overlaps.
        other: SectionAt,
        /// Its address.
        other_gpa: u64,
        /// First address behind it.
        other_end: u64,
    },
    /// A second TD_HOB.
    #[error("type TD_HOB: there is one already, section {0}; at most one is allowed")]
    SecondTdHob(usize),
    /// The hand-off blocks do not fit.
    #[error("mem_size {mem_size:#x}: too small for the hand-off blocks, which take {needed:#x}")]
    HobTooSmall {
        /// As found.
        mem_size: u64,
        /// Bytes of the list.
        needed: u64,
    },
}
