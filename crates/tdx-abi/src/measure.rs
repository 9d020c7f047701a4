//! The blocks that a TD's build hashes into MRTD (SHA-384), as bytes.
//!
//! `TDH.MEM.PAGE.ADD` contributes [`page_add_block`]; `TDH.MR.EXTEND` contributes
//! [`extend_block`] and then the 256 bytes of memory. Nothing else is hashed.
//!
//! Source: TDX module 1.5 base specification, "Measurement and attestation"; checked against module
//! 1.5.06.

use crate::addr::Gpa;

/// Bytes in one block.
pub const BLOCK_BYTES: usize = 128;
/// Bytes of memory that one `TDH.MR.EXTEND` measures, and the alignment of its GPA.
pub const EXTEND_CHUNK_BYTES: u64 = 256;
/// Bytes in a SHA-384 measurement register.
pub const SHA384_BYTES: usize = 48;

/// Where the address stands in a block, 8 bytes, little-endian.
pub const GPA_OFFSET: usize = 16;

fn block(tag: &[u8], gpa: Gpa) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    block[..tag.len()].copy_from_slice(tag);
    block[GPA_OFFSET..GPA_OFFSET + 8].copy_from_slice(&gpa.0.to_le_bytes());
    block
}

/// The block of `TDH.MEM.PAGE.ADD`: its tag, zeros to 16, the page's GPA, zeros.
pub fn page_add_block(gpa: Gpa) -> [u8; BLOCK_BYTES] {
    block(b"MEM.PAGE.ADD", gpa)
}

/// The first of the three blocks of `TDH.MR.EXTEND`: its tag, zeros to 16, the chunk's GPA, zeros.
/// The other two are the 256 bytes at that GPA.
pub fn extend_block(gpa: Gpa) -> [u8; BLOCK_BYTES] {
    block(b"MR.EXTEND", gpa)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_hold_the_tag_and_the_address() {
        let add = page_add_block(Gpa(0xffc8_4000));
        assert_eq!(&add[..16], b"MEM.PAGE.ADD\0\0\0\0");
        assert_eq!(add[16..24], 0xffc8_4000_u64.to_le_bytes());
        assert!(add[24..].iter().all(|byte| *byte == 0));

        let extend = extend_block(Gpa(0xffc8_4100));
        assert_eq!(&extend[..16], b"MR.EXTEND\0\0\0\0\0\0\0");
        assert_eq!(extend[16..24], 0xffc8_4100_u64.to_le_bytes());
        assert!(extend[24..].iter().all(|byte| *byte == 0));
    }
}
