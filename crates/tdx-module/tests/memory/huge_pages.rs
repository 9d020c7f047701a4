//! PAGE.PROMOTE and PAGE.DEMOTE of 1 GiB, and what else works on a page of that size.

use seamlock_sync::Mode;
use seamlock_tdx_abi::addr::Hpa;
use seamlock_tdx_abi::guest_leaf::GuestLeaf;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_module::LockAt;
use seamlock_tdx_module::guest::GuestAfter;

use crate::bed::{Ask, Bed, GIB, MIB2, PAGE, Stage};
use crate::{BLOCKED, EPT, MAPPED, NDA, PENDING, REG, TABLE, answer, rcx, settled};

/// A GiB of the TDMR that has nothing else in it.
const BLOCK: u64 = 2 * GIB;
const PENDING_LEAF: u64 = 0x8000_0000_0000_00f0;
const LEAF: u64 = 0x8000_0000_0000_00f7;
const LAST: u64 = GIB - MIB2;

/// 512 pages of 2 MiB side by side from `first` on, pending, at GPA 0.
fn aug_512(bed: &Bed, tdr: u64, first: u64) {
    bed.tables(tdr, 0, 1);
    for i in 0..512 {
        let operands = [(i * MIB2) | 1, tdr, first + i * MIB2];
        bed.ok(Leaf::MEM_PAGE_AUG, &operands);
    }
}

fn with_512_pages() -> (Bed, u64) {
    let bed = Bed::new();
    let tdr = bed.td(Ask::PLAIN);
    aug_512(&bed, tdr, BLOCK);
    (bed, tdr)
}

/// The guest accepts its 512 pages of 2 MiB.
fn accept_512(bed: &Bed, tdvpr: u64) {
    let mut enter = Regs {
        rcx: tdvpr,
        ..Regs::call(Leaf::VP_ENTER)
    };
    let _ = bed.m.seamcall(0, &mut enter);
    for i in 0..512 {
        let mut regs = Regs {
            rax: GuestLeaf::MEM_PAGE_ACCEPT.0.into(),
            rcx: (i * MIB2) | 1,
            ..Regs::default()
        };
        assert_eq!(bed.m.tdcall(0, &mut regs), GuestAfter::Continue);
        assert_eq!(regs.status(), TdxStatus::SUCCESS);
    }
    bed.leave_guest();
}

fn block_and_track(bed: &Bed, tdr: u64) {
    bed.ok(Leaf::MEM_RANGE_BLOCK, &[2, tdr]);
    bed.ok(Leaf::MEM_TRACK, &[tdr]);
}

#[test]
fn pages_of_2m_become_one_of_1g_and_come_apart_again() {
    let (bed, tdr) = with_512_pages();
    let table = bed.ok(Leaf::MEM_PAGE_PROMOTE, &[2, tdr]).rcx;
    assert_eq!(bed.metadata(table).0, NDA);
    assert_eq!(bed.entry(tdr, 0, 2), (BLOCK | PENDING_LEAF, PENDING));
    for part in [0, MIB2 - PAGE, LAST, GIB - PAGE] {
        assert_eq!(bed.metadata(BLOCK + part), (REG, tdr, 2));
    }
    settled(&bed);
    bed.ok(Leaf::MEM_PAGE_DEMOTE, &[2, tdr, table]);
    assert_eq!(bed.metadata(table), (EPT, tdr, 0));
    assert_eq!(bed.entry(tdr, 0, 2), (7, TABLE));
    for part in [0, MIB2, LAST] {
        let entry = (BLOCK + part) | PENDING_LEAF;
        assert_eq!(bed.entry(tdr, part, 1), (entry, PENDING));
        assert_eq!(bed.metadata(BLOCK + part + PAGE), (REG, tdr, 1));
    }
    settled(&bed);
}

#[test]
fn a_1g_page_comes_apart_to_4k_and_together_again() {
    let (bed, tdr) = with_512_pages();
    let upper = bed.ok(Leaf::MEM_PAGE_PROMOTE, &[2, tdr]).rcx;
    let lower = bed.page();
    bed.ok(Leaf::MEM_PAGE_DEMOTE, &[2, tdr, upper]);
    bed.ok(Leaf::MEM_PAGE_DEMOTE, &[LAST | 1, tdr, lower]);
    let last = BLOCK + GIB - PAGE;
    assert_eq!(bed.metadata(last), (REG, tdr, 0));
    assert_eq!(
        bed.entry(tdr, GIB - PAGE, 0),
        (last | PENDING_LEAF, PENDING)
    );
    settled(&bed);
    let mixed = answer(bed.call(Leaf::MEM_PAGE_PROMOTE, &[2, tdr]));
    let refused = rcx(TdxStatus::EPT_INVALID_PROMOTE_CONDITIONS);
    assert_eq!(mixed, (refused, 7, 0x8402));
    assert_eq!(bed.ok(Leaf::MEM_PAGE_PROMOTE, &[LAST | 1, tdr]).rcx, lower);
    assert_eq!(bed.ok(Leaf::MEM_PAGE_PROMOTE, &[2, tdr]).rcx, upper);
    assert_eq!(bed.metadata(last), (REG, tdr, 2));
    settled(&bed);
}

#[test]
fn a_range_that_does_not_begin_at_1g_is_not_merged() {
    let bed = Bed::of(5, Stage::Ready);
    let tdr = bed.td(Ask::PLAIN);
    aug_512(&bed, tdr, BLOCK + MIB2);
    let refused = rcx(TdxStatus::EPT_INVALID_PROMOTE_CONDITIONS);
    assert_eq!(bed.status(Leaf::MEM_PAGE_PROMOTE, &[2, tdr]), refused);
    settled(&bed);
}

#[test]
fn a_running_td_wants_a_1g_range_blocked_and_tracked() {
    let (bed, tdr) = with_512_pages();
    let tdvpr = bed.finalize(tdr);
    accept_512(&bed, tdvpr);
    assert_eq!(bed.entry(tdr, LAST, 1).1, MAPPED);
    let not_blocked = rcx(TdxStatus::GPA_RANGE_NOT_BLOCKED);
    let not_done = rcx(TdxStatus::TLB_TRACKING_NOT_DONE);
    let mut table = 0;
    for leaf in [Leaf::MEM_PAGE_PROMOTE, Leaf::MEM_PAGE_DEMOTE] {
        let call = |table| bed.call(leaf, &[2, tdr, table]);
        assert_eq!(call(table).status(), not_blocked);
        bed.ok(Leaf::MEM_RANGE_BLOCK, &[2, tdr]);
        assert_eq!(call(table).status(), not_done);
        bed.ok(Leaf::MEM_TRACK, &[tdr]);
        let done = call(table);
        assert_eq!(done.status(), TdxStatus::SUCCESS);
        table = done.rcx;
    }
    assert_eq!(bed.entry(tdr, LAST, 1), ((BLOCK + LAST) | LEAF, MAPPED));
    settled(&bed);
}

#[test]
fn a_1g_page_is_blocked_unblocked_and_removed_as_one() {
    let (bed, tdr) = with_512_pages();
    let tdvpr = bed.finalize(tdr);
    accept_512(&bed, tdvpr);
    block_and_track(&bed, tdr);
    let table = bed.ok(Leaf::MEM_PAGE_PROMOTE, &[2, tdr]).rcx;
    bed.ok(Leaf::MEM_RANGE_BLOCK, &[2, tdr]);
    assert_eq!(bed.entry(tdr, 0, 2).1, BLOCKED);
    bed.ok(Leaf::MEM_TRACK, &[tdr]);
    bed.ok(Leaf::MEM_RANGE_UNBLOCK, &[2, tdr]);
    assert_eq!(bed.entry(tdr, 0, 2), (BLOCK | LEAF, MAPPED));
    block_and_track(&bed, tdr);
    assert_eq!(bed.ok(Leaf::MEM_PAGE_REMOVE, &[2, tdr]).rcx, BLOCK);
    for page in [table, BLOCK, BLOCK + LAST + PAGE] {
        assert_eq!(bed.metadata(page).0, NDA);
    }
    settled(&bed);
}

#[test]
fn a_busy_1g_entry_leaves_the_page_whole() {
    let (bed, tdr) = with_512_pages();
    let table = bed.ok(Leaf::MEM_PAGE_PROMOTE, &[2, tdr]).rcx;
    let word = LockAt::Pamt1g(Hpa(BLOCK));
    bed.m.hold(word, Mode::Shared).unwrap();
    let demote = || bed.status(Leaf::MEM_PAGE_DEMOTE, &[2, tdr, table]);
    assert_eq!(demote(), rcx(TdxStatus::OPERAND_BUSY));
    bed.m.release(word, Mode::Shared);
    assert_eq!(bed.metadata(table).0, NDA);
    assert_eq!(bed.entry(tdr, 0, 2), (BLOCK | PENDING_LEAF, PENDING));
    assert_eq!(demote(), TdxStatus::SUCCESS);
}

#[test]
fn a_part_of_a_1g_page_is_not_reclaimed_but_the_whole_is() {
    let (bed, tdr) = with_512_pages();
    bed.ok(Leaf::MEM_PAGE_PROMOTE, &[2, tdr]);
    bed.ok(Leaf::MNG_VPFLUSHDONE, &[tdr]);
    bed.ok(Leaf::PHYMEM_CACHE_WB, &[]);
    bed.ok(Leaf::MNG_KEY_FREEID, &[tdr]);
    let part = bed.call(Leaf::PHYMEM_PAGE_RECLAIM, &[BLOCK + MIB2]);
    let invalid = TdxStatus::OPERAND_INVALID.with(OperandId::RCX);
    assert_eq!((part.status(), part.r8), (invalid, 2));
    let whole = bed.ok(Leaf::PHYMEM_PAGE_RECLAIM, &[BLOCK]);
    assert_eq!((whole.rcx, whole.rdx, whole.r8), (REG, tdr, 2));
    assert_eq!(bed.metadata(BLOCK + LAST).0, NDA);
    settled(&bed);
}
