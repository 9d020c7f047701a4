//! RANGE.BLOCK, RANGE.UNBLOCK, TRACK, PAGE.REMOVE, PAGE.RELOCATE.

use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_module::After;

use crate::bed::{Ask, Bed, MIB2, PAGE, SOURCE};
use crate::{
    BLOCKED, FREE, MAPPED, NDA, PENDING, PENDING_BLOCKED, REG, TABLE, TABLE_BLOCKED, answer, rcx,
    settled,
};

const AT: u64 = 0x4000;

/// A finished TD with a page at `AT`: the TDR and the page.
fn running() -> (Bed, u64, u64) {
    let bed = Bed::new();
    bed.write(SOURCE, &[0x33; PAGE as usize]);
    let tdr = bed.td(Ask::PLAIN);
    bed.tables(tdr, 0, 0);
    let page = bed.add(tdr, AT);
    bed.finalize(tdr);
    (bed, tdr, page)
}

fn block_and_track(bed: &Bed, tdr: u64, what: u64) {
    bed.ok(Leaf::MEM_RANGE_BLOCK, &[what, tdr]);
    bed.ok(Leaf::MEM_TRACK, &[tdr]);
}

#[test]
fn a_td_that_is_being_built_gives_a_page_back_at_once() {
    let bed = Bed::new();
    let tdr = bed.td(Ask::PLAIN);
    bed.tables(tdr, 0, 0);
    let page = bed.add(tdr, AT);
    assert_eq!(bed.ok(Leaf::MEM_PAGE_REMOVE, &[AT, tdr]).rcx, page);
    assert_eq!(bed.entry(tdr, AT, 0), (1 << 63, FREE));
    assert_eq!(bed.metadata(page), (NDA, tdr, 0));
    bed.ok(Leaf::MEM_PAGE_ADD, &[AT, tdr, page, SOURCE]);
    settled(&bed);
}

#[test]
fn a_td_that_runs_gives_a_page_back_once_it_is_blocked_and_tracked() {
    let (bed, tdr, page) = running();
    let remove = || bed.call(Leaf::MEM_PAGE_REMOVE, &[AT, tdr]);
    let entry = page | 0x8000_0000_0000_00f7;
    assert_eq!(
        answer(remove()),
        (rcx(TdxStatus::GPA_RANGE_NOT_BLOCKED), entry, 0x400)
    );
    bed.ok(Leaf::MEM_RANGE_BLOCK, &[AT, tdr]);
    assert_eq!(bed.entry(tdr, AT, 0), (entry & !7, BLOCKED));
    assert_eq!(
        answer(remove()),
        (rcx(TdxStatus::TLB_TRACKING_NOT_DONE), 0, 0)
    );
    bed.ok(Leaf::MEM_TRACK, &[tdr]);
    assert_eq!(answer(remove()), (TdxStatus::SUCCESS, page, 0));
    settled(&bed);
}

#[test]
fn a_vcpu_in_the_guest_keeps_a_page_and_then_the_epoch() {
    let (bed, tdr, _) = running();
    let tdvpr = bed.last_vcpu();
    let mut regs = Regs {
        rcx: tdvpr,
        ..Regs::call(Leaf::VP_ENTER)
    };
    assert_eq!(bed.m.seamcall(0, &mut regs), After::Guest);
    let host = |leaf, rcx, rdx| {
        let mut regs = Regs {
            rcx,
            rdx,
            ..Regs::call(leaf)
        };
        let _ = bed.m.seamcall(1, &mut regs);
        regs.status()
    };
    assert_eq!(host(Leaf::MEM_RANGE_BLOCK, AT, tdr), TdxStatus::SUCCESS);
    assert_eq!(host(Leaf::MEM_TRACK, tdr, 0), TdxStatus::SUCCESS);
    let not_done = rcx(TdxStatus::TLB_TRACKING_NOT_DONE);
    assert_eq!(host(Leaf::MEM_PAGE_REMOVE, AT, tdr), not_done);
    assert_eq!(
        host(Leaf::MEM_TRACK, tdr, 0),
        TdxStatus::PREVIOUS_TLB_EPOCH_BUSY
    );
    bed.leave_guest();
    assert_eq!(host(Leaf::MEM_PAGE_REMOVE, AT, tdr), TdxStatus::SUCCESS);
    assert_eq!(host(Leaf::MEM_TRACK, tdr, 0), TdxStatus::SUCCESS);
    settled(&bed);
}

#[test]
fn a_range_is_blocked_once() {
    let (bed, tdr, page) = running();
    bed.ok(Leaf::MEM_RANGE_BLOCK, &[AT, tdr]);
    let again = bed.call(Leaf::MEM_RANGE_BLOCK, &[AT, tdr]);
    let entry = page | 0x8000_0000_0000_00f0;
    assert_eq!(
        answer(again),
        (rcx(TdxStatus::GPA_RANGE_ALREADY_BLOCKED), entry, 0x100)
    );
    assert!(again.status().is_success_class());
    let nothing = bed.status(Leaf::MEM_RANGE_BLOCK, &[0, tdr]);
    assert_eq!(nothing, rcx(TdxStatus::EPT_ENTRY_STATE_INCORRECT));
    settled(&bed);
}

#[test]
fn unblocking_gives_back_what_was_there() {
    let (bed, tdr, _) = running();
    bed.ok(Leaf::MEM_PAGE_AUG, &[0x5000, tdr, bed.page()]);
    let cases = [
        (AT, 0, MAPPED, BLOCKED),
        (0x5000, 0, PENDING, PENDING_BLOCKED),
        (0, 1, TABLE, TABLE_BLOCKED),
    ];
    for (gpa, level, before, blocked) in cases {
        let known = bed.entry(tdr, gpa, level);
        assert_eq!(known.1, before);
        bed.ok(Leaf::MEM_RANGE_BLOCK, &[gpa | level, tdr]);
        assert_eq!(bed.entry(tdr, gpa, level).1, blocked);
        let early = bed.status(Leaf::MEM_RANGE_UNBLOCK, &[gpa | level, tdr]);
        assert_eq!(early, rcx(TdxStatus::TLB_TRACKING_NOT_DONE));
        bed.ok(Leaf::MEM_TRACK, &[tdr]);
        bed.ok(Leaf::MEM_RANGE_UNBLOCK, &[gpa | level, tdr]);
        assert_eq!(bed.entry(tdr, gpa, level), known);
    }
    let not_blocked = bed.status(Leaf::MEM_RANGE_UNBLOCK, &[AT, tdr]);
    assert_eq!(not_blocked, rcx(TdxStatus::EPT_ENTRY_STATE_INCORRECT));
    settled(&bed);
}

#[test]
fn nothing_is_found_below_a_blocked_table() {
    let (bed, tdr, _) = running();
    bed.ok(Leaf::MEM_RANGE_BLOCK, &[1, tdr]);
    let below = bed.call(Leaf::MEM_SEPT_RD, &[AT, tdr]);
    assert_eq!(answer(below), (rcx(TdxStatus::EPT_WALK_FAILED), 0, 0x8101));
}

#[test]
fn a_moved_page_keeps_its_content_and_is_not_blocked_any_more() {
    let (bed, tdr, page) = running();
    block_and_track(&bed, tdr, AT);
    let same = bed.status(Leaf::MEM_PAGE_RELOCATE, &[AT, tdr, page]);
    assert_eq!(same, TdxStatus::OPERAND_INVALID.with(OperandId::R8));
    let new = bed.page();
    assert_eq!(bed.ok(Leaf::MEM_PAGE_RELOCATE, &[AT, tdr, new]).rcx, page);
    assert_eq!(bed.entry(tdr, AT, 0), (new | 0x8000_0000_0000_00f7, MAPPED));
    assert_eq!(bed.m.memory().read_u64(new.into()), 0x3333_3333_3333_3333);
    assert_eq!(
        (bed.metadata(page).0, bed.metadata(new)),
        (NDA, (REG, tdr, 0))
    );
    settled(&bed);
}

#[test]
fn a_page_that_was_not_accepted_moves_without_its_content() {
    let (bed, tdr, _) = running();
    let page = bed.page();
    bed.write(page, &[9; 8]);
    bed.ok(Leaf::MEM_PAGE_AUG, &[0x6000, tdr, page]);
    block_and_track(&bed, tdr, 0x6000);
    let new = bed.page();
    bed.ok(Leaf::MEM_PAGE_RELOCATE, &[0x6000, tdr, new]);
    assert_eq!(bed.entry(tdr, 0x6000, 0).1, PENDING);
    assert_eq!(bed.m.memory().read_u64(new.into()), 0);
    settled(&bed);
}

#[test]
fn an_augmented_page_is_pending_and_untouched() {
    let (bed, tdr, _) = running();
    let page = bed.page();
    bed.write(page, &[9; 8]);
    bed.ok(Leaf::MEM_PAGE_AUG, &[0x7000, tdr, page]);
    assert_eq!(
        bed.entry(tdr, 0x7000, 0),
        (page | 0x8000_0000_0000_00f0, PENDING)
    );
    assert_eq!(bed.m.memory().read_u64(page.into()), 0x0909_0909_0909_0909);
    let again = bed.call(Leaf::MEM_PAGE_AUG, &[0x7000, tdr, bed.page()]);
    assert_eq!(
        (again.status(), again.rdx),
        (rcx(TdxStatus::EPT_ENTRY_STATE_INCORRECT), 0x200)
    );
    let over_table = bed.status(Leaf::MEM_PAGE_AUG, &[1, tdr, bed.page_2m()]);
    assert_eq!(over_table, rcx(TdxStatus::EPT_ENTRY_STATE_INCORRECT));
    settled(&bed);
}

#[test]
fn a_2m_page_needs_512_free_pages_that_begin_at_2m() {
    let (bed, tdr, _) = running();
    bed.tables(tdr, MIB2, 1);
    let used = bed.page();
    let around = used & !(MIB2 - 1);
    let aug = |page| bed.status(Leaf::MEM_PAGE_AUG, &[MIB2 | 1, tdr, page]);
    assert_eq!(aug(used), TdxStatus::OPERAND_INVALID.with(OperandId::R8));
    assert_eq!(
        aug(around),
        TdxStatus::PAGE_METADATA_INCORRECT.with(OperandId::R8)
    );
    let page = bed.page_2m();
    assert_eq!(aug(page), TdxStatus::SUCCESS);
    assert_eq!(bed.metadata(page + 5 * PAGE), (REG, tdr, 1));
    let part = bed.status(Leaf::MEM_PAGE_AUG, &[0, tdr, page]);
    assert_eq!(part, TdxStatus::PAGE_METADATA_INCORRECT.with(OperandId::R8));
    block_and_track(&bed, tdr, MIB2 | 1);
    assert_eq!(bed.ok(Leaf::MEM_PAGE_REMOVE, &[MIB2 | 1, tdr]).rcx, page);
    settled(&bed);
}
