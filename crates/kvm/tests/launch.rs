//! Whole launches: what is measured, and what comes back.

mod vmm;

use seamlock_tdx_abi::kvm::*;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::{FieldId, Leaf, TdxStatus};
use sha2::{Digest, Sha384};
use vmm::{Td, Vmm, boot};

/// MRTD of pages of `contents` from `gpa` on, each added and then extended.
fn expected_mrtd(regions: &[(u64, &[u8], bool)]) -> Vec<u8> {
    let mut hash = Sha384::new();
    let block = |tag: &[u8], gpa: u64| {
        let mut block = [0u8; 128];
        block[..tag.len()].copy_from_slice(tag);
        block[16..24].copy_from_slice(&gpa.to_le_bytes());
        block
    };
    for (gpa, contents, measured) in regions {
        for (i, page) in contents.chunks(4096).enumerate() {
            let gpa = gpa + i as u64 * 4096;
            hash.update(block(b"MEM.PAGE.ADD", gpa));
            for (j, chunk) in page.chunks(256).enumerate().filter(|_| *measured) {
                hash.update(block(b"MR.EXTEND", gpa + j as u64 * 256));
                hash.update(chunk);
            }
        }
    }
    hash.finalize().to_vec()
}

/// MRTD as the module tells the host.
fn mrtd(vmm: &Vmm) -> Vec<u8> {
    let tdrs = vmm
        .host
        .live_vms()
        .into_iter()
        .filter_map(|kvm| kvm.tdx().tdr());
    let tdr = tdrs.last().expect("a TD");
    let mut mrtd = Vec::new();
    for element in 0..6 {
        let field = FieldId(FieldId::TDCS_MRTD.0 + element);
        let mut regs = Regs {
            rcx: tdr.0,
            rdx: field.0,
            ..Regs::call(Leaf::MNG_RD)
        };
        let _ = vmm.host.module().seamcall(0, &mut regs);
        assert_eq!(regs.status(), TdxStatus::SUCCESS);
        mrtd.extend_from_slice(&regs.r8.to_le_bytes());
    }
    mrtd
}

fn contents(pages: usize, seed: u8) -> Vec<u8> {
    (0..pages * 4096)
        .map(|i| (i as u8).wrapping_mul(7) ^ (i >> 12) as u8 ^ seed)
        .collect()
}

fn launch(vmm: &Vmm, vcpus: u64) -> (Td, Vec<u8>) {
    let td = vmm.build(vcpus);
    let (code, data) = (contents(5, 1), contents(3, 9));
    for (gpa, bytes, measure) in [(0x10_0000, &code, true), (0x80_0000, &data, false)] {
        let mut region = KvmTdxInitMemRegion {
            source_addr: vmm.process.map_copy(bytes),
            gpa,
            nr_pages: bytes.len() as u64 / 4096,
        };
        let source = region.source_addr;
        assert_eq!(vmm.load(td.vcpus[0], &mut region, measure), Ok(0));
        let done = KvmTdxInitMemRegion {
            source_addr: source + bytes.len() as u64,
            gpa: gpa + bytes.len() as u64,
            nr_pages: 0,
        };
        assert_eq!(region, done);
    }
    assert_eq!(vmm.finalize(&td), Ok(0));
    let expected = expected_mrtd(&[(0x10_0000, &code, true), (0x80_0000, &data, false)]);
    (td, expected)
}

#[test]
fn the_measurement_is_the_hash_of_what_was_loaded_and_all_pages_come_back() {
    let vmm = boot();
    let (in_use, hkids) = (vmm.host.pages().in_use(), vmm.host.free_hkids());
    let (td, expected) = launch(&vmm, 2);
    assert_eq!(mrtd(&vmm), expected);
    assert_eq!(vmm.host.free_hkids(), hkids - 1);
    vmm.drop_td(&td);
    let teardown = &vmm.host.teardowns()[0];
    assert_eq!(
        (teardown.pages_leaked, teardown.hkid_returned, teardown.bugs),
        (0, true, 0)
    );
    assert_eq!(teardown.private_pages, 8);
    assert_eq!(teardown.td_pages, 7);
    assert_eq!(teardown.vcpu_pages, 12);
    // 512 GiB, 1 GiB and two 2 MiB ranges.
    assert_eq!(teardown.sept_pages, 4);
    assert_eq!(
        (vmm.host.pages().in_use(), vmm.host.free_hkids()),
        (in_use, hkids)
    );
}

#[test]
fn the_measurement_does_not_depend_on_the_number_of_vcpus() {
    let vmm = boot();
    let (_, expected) = launch(&vmm, 1);
    assert_eq!(mrtd(&vmm), expected);
    let (_, again) = launch(&vmm, 4);
    assert_eq!((mrtd(&vmm), again), (expected.clone(), expected));
}

#[test]
fn a_launch_on_many_vcpus_of_a_thread_that_moves_about_flushes_and_still_works() {
    let vmm = boot();
    let td = vmm.build(2);
    let source_addr = vmm.process.map_copy(&contents(2, 3));
    for cpu in [1, 2, 3, 0] {
        vmm.control.migrate(cpu);
        let gpa = 0x20_0000 + u64::from(cpu) * 0x1_0000;
        let mut region = KvmTdxInitMemRegion {
            source_addr,
            gpa,
            nr_pages: 2,
        };
        assert_eq!(vmm.load(td.vcpus[1], &mut region, true), Ok(0));
    }
    let flushes = |vmm: &Vmm| {
        let leaves = vmm.host.counters().by_leaf();
        leaves
            .iter()
            .find(|(leaf, ..)| *leaf == Leaf::VP_FLUSH)
            .map(|(_, made, _)| *made)
    };
    assert_eq!(flushes(&vmm), Some(4));
    assert_eq!(vmm.finalize(&td), Ok(0));
    vmm.drop_td(&td);
    let teardown = &vmm.host.teardowns()[0];
    assert_eq!(
        (teardown.pages_leaked, teardown.hkid_returned, teardown.bugs),
        (0, true, 0)
    );
}

#[test]
fn a_second_td_can_be_built_after_the_first_and_gets_its_pages_and_hkid() {
    let vmm = boot();
    for _ in 0..3 {
        let (td, _) = launch(&vmm, 1);
        vmm.drop_td(&td);
    }
    assert!(
        vmm.host
            .teardowns()
            .iter()
            .all(|t| t.pages_leaked == 0 && t.bugs == 0)
    );
    assert_eq!(vmm.host.pages().in_use(), 0);
}
