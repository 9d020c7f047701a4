//! Guest leaves that accept pages, and accesses that the EPT does not allow.

mod a_td;

use std::sync::atomic::Ordering::SeqCst;

use a_td::{
    ABSENT, ABSENT_2M, BIG_PAGE, MAPPED, PENDING, PENDING_2M, SHARED, STATE_FREE, STATE_MAPPED,
    STATE_PENDING, Td, accept, exit_of, invalid, params, status,
};
use seamlock_sync::Mode;
use seamlock_tdx_abi::addr::{Gpa, Hpa};
use seamlock_tdx_abi::guest_leaf::GuestLeaf;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_abi::td_params::{Attributes, TdParams};
use seamlock_tdx_module::guest::{EptViolation, Exception, GuestAfter, qualification};

#[test]
fn an_accepted_page_is_empty_and_accepted_once() {
    let td = Td::new();
    let hpa = td.hpa(PENDING, 0);
    td.m.memory().write(hpa, &[0xcc; 4096]).unwrap();
    td.enter();
    assert_eq!(accept(&td, PENDING.0), 0);
    let mut page = [1; 4096];
    td.m.memory().read(hpa, &mut page).unwrap();
    assert_eq!(page, [0; 4096]);
    assert_eq!(td.sept_state(PENDING, 0), STATE_MAPPED);
    assert_eq!(
        accept(&td, PENDING.0),
        status(TdxStatus::PAGE_ALREADY_ACCEPTED, 0)
    );
    assert_eq!(
        accept(&td, MAPPED.0),
        status(TdxStatus::PAGE_ALREADY_ACCEPTED, 0)
    );
    td.audit();
}

#[test]
fn a_mapping_must_be_a_private_page_of_4k_or_2m() {
    let td = Td::entered();
    for wrong in [PENDING.0 | 1, 2, 0x8, 1 << 52, SHARED.0, 1 << 48] {
        assert_eq!(accept(&td, wrong), invalid(OperandId::RCX), "{wrong:#x}");
    }
}

#[test]
fn two_mebibytes_can_be_accepted_in_pieces_between_interrupts() {
    let td = Td::new();
    let last = Hpa(BIG_PAGE.0 + 511 * 0x1000);
    for pa in [BIG_PAGE, Hpa(BIG_PAGE.0 + 0x1000), last] {
        td.m.memory().write(pa, &[0xcc; 8]).unwrap();
    }
    td.enter();
    td.machine.interrupt.store(true, SeqCst);
    let mapping = Regs {
        rcx: PENDING_2M.0 | 1,
        rbx: 3,
        ..Regs::default()
    };
    for _ in 0..3 {
        let (after, regs) = td.tdcall(GuestLeaf::MEM_PAGE_ACCEPT, mapping);
        assert_eq!(
            (after, regs.rcx, regs.rax),
            (GuestAfter::Again, mapping.rcx, 6)
        );
        td.audit();
    }
    assert_eq!(td.m.memory().read_u64(Hpa(BIG_PAGE.0 + 0x1000)), 0);
    assert_ne!(td.m.memory().read_u64(last), 0);
    assert_eq!(td.sept_state(PENDING_2M, 1), STATE_PENDING);
    td.machine.interrupt.store(false, SeqCst);
    // What is accepted already is not filled again.
    td.m.memory().write(BIG_PAGE, &[0xdd; 8]).unwrap();
    assert_eq!(accept(&td, mapping.rcx), 0);
    assert_ne!(td.m.memory().read_u64(BIG_PAGE), 0);
    assert_eq!(td.m.memory().read_u64(last), 0);
    assert_eq!(
        (td.sept_state(PENDING_2M, 1), td.hpa(PENDING_2M, 1)),
        (STATE_MAPPED, BIG_PAGE)
    );
    // A piece of an accepted big page is accepted.
    let piece = accept(&td, PENDING_2M.0 + 0x5000);
    assert_eq!(piece, status(TdxStatus::PAGE_ALREADY_ACCEPTED, 1));
    td.audit();
}

#[test]
fn what_is_mapped_by_4k_can_not_be_accepted_by_2m() {
    let td = Td::entered();
    assert_eq!(accept(&td, 1), status(TdxStatus::PAGE_SIZE_MISMATCH, 1));
    td.audit();
}

#[test]
fn accepting_what_the_host_has_not_given_exits_with_the_details() {
    let cases = [
        (ABSENT.0, [0, 0, STATE_FREE, 0]),
        (ABSENT_2M.0, [0, 1, STATE_FREE, 0]),
        (ABSENT_2M.0 | 1, [1, 1, STATE_FREE, 0]),
        (PENDING_2M.0 + 0x1000, [0, 1, STATE_PENDING, 1]),
    ];
    for (mapping, info) in cases {
        let td = Td::entered();
        let regs = Regs {
            rcx: mapping,
            rbx: 9,
            ..Regs::default()
        };
        let out = td.exit(GuestLeaf::MEM_PAGE_ACCEPT, regs);
        assert_eq!(
            out,
            exit_of(1, Gpa(mapping & !0xfff), info, 0),
            "{mapping:#x}"
        );
        td.audit();
        // The guest comes back to the same instruction with its registers.
        td.enter();
        let state = td.m.guest_state(0).unwrap();
        assert_eq!(
            (state.gprs[0], state.gprs[1], state.gprs[3]),
            (6, mapping, 9)
        );
        assert_eq!(state.cpu.rip, 0xffff_fff0);
    }
}

#[test]
fn a_blocked_page_is_the_hosts_to_give_back() {
    let td = Td::new();
    td.ok(Regs {
        rcx: PENDING.0,
        rdx: td.tdr.0,
        ..Regs::call(Leaf::MEM_RANGE_BLOCK)
    });
    td.enter();
    let out = td.exit(
        GuestLeaf::MEM_PAGE_ACCEPT,
        Regs {
            rcx: PENDING.0,
            ..Regs::default()
        },
    );
    assert_eq!(out, exit_of(1, PENDING, [0, 0, 3, 1], 0));
    td.audit();
}

#[test]
fn an_entry_that_the_host_holds_is_busy_for_the_guest() {
    let td = Td::entered();
    let entry = td.entry(PENDING, 0);
    td.m.hold(entry, Mode::Exclusive).unwrap();
    let busy = TdxStatus::OPERAND_BUSY.with(OperandId::RCX).0;
    assert_eq!(accept(&td, PENDING.0), busy);
    assert!(!td.m.peek(entry).unwrap().host_priority);
    let regs = Regs {
        rcx: PENDING.0,
        ..Regs::default()
    };
    assert_eq!(td.guest(GuestLeaf::MEM_PAGE_ATTR_RD, regs).rax, busy);
    assert_eq!(td.guest(GuestLeaf::MEM_PAGE_ATTR_WR, regs).rax, busy);
    td.m.release(entry, Mode::Exclusive);
    assert_eq!(accept(&td, PENDING.0), 0);
}

#[test]
fn the_guest_gives_way_to_a_host_call_that_was_refused() {
    let td = Td::entered();
    let entry = td.entry(PENDING, 0);
    td.m.guest_try(entry, Mode::Exclusive).unwrap();
    let block = Regs {
        rcx: PENDING.0,
        rdx: td.tdr.0,
        ..Regs::call(Leaf::MEM_RANGE_BLOCK)
    };
    assert_eq!(
        td.host_on(1, block).rax,
        TdxStatus::OPERAND_BUSY.with(OperandId::RCX).0
    );
    td.m.release(entry, Mode::Exclusive);
    let busy = TdxStatus::OPERAND_BUSY.with(OperandId::RCX).0;
    assert_eq!(accept(&td, PENDING.0), busy);
    assert_eq!(td.host_on(1, block).rax, 0);
    let out = td.exit(
        GuestLeaf::MEM_PAGE_ACCEPT,
        Regs {
            rcx: PENDING.0,
            ..Regs::default()
        },
    );
    assert_eq!(out.rdx & 0xf, 1);
    td.audit();
}

#[test]
fn the_secure_ept_tree_lock_is_nothing_to_the_guest() {
    let td = Td::entered();
    let tree = seamlock_tdx_module::LockAt::SeptTree(td.tdr);
    td.m.hold(tree, Mode::Exclusive).unwrap();
    assert_eq!(accept(&td, PENDING.0), 0);
    td.m.release(tree, Mode::Exclusive);
    td.audit();
}

fn violate(td: &Td, violation: EptViolation) -> GuestAfter {
    td.m.ept_violation(0, &violation)
}

#[test]
fn touching_a_pending_page_raises_ve_with_both_addresses() {
    let td = Td::entered();
    let violation = EptViolation {
        gpa: PENDING.0 + 0x20,
        gla: 0xffff_8000_0000_1020,
        qual: qualification::WRITE | qualification::GLA_VALID | qualification::GLA_TRANSLATED,
        instruction_length: 7,
        ..EptViolation::default()
    };
    assert_eq!(
        violate(&td, violation),
        GuestAfter::Inject(Exception::Virtualization)
    );
    let info = td.guest(GuestLeaf::VP_VEINFO_GET, Regs::default());
    let expected = [48, violation.qual, violation.gla, violation.gpa, 7];
    assert_eq!([info.rcx, info.rdx, info.r8, info.r9, info.r10], expected);
}

#[test]
fn a_td_that_does_not_want_ve_exits_for_pending_pages() {
    let attributes = Attributes::SEPT_VE_DISABLE.bits();
    let td = Td::with(&TdParams {
        attributes,
        ..params()
    });
    td.enter();
    let qual = qualification::FETCH | 0x1f80;
    let violation = EptViolation {
        gpa: PENDING.0 + 1,
        qual,
        ..EptViolation::default()
    };
    let GuestAfter::TdExit(out) = violate(&td, violation) else {
        panic!("no exit")
    };
    let expected = Regs {
        rax: 48,
        rcx: qualification::FETCH,
        rdx: 6,
        r8: PENDING.0,
        ..Regs::default()
    };
    assert_eq!(out, expected);
    td.audit();
}

#[test]
fn a_shared_address_without_memory_is_ve_until_the_guest_is_behind_with_reading() {
    let td = Td::entered();
    let violation = EptViolation {
        gpa: SHARED.0 + 4,
        convertible: true,
        ..EptViolation::default()
    };
    assert_eq!(
        violate(&td, violation),
        GuestAfter::Inject(Exception::Virtualization)
    );
    let expected = Regs {
        rax: 48,
        r8: SHARED.0,
        ..Regs::default()
    };
    assert_eq!(violate(&td, violation), GuestAfter::TdExit(expected));
}

#[test]
fn an_address_above_the_tds_width_is_a_reserved_bit() {
    let td = Td::entered();
    let mut state = td.m.guest_state(0).unwrap();
    state.cpu.ss.access |= 3 << 5;
    assert!(td.m.store_guest_state(0, &state));
    let violation = EptViolation {
        gpa: 1 << 48,
        gla: 0x1234,
        qual: qualification::WRITE | qualification::GLA_VALID,
        ..EptViolation::default()
    };
    let fault = Exception::PageFault {
        error_code: 0xf,
        address: 0x1234,
    };
    assert_eq!(violate(&td, violation), GuestAfter::Inject(fault));
    let without_gla = EptViolation {
        qual: qualification::WRITE,
        ..violation
    };
    assert!(matches!(violate(&td, without_gla), GuestAfter::TdExit(_)));
}
