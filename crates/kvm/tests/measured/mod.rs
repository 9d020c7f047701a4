//! MRTD, predicted from the calls and not from the module, and read back from the module.

#![allow(dead_code)]

use std::ops::Range;

use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::{FieldId, Leaf, TdxStatus};
use sha2::{Digest, Sha384};

use crate::vmm::Vmm;

/// What was hashed so far.
#[derive(Clone, Default)]
pub struct Measured {
    hash: Sha384,
}

impl Measured {
    fn block(&mut self, tag: &[u8], gpa: u64) {
        let mut block = [0u8; 128];
        block[..tag.len()].copy_from_slice(tag);
        block[16..24].copy_from_slice(&gpa.to_le_bytes());
        self.hash.update(block);
    }

    /// TDH.MEM.PAGE.ADD.
    pub fn add(&mut self, gpa: u64) {
        self.block(b"MEM.PAGE.ADD", gpa);
    }

    /// TDH.MR.EXTEND of some of a page's 16 chunks.
    pub fn chunks(&mut self, gpa: u64, page: &[u8], chunks: Range<u64>) {
        for chunk in chunks {
            self.block(b"MR.EXTEND", gpa + chunk * 256);
            self.hash.update(&page[chunk as usize * 256..][..256]);
        }
    }

    /// A page, added and measured.
    pub fn page(&mut self, gpa: u64, page: &[u8]) {
        self.add(gpa);
        self.chunks(gpa, page, 0..16);
    }

    pub fn value(self) -> Vec<u8> {
        self.hash.finalize().to_vec()
    }
}

/// MRTD of the only TD, as the module tells the host.
pub fn mrtd(vmm: &Vmm) -> Vec<u8> {
    let tdr = vmm.host.live_vms()[0].tdx().tdr().expect("a TD");
    let element = |element| {
        let mut regs = Regs {
            rcx: tdr.0,
            rdx: FieldId::TDCS_MRTD.0 + element,
            ..Regs::call(Leaf::MNG_RD)
        };
        let _ = vmm.host.module().seamcall(0, &mut regs);
        assert_eq!(regs.status(), TdxStatus::SUCCESS);
        regs.r8.to_le_bytes()
    };
    (0..6).flat_map(element).collect()
}
