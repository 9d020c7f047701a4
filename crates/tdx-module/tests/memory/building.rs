//! PAGE.ADD, MR.EXTEND, MR.FINALIZE.

use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::status::TdxStatus;

use crate::bed::{Ask, Bed, GIB, PAGE, SOURCE};
use crate::{MAPPED, REG, answer, rcx, settled};

/// MRTD of a TD by MNG.RD.
fn mrtd(bed: &Bed, tdr: u64) -> String {
    const MRTD: u64 = 0x1310_0003_0000_0000;
    let words = (0..6).map(|i| bed.ok(Leaf::MNG_RD, &[tdr, MRTD + i]).r8);
    words
        .flat_map(u64::to_le_bytes)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[test]
fn mrtd_of_one_measured_page_is_what_the_real_module_computes() {
    let bed = Bed::new();
    let content: Vec<u8> = (0..PAGE).map(|i| (i * 7) as u8).collect();
    bed.write(SOURCE, &content);
    let tdr = bed.td(Ask::PLAIN);
    bed.tables(tdr, 0, 0);
    bed.add(tdr, 0x1000);
    for chunk in 0..16 {
        bed.ok(Leaf::MR_EXTEND, &[0x1000 + chunk * 256, tdr]);
    }
    bed.finalize(tdr);
    assert_eq!(
        mrtd(&bed, tdr),
        "dde1b037e4cc42fec27e85d07ce13e6f3ac882e383dc8820b500454ca7b46f3e\
         89f2cea74c510de6f5d15854a885419f"
    );
    settled(&bed);
}

#[test]
fn a_page_is_copied_mapped_and_owned() {
    let bed = Bed::new();
    bed.write(SOURCE, &[0x5a; PAGE as usize]);
    let tdr = bed.td(Ask::PLAIN);
    bed.tables(tdr, 0, 0);
    let page = bed.add(tdr, 0x3000);
    assert_eq!(
        bed.entry(tdr, 0x3000, 0),
        (page | 0x8000_0000_0000_00f7, MAPPED)
    );
    assert_eq!(bed.metadata(page), (REG, tdr, 0));
    assert_eq!(bed.m.memory().read_u64(page.into()), 0x5a5a_5a5a_5a5a_5a5a);
    settled(&bed);
}

#[test]
fn a_source_that_nobody_wrote_gives_zeros() {
    let bed = Bed::new();
    let tdr = bed.td(Ask::PLAIN);
    bed.tables(tdr, 0, 0);
    let page = bed.page();
    bed.write(page, &[1; PAGE as usize]);
    bed.ok(Leaf::MEM_PAGE_ADD, &[0, tdr, page, SOURCE]);
    assert_eq!(bed.m.memory().read_u64(page.into()), 0);
}

#[test]
fn a_gpa_takes_one_page() {
    let bed = Bed::new();
    let tdr = bed.td(Ask::PLAIN);
    bed.tables(tdr, 0, 0);
    let first = bed.add(tdr, 0);
    let again = bed.call(Leaf::MEM_PAGE_ADD, &[0, tdr, bed.page(), SOURCE]);
    let entry = first | 0x8000_0000_0000_00f7;
    let refused = rcx(TdxStatus::EPT_ENTRY_STATE_INCORRECT);
    assert_eq!(answer(again), (refused, entry, 0x400));
    settled(&bed);
}

#[test]
fn a_page_without_a_table_says_where_the_walk_ended() {
    let bed = Bed::new();
    let tdr = bed.td(Ask::PLAIN);
    let add = |gpa| bed.call(Leaf::MEM_PAGE_ADD, &[gpa, tdr, bed.page(), SOURCE]);
    let failed = rcx(TdxStatus::EPT_WALK_FAILED);
    assert_eq!(answer(add(0)), (failed, 1 << 63, 3));
    bed.tables(tdr, 0, 1);
    assert_eq!(answer(add(0)), (failed, 1 << 63, 1));
    assert_eq!(answer(add(GIB)), (failed, 1 << 63, 2));
    settled(&bed);
}

#[test]
fn operands_are_checked_after_the_td_and_the_page_last() {
    let bed = Bed::new();
    let tdr = bed.td(Ask::PLAIN);
    bed.tables(tdr, 0, 0);
    let page = bed.page();
    let hkid = 1 << 46;
    let add = |gpa, tdr, page, source| bed.status(Leaf::MEM_PAGE_ADD, &[gpa, tdr, page, source]);
    let invalid = |operand| TdxStatus::OPERAND_INVALID.with(operand);
    assert_eq!(
        add(8, page, 1, 1),
        TdxStatus::PAGE_METADATA_INCORRECT.with(OperandId::RDX)
    );
    assert_eq!(add(8, tdr, 1, 1), invalid(OperandId::RCX));
    assert_eq!(add(1, tdr, 1, 1), invalid(OperandId::RCX));
    assert_eq!(add(1 << 47, tdr, 1, 1), invalid(OperandId::RCX));
    assert_eq!(add(0, tdr, 1, 1), invalid(OperandId::R9));
    assert_eq!(add(0, tdr, 1, SOURCE + 33 * hkid), invalid(OperandId::R9));
    assert_eq!(add(0, tdr, 1, SOURCE), invalid(OperandId::R8));
    assert_eq!(add(0, tdr, page | hkid, SOURCE), invalid(OperandId::R8));
    assert_eq!(
        add(0, tdr, SOURCE, SOURCE),
        TdxStatus::OPERAND_ADDR_RANGE_ERROR.with(OperandId::R8)
    );
    assert_eq!(
        add(0, tdr, tdr, SOURCE),
        TdxStatus::OPERAND_BUSY.with(OperandId::R8)
    );
    assert_eq!(add(0, tdr, page, SOURCE + 5 * hkid), TdxStatus::SUCCESS);
    settled(&bed);
}

#[test]
fn only_mapped_pages_are_measured_256_bytes_at_a_time() {
    let bed = Bed::new();
    let tdr = bed.td(Ask::PLAIN);
    bed.tables(tdr, 0, 0);
    bed.add(tdr, 0);
    bed.ok(Leaf::MEM_PAGE_AUG, &[0x1000, tdr, bed.page()]);
    let extend = |gpa| bed.call(Leaf::MR_EXTEND, &[gpa, tdr]);
    let absent = rcx(TdxStatus::EPT_ENTRY_NOT_PRESENT);
    assert_eq!(extend(0x80).status(), rcx(TdxStatus::OPERAND_INVALID));
    assert_eq!(extend(1 << 47).status(), rcx(TdxStatus::OPERAND_INVALID));
    assert_eq!(answer(extend(0x2000)), (absent, 1 << 63, 0));
    assert_eq!(answer(extend(GIB)), (absent, 1 << 63, 2));
    assert_eq!(extend(0x1000).status(), absent);
    assert_eq!(answer(extend(0xf00)), (TdxStatus::SUCCESS, 0, 0));
}

#[test]
fn a_td_is_finished_once_and_with_a_vcpu() {
    let bed = Bed::new();
    let tdr = bed.td(Ask::PLAIN);
    bed.tables(tdr, 0, 0);
    assert_eq!(bed.status(Leaf::MR_FINALIZE, &[tdr]), TdxStatus::NO_VCPUS);
    bed.finalize(tdr);
    let incorrect = TdxStatus::OP_STATE_INCORRECT;
    assert_eq!(bed.status(Leaf::MR_FINALIZE, &[tdr]), incorrect);
    assert_eq!(bed.status(Leaf::MR_EXTEND, &[0, tdr]), incorrect);
    assert_eq!(
        bed.status(Leaf::MEM_PAGE_ADD, &[0, tdr, bed.page(), SOURCE]),
        incorrect
    );
    settled(&bed);
}

#[test]
fn the_order_of_pages_is_measured() {
    let bed = Bed::new();
    let mrtd_of = |gpas: [u64; 2]| {
        let tdr = bed.td(Ask::PLAIN);
        bed.tables(tdr, 0, 0);
        for gpa in gpas {
            bed.add(tdr, gpa);
        }
        bed.finalize(tdr);
        mrtd(&bed, tdr)
    };
    assert_eq!(mrtd_of([0, 0x1000]), mrtd_of([0, 0x1000]));
    assert_ne!(mrtd_of([0, 0x1000]), mrtd_of([0x1000, 0]));
}
