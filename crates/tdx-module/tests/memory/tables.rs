//! SEPT.ADD, SEPT.REMOVE, and the table that PAGE.ADD remembers.

use seamlock_tdx_abi::addr::NULL_PA;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::status::TdxStatus;

use crate::bed::{Ask, Bed, MIB2, SOURCE};
use crate::{EPT, FREE, MAPPED, NDA, TABLE, answer, rcx, settled};

const UNUSED: u64 = 1 << 63;
const L2: Ask = Ask {
    attributes: 0,
    l2_vms: 2,
};

#[test]
fn a_table_belongs_to_the_td_and_is_shown_without_its_address() {
    let bed = Bed::new();
    let tdr = bed.td(Ask::PLAIN);
    let page = bed.page();
    bed.ok(Leaf::MEM_SEPT_ADD, &[3, tdr, page]);
    assert_eq!(bed.metadata(page), (EPT, tdr, 0));
    assert_eq!(bed.entry(tdr, 0, 3), (7, TABLE));
    assert_eq!(bed.entry(tdr, 0, 2), (1 << 63, FREE));
    settled(&bed);
}

#[test]
fn a_table_that_exists_is_an_error_unless_the_host_allows_it() {
    let bed = Bed::new();
    let tdr = bed.td(Ask::PLAIN);
    bed.tables(tdr, 0, 0);
    let page = bed.page();
    let again = bed.call(Leaf::MEM_SEPT_ADD, &[1, tdr, page]);
    assert_eq!(
        answer(again),
        (rcx(TdxStatus::EPT_ENTRY_STATE_INCORRECT), 7, 0x8401)
    );
    bed.ok(Leaf::MEM_SEPT_ADD, &[1, tdr | 1, page]);
    assert_eq!(bed.metadata(page).0, NDA);
    settled(&bed);
}

#[test]
fn levels_end_at_the_tds_root() {
    let bed = Bed::new();
    let tdr = bed.td(Ask::PLAIN);
    for level in [0, 4, 5, 7] {
        let status = bed.status(Leaf::MEM_SEPT_ADD, &[level, tdr, bed.page()]);
        assert_eq!(status, rcx(TdxStatus::OPERAND_INVALID), "level {level}");
    }
    let flags = bed.status(Leaf::MEM_SEPT_ADD, &[3, tdr | 2, bed.page()]);
    assert_eq!(flags, TdxStatus::OPERAND_INVALID.with(OperandId::RDX));
}

#[test]
fn a_table_goes_when_it_maps_nothing() {
    let bed = Bed::new();
    let tdr = bed.td(Ask::PLAIN);
    bed.tables(tdr, 0, 1);
    let table = bed.page();
    bed.ok(Leaf::MEM_SEPT_ADD, &[1, tdr, table]);
    bed.add(tdr, 0x5000);
    let used = bed.call(Leaf::MEM_SEPT_REMOVE, &[1, tdr]);
    assert_eq!(answer(used), (rcx(TdxStatus::EPT_PAGE_NOT_FREE), 7, 0x8401));
    bed.ok(Leaf::MEM_PAGE_REMOVE, &[0x5000, tdr]);
    let gone = bed.ok(Leaf::MEM_SEPT_REMOVE, &[1, tdr]);
    assert_eq!((gone.rcx, gone.rdx), (table, 0));
    assert_eq!(bed.metadata(table).0, NDA);
    assert_eq!(bed.entry(tdr, 0, 1), (1 << 63, FREE));
    settled(&bed);
}

#[test]
fn pages_are_added_to_the_table_that_is_there_now() {
    let bed = Bed::new();
    let tdr = bed.td(Ask::PLAIN);
    bed.tables(tdr, 0, 0);
    bed.tables(tdr, MIB2, 0);
    bed.add(tdr, 0);
    bed.ok(Leaf::MEM_PAGE_REMOVE, &[0, tdr]);
    bed.ok(Leaf::MEM_SEPT_REMOVE, &[1, tdr]);
    let operands = [0, tdr, bed.page(), SOURCE];
    let failed = rcx(TdxStatus::EPT_WALK_FAILED);
    assert_eq!(bed.status(Leaf::MEM_PAGE_ADD, &operands), failed);
    bed.tables(tdr, 0, 0);
    bed.add(tdr, 0);
    assert_eq!(bed.entry(tdr, 0, 0).1, MAPPED);
    bed.add(tdr, MIB2);
    bed.ok(Leaf::MEM_RANGE_BLOCK, &[MIB2 | 1, tdr]);
    let blocked = bed.status(
        Leaf::MEM_PAGE_ADD,
        &[MIB2 + 0x1000, tdr, bed.page(), SOURCE],
    );
    assert_eq!(blocked, failed);
    settled(&bed);
}

#[test]
fn a_new_td_on_an_old_tdr_remembers_nothing() {
    let bed = Bed::new();
    let tdr = bed.td(Ask::PLAIN);
    bed.tables(tdr, 0, 0);
    bed.add(tdr, 0);
    bed.ok(Leaf::MEM_PAGE_REMOVE, &[0, tdr]);
    let removed = [1, 2, 3].map(|level| bed.ok(Leaf::MEM_SEPT_REMOVE, &[level, tdr]).rcx);
    bed.tear_down(tdr);
    bed.build_td(tdr, Ask::PLAIN);
    for (level, page) in [3, 2, 1].into_iter().zip(removed) {
        bed.ok(Leaf::MEM_SEPT_ADD, &[level, tdr, page]);
    }
    bed.add(tdr, 0);
    assert_eq!(bed.entry(tdr, 0, 0).1, MAPPED);
    settled(&bed);
}

#[test]
fn tables_of_l2_vms_are_added_next_to_the_tds() {
    let bed = Bed::new();
    let tdr = bed.td(L2);
    let [own, one, two] = [(); 3].map(|()| bed.page());
    let regs = bed.ok_version(Leaf::MEM_SEPT_ADD, 1, &[3, tdr, own, one, two, NULL_PA]);
    assert_eq!([regs.r8, regs.r9, regs.r10, regs.r11], [NULL_PA; 4]);
    for page in [own, one, two] {
        assert_eq!(bed.metadata(page), (EPT, tdr, 0));
    }
    let again = bed.ok_version(
        Leaf::MEM_SEPT_ADD,
        1,
        &[3, tdr | 1, own, one, NULL_PA, NULL_PA],
    );
    assert_eq!(
        [again.r8, again.r9, again.r10],
        [own | UNUSED, one | UNUSED, NULL_PA]
    );
    let gone = bed.ok_version(Leaf::MEM_SEPT_REMOVE, 1, &[3, tdr]);
    assert_eq!(
        [gone.rcx, gone.r9, gone.r10, gone.r11],
        [own, one, two, NULL_PA]
    );
    settled(&bed);
}

#[test]
fn an_l2_vm_that_the_td_does_not_have_gets_no_table() {
    let bed = Bed::new();
    let tdr = bed.td(L2);
    let pages = [(); 2].map(|()| bed.page());
    let operands = [3, tdr, pages[0], NULL_PA, NULL_PA, pages[1]];
    let regs = bed.call_version(Leaf::MEM_SEPT_ADD, 1, &operands);
    assert_eq!(
        regs.status(),
        TdxStatus::OPERAND_INVALID.with(OperandId::R11)
    );
    assert_eq!(bed.entry(tdr, 0, 3).1, FREE);
    settled(&bed);
}

#[test]
fn an_l2_table_needs_the_l2_table_above_it() {
    let bed = Bed::new();
    let tdr = bed.td(L2);
    bed.tables(tdr, 0, 2);
    let operands = [2, tdr, bed.page(), bed.page(), NULL_PA, NULL_PA];
    let regs = bed.call_version(Leaf::MEM_SEPT_ADD, 1, &operands);
    let failed = TdxStatus::L2_SEPT_WALK_FAILED.with_details(1 << 16 | 3);
    assert_eq!((regs.status(), regs.rdx), (failed, 0x1_4003));
    settled(&bed);
}
