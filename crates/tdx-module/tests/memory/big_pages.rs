//! PAGE.PROMOTE and PAGE.DEMOTE.

use seamlock_tdx_abi::addr::NULL_PA;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::status::TdxStatus;

use crate::bed::{Ask, Bed, MIB2, PAGE, SOURCE};
use crate::{EPT, MAPPED, NDA, PENDING, REG, TABLE, answer, rcx, settled};

const LEAF: u64 = 0x8000_0000_0000_00f7;
const LAST: u64 = MIB2 - PAGE;

/// A TD that is being built, with 512 pages side by side at GPA 0.
fn with_512_pages() -> (Bed, u64, u64) {
    let bed = Bed::new();
    let tdr = bed.td(Ask::PLAIN);
    let pages = bed.add_512(tdr, 0);
    (bed, tdr, pages)
}

#[test]
fn pages_side_by_side_become_one_and_come_apart_again() {
    let (bed, tdr, pages) = with_512_pages();
    let table = bed.ok(Leaf::MEM_PAGE_PROMOTE, &[1, tdr]).rcx;
    assert_eq!(bed.metadata(table).0, NDA);
    assert_eq!(bed.entry(tdr, 0, 1), (pages | LEAF, MAPPED));
    assert_eq!(bed.metadata(pages + LAST), (REG, tdr, 1));
    settled(&bed);
    bed.ok(Leaf::MEM_PAGE_DEMOTE, &[1, tdr, table]);
    assert_eq!(bed.metadata(table), (EPT, tdr, 0));
    assert_eq!(bed.entry(tdr, 0, 1), (7, TABLE));
    assert_eq!(bed.entry(tdr, LAST, 0), ((pages + LAST) | LEAF, MAPPED));
    assert_eq!(bed.metadata(pages + LAST), (REG, tdr, 0));
    settled(&bed);
}

#[test]
fn a_finished_td_wants_both_blocked_and_tracked() {
    let (bed, tdr, _) = with_512_pages();
    bed.finalize(tdr);
    let not_blocked = rcx(TdxStatus::GPA_RANGE_NOT_BLOCKED);
    let not_done = rcx(TdxStatus::TLB_TRACKING_NOT_DONE);
    let mut table = 0;
    for leaf in [Leaf::MEM_PAGE_PROMOTE, Leaf::MEM_PAGE_DEMOTE] {
        let call = |table| bed.call(leaf, &[1, tdr, table]);
        assert_eq!(call(table).status(), not_blocked);
        bed.ok(Leaf::MEM_RANGE_BLOCK, &[1, tdr]);
        assert_eq!(call(table).status(), not_done);
        bed.ok(Leaf::MEM_TRACK, &[tdr]);
        let done = call(table);
        assert_eq!(done.status(), TdxStatus::SUCCESS);
        table = done.rcx;
    }
    assert_eq!(bed.entry(tdr, LAST, 0).1, MAPPED);
    settled(&bed);
}

#[test]
fn pages_that_differ_are_not_merged() {
    let (bed, tdr, pages) = with_512_pages();
    let promote = || bed.call(Leaf::MEM_PAGE_PROMOTE, &[1, tdr]);
    let refused = (rcx(TdxStatus::EPT_INVALID_PROMOTE_CONDITIONS), 7, 0x8401);
    bed.ok(Leaf::MEM_PAGE_REMOVE, &[LAST, tdr]);
    assert_eq!(answer(promote()), refused);
    bed.ok(Leaf::MEM_PAGE_ADD, &[LAST, tdr, bed.page(), SOURCE]);
    assert_eq!(answer(promote()), refused);
    bed.ok(Leaf::MEM_PAGE_REMOVE, &[LAST, tdr]);
    bed.ok(Leaf::MEM_PAGE_AUG, &[LAST, tdr, pages + LAST]);
    assert_eq!(answer(promote()), refused);
    bed.ok(Leaf::MEM_PAGE_REMOVE, &[LAST, tdr]);
    bed.ok(Leaf::MEM_PAGE_ADD, &[LAST, tdr, pages + LAST, SOURCE]);
    assert_eq!(promote().status(), TdxStatus::SUCCESS);
    settled(&bed);
}

#[test]
fn a_range_that_does_not_begin_at_2m_is_not_merged() {
    let bed = Bed::new();
    let tdr = bed.td(Ask::PLAIN);
    bed.tables(tdr, 0, 0);
    let pages = bed.page_2m() + PAGE;
    bed.page_2m();
    for i in 0..512 {
        bed.ok(Leaf::MEM_PAGE_AUG, &[i * PAGE, tdr, pages + i * PAGE]);
    }
    let status = bed.status(Leaf::MEM_PAGE_PROMOTE, &[1, tdr]);
    assert_eq!(status, rcx(TdxStatus::EPT_INVALID_PROMOTE_CONDITIONS));
    settled(&bed);
}

#[test]
fn only_a_table_is_merged_and_only_a_big_page_split() {
    let (bed, tdr, _) = with_512_pages();
    let new = bed.page();
    let incorrect = rcx(TdxStatus::EPT_ENTRY_STATE_INCORRECT);
    assert_eq!(bed.status(Leaf::MEM_PAGE_DEMOTE, &[1, tdr, new]), incorrect);
    bed.aug_2m(tdr, MIB2);
    assert_eq!(
        bed.status(Leaf::MEM_PAGE_PROMOTE, &[MIB2 | 1, tdr]),
        incorrect
    );
    let small = bed.status(Leaf::MEM_PAGE_DEMOTE, &[0, tdr, new]);
    assert_eq!(small, rcx(TdxStatus::OPERAND_INVALID));
    settled(&bed);
}

#[test]
fn parts_of_a_pending_page_are_pending() {
    let bed = Bed::new();
    let tdr = bed.td(Ask::PLAIN);
    let page = bed.aug_2m(tdr, 0);
    bed.ok(Leaf::MEM_PAGE_DEMOTE, &[1, tdr, bed.page()]);
    assert_eq!(
        bed.entry(tdr, 0x3000, 0),
        ((page + 0x3000) | 0x8000_0000_0000_00f0, PENDING)
    );
    settled(&bed);
}

#[test]
fn l2_tables_follow_the_tds() {
    let bed = Bed::new();
    let tdr = bed.td(Ask {
        attributes: 0,
        l2_vms: 2,
    });
    for level in [3, 2] {
        let operands = [level, tdr, bed.page(), bed.page(), NULL_PA, NULL_PA];
        bed.ok_version(Leaf::MEM_SEPT_ADD, 1, &operands);
    }
    bed.aug_2m(tdr, 0);
    let [own, one] = [(); 2].map(|()| bed.page());
    let split = bed.ok(Leaf::MEM_PAGE_DEMOTE, &[1, tdr, own, one, NULL_PA, NULL_PA]);
    assert_eq!([split.r9, split.r10], [one, NULL_PA]);
    assert_eq!(bed.metadata(one), (EPT, tdr, 0));
    settled(&bed);
    let merged = bed.ok_version(Leaf::MEM_PAGE_PROMOTE, 1, &[1, tdr]);
    assert_eq!([merged.rcx, merged.r9, merged.r10], [own, one, NULL_PA]);
    settled(&bed);
    let sparse = bed.ok(
        Leaf::MEM_PAGE_DEMOTE,
        &[1, tdr | 1, own, one, NULL_PA, NULL_PA],
    );
    assert_eq!(sparse.r9, one | 1 << 63);
    assert_eq!(bed.metadata(one).0, NDA);
    settled(&bed);
}

#[test]
fn an_l2_table_is_split_where_the_l2_tree_reaches() {
    let bed = Bed::new();
    let tdr = bed.td(Ask {
        attributes: 0,
        l2_vms: 1,
    });
    bed.aug_2m(tdr, 0);
    let regs = bed.call(Leaf::MEM_PAGE_DEMOTE, &[1, tdr, bed.page(), bed.page()]);
    let failed = TdxStatus::L2_SEPT_WALK_FAILED.with_details(1 << 16 | 3);
    assert_eq!((regs.status(), regs.rdx), (failed, 0x1_4003));
    let busy = bed.page();
    let twice = bed.call(Leaf::MEM_PAGE_DEMOTE, &[1, tdr, busy, busy]);
    assert_eq!(twice.status(), TdxStatus::OPERAND_BUSY.with(OperandId::R9));
    settled(&bed);
}
