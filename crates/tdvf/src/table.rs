//! The GUIDed table in front of the reset vector.
//!
//! The table is read backwards. Its footer is the last entry and ends 32 bytes before the end of
//! the image, where OVMF's application processor vector begins. An entry is, from low to high
//! address: data, u16 length of the whole entry, 16-byte GUID; the footer's length is that of the
//! whole table, and its data are the other entries (EDK II `OvmfPkg/ResetVector/Ia16/
//! ResetVectorVtf0.asm`).

use crate::TdvfError;
use crate::bytes::{array_at, u16_at};

/// Distance from the end of the image to the end of the footer's GUID.
pub(crate) const FOOTER_FROM_END: usize = 32;
/// Bytes of an entry without its data: u16 length and GUID.
pub(crate) const ENTRY_OVERHEAD: usize = 18;

/// `96b582de-1fb2-45f7-baea-a366c55a082d`, the footer, as stored.
pub(crate) const FOOTER_GUID: [u8; 16] = guid(
    0x96b5_82de,
    0x1fb2,
    0x45f7,
    [0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08, 0x2d],
);
/// `e47a6535-984a-4798-865e-4685a7bf8ec2`, the entry that points to the TDX metadata, as stored.
pub(crate) const TDX_METADATA_GUID: [u8; 16] = guid(
    0xe47a_6535,
    0x984a,
    0x4798,
    [0x86, 0x5e, 0x46, 0x85, 0xa7, 0xbf, 0x8e, 0xc2],
);

/// A GUID in its stored order: the first three fields are little endian, the rest is bytes.
const fn guid(first: u32, second: u16, third: u16, rest: [u8; 8]) -> [u8; 16] {
    let ([a, b, c, d], [e, f], [g, h]) = (
        first.to_le_bytes(),
        second.to_le_bytes(),
        third.to_le_bytes(),
    );
    let [i, j, k, l, m, n, o, p] = rest;
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

/// Whether the image has a table, that is, a footer GUID where it belongs.
pub(crate) fn is_present(image: &[u8]) -> bool {
    image
        .len()
        .checked_sub(FOOTER_FROM_END + 16)
        .and_then(|at| array_at(image, at))
        .is_some_and(|found: [u8; 16]| found == FOOTER_GUID)
}

/// The data of the entry with this GUID. The image has a footer ([`is_present`]).
///
/// # Errors
/// A table or an entry whose length does not fit what surrounds it; no such entry.
pub(crate) fn find<'a>(image: &'a [u8], wanted: &[u8; 16]) -> Result<&'a [u8], TdvfError> {
    let footer = image
        .len()
        .checked_sub(FOOTER_FROM_END + ENTRY_OVERHEAD)
        .ok_or(TdvfError::ImageTooShort {
            len: image.len() as u64,
        })?;
    let table_len = usize::from(u16_at(image, footer).unwrap_or(0));
    let fits = ENTRY_OVERHEAD..=footer + ENTRY_OVERHEAD;
    if !fits.contains(&table_len) {
        return Err(TdvfError::TableLength {
            len: table_len,
            room: footer + ENTRY_OVERHEAD,
        });
    }
    let start = footer + ENTRY_OVERHEAD - table_len;
    let mut end = footer;
    while end - start >= ENTRY_OVERHEAD {
        let len = usize::from(u16_at(image, end - ENTRY_OVERHEAD).unwrap_or(0));
        if !(ENTRY_OVERHEAD..=end - start).contains(&len) {
            return Err(TdvfError::TableEntryLength {
                offset: end - ENTRY_OVERHEAD,
                len,
                room: end - start,
            });
        }
        if array_at::<16>(image, end - 16).is_some_and(|found| found == *wanted) {
            return Ok(&image[end - len..end - ENTRY_OVERHEAD]);
        }
        end -= len;
    }
    Err(TdvfError::NoTdxEntry)
}
