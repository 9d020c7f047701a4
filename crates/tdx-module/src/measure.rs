//! MRTD: the hash over what the host built (specification "TD Measurement").

use std::fmt;

use atomic_refcell::AtomicRefCell;
use openssl::sha::Sha384;
use seamlock_tdx_abi::addr::Gpa;
use seamlock_tdx_abi::measure::{
    BLOCK_BYTES, EXTEND_CHUNK_BYTES, GPA_OFFSET, extend_block, page_add_block,
};

/// A SHA-384 value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest(pub [u8; 48]);

impl Default for Digest {
    fn default() -> Digest {
        Digest([0; 48])
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// The hash of a TD that is being built, where the holder of the TDR finds it.
///
/// # Locking
/// TDR exclusive. The cell only makes sure of it, with one atomic operation where a lock takes two.
#[derive(Debug, Default)]
pub(crate) struct LaunchCell(AtomicRefCell<Launch>);

impl LaunchCell {
    /// Runs `f` on the hash.
    #[inline]
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut Launch) -> R) -> R {
        f(&mut self.0.borrow_mut())
    }
}

/// The hash of a TD that is being built.
#[derive(Clone)]
pub(crate) struct Launch {
    hash: Sha384,
    // What is hashed, made once: only the address and the chunk change from call to call.
    page: [u8; BLOCK_BYTES],
    chunk: [u8; BLOCK_BYTES + EXTEND_CHUNK_BYTES as usize],
}

impl Default for Launch {
    fn default() -> Launch {
        let mut chunk = [0; BLOCK_BYTES + EXTEND_CHUNK_BYTES as usize];
        chunk[..BLOCK_BYTES].copy_from_slice(&extend_block(Gpa(0)));
        Launch {
            hash: Sha384::default(),
            page: page_add_block(Gpa(0)),
            chunk,
        }
    }
}

impl Launch {
    /// TDH.MEM.PAGE.ADD: one block with the page's address. Its content is not hashed.
    #[inline]
    pub(crate) fn page_add(&mut self, gpa: Gpa) {
        self.page[GPA_OFFSET..GPA_OFFSET + 8].copy_from_slice(&gpa.0.to_le_bytes());
        self.hash.update(&self.page);
    }

    /// TDH.MR.EXTEND: one block with the chunk's address, then the 256 bytes that `read` writes.
    #[inline]
    pub(crate) fn extend(&mut self, gpa: Gpa, read: impl FnOnce(&mut [u8])) {
        let (head, chunk) = self.chunk.split_at_mut(BLOCK_BYTES);
        head[GPA_OFFSET..GPA_OFFSET + 8].copy_from_slice(&gpa.0.to_le_bytes());
        read(chunk);
        self.hash.update(&self.chunk);
    }

    /// TDH.MR.FINALIZE.
    pub(crate) fn finalize(&self) -> Digest {
        Digest(self.hash.clone().finish())
    }
}

impl fmt::Debug for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Launch")
    }
}
