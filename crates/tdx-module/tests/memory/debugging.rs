//! MEM.RD, MEM.WR and SEPT.RD of a debug TD.

use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::status::TdxStatus;

use crate::bed::{Ask, Bed, GIB, MIB2, SOURCE};
use crate::{answer, rcx, settled};

#[test]
fn a_debug_td_is_read_and_written_in_words() {
    let bed = Bed::new();
    bed.write(SOURCE + 8, &0x1122_3344_5566_7788_u64.to_le_bytes());
    let tdr = bed.td(Ask::DEBUG);
    bed.tables(tdr, 0, 0);
    let page = bed.add(tdr, 0x2000);
    assert_eq!(
        bed.ok(Leaf::MEM_RD, &[0x2008, tdr]).r8,
        0x1122_3344_5566_7788
    );
    let old = bed.ok(Leaf::MEM_WR, &[0x2008, tdr, 5]);
    assert_eq!((old.r8, old.rcx, old.rdx), (0x1122_3344_5566_7788, 0, 0));
    assert_eq!(bed.ok(Leaf::MEM_RD, &[0x2008, tdr]).r8, 5);
    assert_eq!(bed.m.memory().read_u64((page + 8).into()), 5);
    settled(&bed);
}

#[test]
fn any_other_td_is_closed() {
    let bed = Bed::new();
    let tdr = bed.td(Ask::PLAIN);
    bed.tables(tdr, 0, 0);
    bed.add(tdr, 0);
    assert_eq!(bed.status(Leaf::MEM_RD, &[0, tdr]), TdxStatus::TD_NON_DEBUG);
    assert_eq!(
        bed.status(Leaf::MEM_WR, &[0, tdr, 1]),
        TdxStatus::TD_NON_DEBUG
    );
    let l2 = bed.status(Leaf::MEM_SEPT_RD, &[0, tdr | 1]);
    assert_eq!(l2, TdxStatus::OPERAND_INVALID.with(OperandId::RDX));
}

#[test]
fn only_mapped_words_are_read() {
    let bed = Bed::new();
    let tdr = bed.td(Ask::DEBUG);
    bed.tables(tdr, 0, 0);
    bed.ok(Leaf::MEM_PAGE_AUG, &[0, tdr, bed.page()]);
    let read = |gpa| bed.call(Leaf::MEM_RD, &[gpa, tdr]);
    let absent = rcx(TdxStatus::EPT_ENTRY_NOT_PRESENT);
    assert_eq!(read(4).status(), rcx(TdxStatus::OPERAND_INVALID));
    assert_eq!(read(1 << 47).status(), rcx(TdxStatus::OPERAND_INVALID));
    assert_eq!(read(0).status(), absent);
    assert_eq!(answer(read(GIB)), (absent, 1 << 63, 2));
    bed.add_512(tdr, MIB2);
    bed.ok(Leaf::MEM_PAGE_PROMOTE, &[MIB2 | 1, tdr]);
    assert_eq!(read(MIB2 + 0x1_2340).status(), TdxStatus::SUCCESS);
    settled(&bed);
}

#[test]
fn a_range_without_l2_entries_has_no_l2_attributes() {
    let bed = Bed::new();
    let tdr = bed.td(Ask {
        attributes: 1,
        l2_vms: 1,
    });
    bed.tables(tdr, 0, 2);
    let operands = [2, tdr, bed.page()];
    bed.ok(Leaf::MEM_SEPT_ADD, &operands);
    let entry = bed.ok(Leaf::MEM_SEPT_RD, &[2, tdr | 1, 99]);
    assert_eq!((entry.rcx, entry.r8), (7, 0));
    let plain = bed.ok(Leaf::MEM_SEPT_RD, &[2, tdr, 99]);
    assert_eq!(plain.r8, 99);
    settled(&bed);
}

#[test]
fn a_table_of_an_l2_vm_shows_all_rights() {
    let bed = Bed::new();
    let tdr = bed.td(Ask {
        attributes: 1,
        l2_vms: 3,
    });
    let pages = [(); 3].map(|()| bed.page());
    let null = u64::MAX;
    let operands = [3, tdr, pages[0], null, pages[1], pages[2]];
    bed.ok_version(Leaf::MEM_SEPT_ADD, 1, &operands);
    let entry = bed.ok(Leaf::MEM_SEPT_RD, &[3, tdr | 1]);
    assert_eq!(entry.r8, 0x800f_800f_0000_0000);
    settled(&bed);
}
