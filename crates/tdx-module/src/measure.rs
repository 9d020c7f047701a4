//! MRTD: the hash over what the host built (specification "TD Measurement").

use std::fmt;

use openssl::sha::Sha384;
use seamlock_tdx_abi::addr::Gpa;
use seamlock_tdx_abi::measure::{extend_block, page_add_block};

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

/// The hash of a TD that is being built.
#[derive(Clone, Default)]
pub(crate) struct Launch(Sha384);

impl Launch {
    /// TDH.MEM.PAGE.ADD: one block with the page's address. Its content is not hashed.
    pub(crate) fn page_add(&mut self, gpa: Gpa) {
        self.0.update(&page_add_block(gpa));
    }

    /// TDH.MR.EXTEND: one block with the chunk's address, then the chunk.
    #[inline]
    pub(crate) fn extend(&mut self, gpa: Gpa, chunk: impl FnOnce(&mut [u8])) {
        let mut blocks = [0; 384];
        let (head, data) = blocks.split_at_mut(128);
        head.copy_from_slice(&extend_block(gpa));
        chunk(data);
        self.0.update(&blocks);
    }

    /// TDH.MR.FINALIZE.
    pub(crate) fn finalize(&self) -> Digest {
        Digest(self.0.clone().finish())
    }
}

impl fmt::Debug for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Launch")
    }
}
