//! The TDVF descriptor and its sections.
//!
//! ```text
//! descriptor             section (count of them follow the descriptor)
//! 0  u8[4] 'TDVF'        0  u32 data offset in the image
//! 4  u32   length        4  u32 raw size in the image
//! 8  u32   version = 1   8  u64 guest physical address
//! 12 u32   count         16 u64 size in memory
//!                        24 u32 type
//!                        28 u32 attributes
//! ```
//!
//! Source: TD-shim specification, tables 1.1-1 to 1.1-4; EDK II `OvmfPkg/ResetVector/X64/
//! IntelTdxMetadata.asm`.

use std::fmt;

use crate::bytes::{array_at, u32_at, u64_at};
use crate::{TdvfError, machine, table};

/// Bytes of the descriptor without its sections.
pub const DESCRIPTOR_LEN: u64 = 16;
/// Bytes of a section.
pub const SECTION_LEN: u64 = 32;
/// What the descriptor begins with.
pub const SIGNATURE: [u8; 4] = *b"TDVF";
/// The only version there is.
pub const VERSION: u32 = 1;
/// More sections than any firmware has had (OVMF: 6 or 7): a larger count is a broken image.
pub const MAX_SECTIONS: u32 = 256;
/// Distance from the end of the image to the pointer that images without a GUIDed table have.
pub const FIXED_POINTER_FROM_END: usize = 32;

/// What a section is for. An open number: any u32 can be held and printed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SectionKind(pub u32);

impl SectionKind {
    /// Boot firmware volume: code, copied from the image and usually measured.
    pub const BFV: Self = Self(0);
    /// Configuration firmware volume: variables, copied from the image.
    pub const CFV: Self = Self(1);
    /// Where the VMM puts the hand-off blocks.
    pub const TD_HOB: Self = Self(2);
    /// Temporary memory (stack, heap, mailbox), zero.
    pub const TEMP_MEM: Self = Self(3);
    /// Permanent memory that the firmware owns, usually given by PAGE.AUG.
    pub const PERM_MEM: Self = Self(4);
    /// A payload such as a kernel.
    pub const PAYLOAD: Self = Self(5);
    /// The payload's parameters, such as a command line.
    pub const PAYLOAD_PARAM: Self = Self(6);
    /// Information about the image itself; takes no memory.
    pub const TD_INFO: Self = Self(7);
    /// Parameters that the image wants its TD created with; takes no memory.
    pub const TD_PARAMS: Self = Self(8);

    /// The name that specifications give it, if it has one.
    pub const fn name(self) -> Option<&'static str> {
        const NAMES: [&str; 9] = [
            "BFV",
            "CFV",
            "TD_HOB",
            "TempMem",
            "PermMem",
            "Payload",
            "PayloadParam",
            "TD_INFO",
            "TD_PARAMS",
        ];
        if self.0 < NAMES.len() as u32 {
            Some(NAMES[self.0 as usize])
        } else {
            None
        }
    }

    /// Whether the section only informs and takes no guest memory.
    pub const fn is_informational(self) -> bool {
        matches!(self, Self::TD_INFO | Self::TD_PARAMS)
    }

    /// Whether the section lies in the flash window below 4 GiB instead of in RAM.
    pub const fn is_flash(self) -> bool {
        matches!(self, Self::BFV | Self::CFV)
    }
}

impl fmt::Display for SectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => f.pad(&format!("type {:#x}", self.0)),
        }
    }
}

impl fmt::Debug for SectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// How the pages of a section enter the TD.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Attributes(pub u32);

impl Attributes {
    /// The contents are measured with `TDH.MR.EXTEND`.
    pub const MR_EXTEND: Self = Self(1);
    /// The pages are given at run time with `TDH.MEM.PAGE.AUG` instead of `TDH.MEM.PAGE.ADD`.
    pub const PAGE_AUG: Self = Self(2);
    /// All bits that mean something.
    pub const KNOWN: u32 = 3;

    /// Whether MR.EXTEND is set.
    pub const fn mr_extend(self) -> bool {
        self.0 & Self::MR_EXTEND.0 != 0
    }

    /// Whether PAGE.AUG is set.
    pub const fn page_aug(self) -> bool {
        self.0 & Self::PAGE_AUG.0 != 0
    }

    /// The bits that are reserved and must be 0.
    pub const fn unknown(self) -> u32 {
        self.0 & !Self::KNOWN
    }
}

/// One section, as it stands in the image: nothing about it has been checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Section {
    /// What it is for.
    pub kind: SectionKind,
    /// Where its contents begin in the image, in bytes.
    pub data_offset: u32,
    /// Bytes of contents in the image; 0 is none.
    pub raw_size: u32,
    /// Guest physical address.
    pub gpa: u64,
    /// Bytes of guest memory. What the raw size leaves is zero.
    pub mem_size: u64,
    /// How its pages enter the TD.
    pub attributes: Attributes,
}

impl Section {
    /// Its 32 bytes as stored.
    pub fn to_bytes(&self) -> [u8; 32] {
        let mut out = [0; 32];
        out[0..4].copy_from_slice(&self.data_offset.to_le_bytes());
        out[4..8].copy_from_slice(&self.raw_size.to_le_bytes());
        out[8..16].copy_from_slice(&self.gpa.to_le_bytes());
        out[16..24].copy_from_slice(&self.mem_size.to_le_bytes());
        out[24..28].copy_from_slice(&self.kind.0.to_le_bytes());
        out[28..32].copy_from_slice(&self.attributes.0.to_le_bytes());
        out
    }

    fn read(image: &[u8], at: usize) -> Option<Self> {
        Some(Self {
            data_offset: u32_at(image, at)?,
            raw_size: u32_at(image, at + 4)?,
            gpa: u64_at(image, at + 8)?,
            mem_size: u64_at(image, at + 16)?,
            kind: SectionKind(u32_at(image, at + 24)?),
            attributes: Attributes(u32_at(image, at + 28)?),
        })
    }
}

/// How the descriptor was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Location {
    /// By the GUIDed table: OVMF, and the only way that QEMU since 10.1 knows. The entry holds the
    /// distance from the end of the image.
    GuidTable,
    /// By the u32 at image end - 32, an offset from the start of the image: TD-shim, and OVMF and
    /// QEMU of the time before the table had the entry.
    FixedPointer,
}

/// The metadata of an image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Metadata {
    /// How the descriptor was found.
    pub location: Location,
    /// Where it begins in the image, in bytes.
    pub descriptor_offset: usize,
    /// The sections in their stored order, which is the order of launch and of measurement.
    pub sections: Vec<Section>,
}

impl Metadata {
    /// Finds and reads the metadata. The sections are read but not judged: see
    /// [`crate::validate`].
    ///
    /// # Errors
    /// Every way in which the image, the table or the descriptor can be broken.
    pub fn parse(image: &[u8]) -> Result<Self, TdvfError> {
        machine::check_image_len(image.len() as u64)?;
        let (location, at) = locate(image)?;
        Self::read(image, location, at)
    }

    /// As [`parse`](Metadata::parse), but finds the descriptor only in this way. An image may have
    /// both, and a VMM that knows one of them only.
    ///
    /// # Errors
    /// As [`parse`](Metadata::parse).
    pub fn parse_by(image: &[u8], location: Location) -> Result<Self, TdvfError> {
        machine::check_image_len(image.len() as u64)?;
        let at = match location {
            Location::GuidTable if table::is_present(image) => by_table(image)?,
            Location::GuidTable => return Err(TdvfError::NoGuidTable),
            Location::FixedPointer => by_pointer(image)?,
        };
        Self::read(image, location, at)
    }

    fn read(image: &[u8], location: Location, at: usize) -> Result<Self, TdvfError> {
        check_signature(image, at)?;
        let count = check_header(image, at)?;
        let first = at + DESCRIPTOR_LEN as usize;
        let sections = (0..count as usize)
            .map_while(|i| Section::read(image, first + i * SECTION_LEN as usize))
            .collect();
        Ok(Self {
            location,
            descriptor_offset: at,
            sections,
        })
    }
}

/// Where the descriptor begins; its 16 bytes are inside the image.
fn locate(image: &[u8]) -> Result<(Location, usize), TdvfError> {
    if table::is_present(image) {
        return Ok((Location::GuidTable, by_table(image)?));
    }
    Ok((Location::FixedPointer, by_pointer(image)?))
}

/// Whether a descriptor at `at` is inside of an image.
fn fits(image: &[u8], at: u64) -> bool {
    at.checked_add(DESCRIPTOR_LEN)
        .is_some_and(|end| end <= image.len() as u64)
}

fn by_table(image: &[u8]) -> Result<usize, TdvfError> {
    let len = image.len() as u64;
    let data = table::find(image, &table::TDX_METADATA_GUID)?;
    let from_end = u32_at(data, 0).ok_or(TdvfError::TdxEntryShort { len: data.len() })?;
    match len
        .checked_sub(u64::from(from_end))
        .filter(|at| fits(image, *at))
    {
        Some(at) => Ok(at as usize),
        None => Err(TdvfError::DescriptorOffset {
            from_end,
            image_len: len,
        }),
    }
}

/// Any u32 may stand there in an image that isn't a TDVF: it is a pointer only if it points to the
/// signature.
fn by_pointer(image: &[u8]) -> Result<usize, TdvfError> {
    image
        .len()
        .checked_sub(FIXED_POINTER_FROM_END)
        .and_then(|pointer| u32_at(image, pointer))
        .filter(|at| fits(image, u64::from(*at)))
        .filter(|at| array_at(image, *at as usize) == Some(SIGNATURE))
        .map(|at| at as usize)
        .ok_or(TdvfError::NoGuidTable)
}

fn check_signature(image: &[u8], at: usize) -> Result<(), TdvfError> {
    let found = array_at(image, at).unwrap_or_default();
    if found != SIGNATURE {
        return Err(TdvfError::Signature { offset: at, found });
    }
    Ok(())
}

/// Checks version, count and length; gives the count.
fn check_header(image: &[u8], at: usize) -> Result<u32, TdvfError> {
    let field = |offset| u32_at(image, at + offset).unwrap_or(0);
    let (length, version, count) = (field(4), field(8), field(12));
    if version != VERSION {
        return Err(TdvfError::Version { version });
    }
    if !(1..=MAX_SECTIONS).contains(&count) {
        return Err(TdvfError::Count { count });
    }
    let expected = DESCRIPTOR_LEN + u64::from(count) * SECTION_LEN;
    if u64::from(length) != expected {
        return Err(TdvfError::Length {
            length,
            count,
            expected,
        });
    }
    let room = image.len() as u64 - at as u64;
    if expected > room {
        return Err(TdvfError::DescriptorTruncated {
            offset: at,
            length,
            room,
        });
    }
    Ok(count)
}
