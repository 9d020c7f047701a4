//! TDH.VP.ENTER and TD exit.

mod a_td;

use std::sync::atomic::Ordering::SeqCst;

use a_td::{HOST_RBP, MAPPED, Td, params, status};
use seamlock_sync::Mode;
use seamlock_tdx_abi::guest_leaf::GuestLeaf;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_abi::td_params::{ConfigFlags, TdParams};
use seamlock_tdx_module::guest::{EptViolation, GuestAfter, qualification};
use seamlock_tdx_module::{After, LockAt, TdExit, TdExitKind};

const INTERRUPT: TdExit = TdExit {
    reason: 1,
    qual: 0,
    gpa: 0,
    kind: TdExitKind::Async,
};

const TRIPLE_FAULT: TdExit = TdExit {
    reason: 2,
    kind: TdExitKind::NonRecoverableVcpu,
    ..INTERRUPT
};

fn track(td: &Td) -> u64 {
    let regs = Regs {
        rcx: td.tdr.0,
        ..Regs::call(Leaf::MEM_TRACK)
    };
    td.host_on(1, regs).rax
}

fn refused(td: &Td, host: Regs) -> u64 {
    let (after, regs) = td.try_enter(host);
    assert_eq!(after, After::Host);
    td.audit();
    regs.rax
}

#[test]
fn a_running_guest_holds_tdvpr_and_tdr_shared_and_nothing_else() {
    let td = Td::new();
    td.enter();
    for at in [LockAt::Page(td.tdvpr), LockAt::Page(td.tdr)] {
        let word = td.m.peek(at).unwrap();
        assert_eq!((word.readers, word.exclusive), (1, false), "{at:?}");
    }
    let (op_state, epoch) = (LockAt::OpState(td.tdr), LockAt::Epoch(td.tdr));
    for at in [op_state, epoch, LockAt::SeptTree(td.tdr)] {
        assert_eq!(td.m.peek(at).unwrap().readers, 0, "{at:?}");
    }
    td.audit();
    let out = td.m.td_exit(0, INTERRUPT);
    assert_eq!(
        out,
        Regs {
            rax: 1,
            ..Regs::default()
        }
    );
    assert_eq!(td.m.peek(LockAt::Page(td.tdvpr)).unwrap().readers, 0);
    td.audit();
}

#[test]
fn a_call_that_wants_the_tdr_alone_is_busy_while_a_guest_runs() {
    let td = Td::new();
    td.enter();
    let flush_done = Regs {
        rcx: td.tdr.0,
        ..Regs::call(Leaf::MNG_VPFLUSHDONE)
    };
    let busy = TdxStatus::OPERAND_BUSY;
    assert_eq!(td.host_on(1, flush_done).rax, busy.with(OperandId::RCX).0);
    let flush = Regs {
        rcx: td.tdvpr.0,
        ..Regs::call(Leaf::VP_FLUSH)
    };
    assert_eq!(td.host_on(1, flush).rax, busy.with(OperandId::RCX).0);
    let _ = td.m.td_exit(0, INTERRUPT);
    assert_eq!(td.host(flush).rax, 0);
    assert_eq!(td.host(flush_done).rax, 0);
    td.audit();
}

#[test]
fn a_vcpu_runs_on_one_lp_and_belongs_to_it_until_flushed() {
    let td = Td::new();
    td.enter();
    let enter = Regs {
        rcx: td.tdvpr.0,
        ..Regs::call(Leaf::VP_ENTER)
    };
    assert_eq!(td.host_on(1, enter).rax, TdxStatus::VCPU_STATE_INCORRECT.0);
    let _ = td.m.td_exit(0, INTERRUPT);
    assert_eq!(td.host_on(1, enter).rax, TdxStatus::VCPU_ASSOCIATED.0);
    td.audit();
}

#[test]
fn an_lp_in_its_guest_can_not_enter_another() {
    let td = Td::new();
    td.enter();
    let (after, regs) = td.try_enter(Regs::default());
    assert_eq!(
        (after, regs.rax),
        (After::Host, status(TdxStatus::OPERAND_BUSY, 1))
    );
    td.audit();
    let _ = td.m.td_exit(0, INTERRUPT);
    td.audit();
}

#[test]
fn an_exit_where_no_guest_runs_changes_nothing() {
    let td = Td::new();
    let out = td.m.td_exit(0, INTERRUPT);
    assert_eq!(out.rax, TdxStatus::VCPU_STATE_INCORRECT.0);
    let out = td.m.td_exit(99, INTERRUPT);
    assert_eq!(out.rax, TdxStatus::VCPU_STATE_INCORRECT.0);
    td.audit();
}

#[test]
fn what_the_host_asks_for_must_fit_the_vcpu() {
    let td = Td::new();
    let invalid = TdxStatus::OPERAND_INVALID.with(OperandId::RCX).0;
    // Reserved bits, the hint without a trap, resuming L1 without an L2 VM.
    for flags in [1, 1 << 54, 1 << 52, 1 << 53] {
        let host = Regs {
            rcx: flags,
            ..Regs::default()
        };
        assert_eq!(refused(&td, host), invalid, "{flags:#x}");
    }
}

#[test]
fn time_that_runs_backwards_keeps_the_guest_out() {
    let td = Td::new();
    td.enter();
    td.machine.tsc.store(1000, SeqCst);
    let _ = td.m.td_exit(0, INTERRUPT);
    td.machine.tsc.store(999, SeqCst);
    assert_eq!(refused(&td, Regs::default()), TdxStatus::TSC_ROLLBACK.0);
    td.machine.tsc.store(1000, SeqCst);
    td.machine.tsc_adjusted.store(true, SeqCst);
    let inconsistent = status(TdxStatus::INCONSISTENT_MSR, 0x3b);
    assert_eq!(refused(&td, Regs::default()), inconsistent);
    td.machine.tsc_adjusted.store(false, SeqCst);
    td.machine.limits_cpuid.store(true, SeqCst);
    let limited = TdxStatus::LIMIT_CPUID_MAXVAL_SET.0;
    assert_eq!(refused(&td, Regs::default()), limited);
    td.machine.limits_cpuid.store(false, SeqCst);
    td.enter();
}

#[test]
fn a_busy_epoch_refuses_the_entry_and_leaves_no_count() {
    let td = Td::new();
    let epoch = LockAt::Epoch(td.tdr);
    td.m.hold(epoch, Mode::Exclusive).unwrap();
    let (after, regs) = td.try_enter(Regs::default());
    let busy = TdxStatus::OPERAND_BUSY.with(OperandId::TD_EPOCH).0;
    assert_eq!((after, regs.rax), (After::Host, busy));
    td.m.release(epoch, Mode::Exclusive);
    assert_eq!([track(&td), track(&td)], [0, 0]);
    td.enter();
    assert_eq!(track(&td), 0);
}

#[test]
fn a_guest_that_stays_for_two_epochs_stops_tracking() {
    let td = Td::new();
    td.enter();
    assert_eq!(track(&td), 0);
    assert_eq!(track(&td), TdxStatus::PREVIOUS_TLB_EPOCH_BUSY.0);
    let _ = td.m.td_exit(0, INTERRUPT);
    assert_eq!(track(&td), 0);
    td.enter();
    let _ = td.m.td_exit(0, INTERRUPT);
    assert_eq!([track(&td), track(&td), track(&td)], [0, 0, 0]);
}

#[test]
fn a_triple_fault_disables_the_vcpu_for_ever() {
    let td = Td::new();
    td.enter();
    let out = td.m.td_exit(0, TRIPLE_FAULT);
    assert_eq!(out.rax, status(TdxStatus::NON_RECOVERABLE_VCPU, 2));
    let incorrect = TdxStatus::VCPU_STATE_INCORRECT.0;
    assert_eq!(refused(&td, Regs::default()), incorrect);
}

#[test]
fn a_fatal_exit_ends_the_td() {
    let td = Td::new();
    td.enter();
    let fatal = TdExit {
        kind: TdExitKind::NonRecoverableTd,
        ..TRIPLE_FAULT
    };
    assert_eq!(
        td.m.td_exit(0, fatal).rax,
        status(TdxStatus::NON_RECOVERABLE_TD, 2)
    );
    assert_eq!(refused(&td, Regs::default()), TdxStatus::TD_FATAL.0);
    let flush = Regs {
        rcx: td.tdvpr.0,
        ..Regs::call(Leaf::VP_FLUSH)
    };
    assert_eq!(td.host(flush).rax, 0);
}

#[test]
fn rbp_of_the_host_survives_when_the_td_is_configured_so() {
    let keeps = TdParams {
        config_flags: ConfigFlags::NO_RBP_MOD.bits(),
        ..params()
    };
    for (params, rbp) in [(params(), 0), (keeps, HOST_RBP)] {
        let td = Td::with(&params);
        td.enter();
        let out = td.m.td_exit(0, INTERRUPT);
        assert_eq!(
            out,
            Regs {
                rax: 1,
                rbp,
                ..Regs::default()
            }
        );
    }
}

/// Blocks the mapped page, lets the guest fault on it, and says what the host sees.
fn fault(td: &Td) -> Regs {
    let violation = EptViolation {
        gpa: MAPPED.0 + 8,
        qual: qualification::READ | qualification::GLA_VALID | qualification::GLA_TRANSLATED,
        ..EptViolation::default()
    };
    match td.m.ept_violation(0, &violation) {
        GuestAfter::TdExit(regs) => regs,
        other => panic!("{other:?}"),
    }
}

fn on_mapped(td: &Td, leaf: Leaf) -> u64 {
    let regs = Regs {
        rcx: MAPPED.0,
        rdx: td.tdr.0,
        ..Regs::call(leaf)
    };
    td.host_on(1, regs).rax
}

#[test]
fn a_guest_that_faults_again_and_again_is_not_entered_until_the_page_is_there() {
    let td = Td::new();
    assert_eq!(on_mapped(&td, Leaf::MEM_RANGE_BLOCK), 0);
    for _ in 0..7 {
        td.enter();
        let out = fault(&td);
        assert_eq!((out.rax, out.rcx, out.rdx, out.r8), (48, 1, 0, MAPPED.0));
    }
    let host = Regs {
        rbx: 5,
        rbp: HOST_RBP,
        ..Regs::default()
    };
    let (after, regs) = td.try_enter(host);
    let expected = Regs {
        rax: 48,
        rcx: 2,
        r8: MAPPED.0,
        ..Regs::default()
    };
    assert_eq!((after, regs), (After::Host, expected));
    // While the filter can't have the tree alone the entry is busy, and leaves the epoch again.
    let tree = LockAt::SeptTree(td.tdr);
    td.m.hold(tree, Mode::Shared).unwrap();
    let (_, regs) = td.try_enter(host);
    assert_eq!(
        regs.rax,
        TdxStatus::OPERAND_BUSY.with(OperandId::SEPT_TREE).0
    );
    td.m.release(tree, Mode::Shared);
    assert_eq!([track(&td), track(&td)], [0, 0]);
    assert_eq!(on_mapped(&td, Leaf::MEM_RANGE_UNBLOCK), 0);
    td.enter();
    assert_eq!(td.m.peek(tree).map(|word| word.exclusive), Some(false));
    td.audit();
}

#[test]
fn a_guest_that_gets_on_is_not_suspected() {
    let td = Td::new();
    assert_eq!(on_mapped(&td, Leaf::MEM_RANGE_BLOCK), 0);
    for i in 0..20 {
        td.enter();
        let mut state = td.m.guest_state(0).unwrap();
        state.cpu.rip += i % 5;
        assert!(td.m.store_guest_state(0, &state));
        assert_eq!(fault(&td).rax, 48);
    }
    td.enter();
}

#[test]
fn six_faults_are_within_what_an_instruction_may_need() {
    let td = Td::new();
    assert_eq!(on_mapped(&td, Leaf::MEM_RANGE_BLOCK), 0);
    for _ in 0..6 {
        td.enter();
        let _ = fault(&td);
    }
    td.enter();
}

#[test]
fn a_td_that_became_fatal_makes_its_other_guests_exit_at_the_next_occasion() {
    let dead = |reason| status(TdxStatus::NON_RECOVERABLE_TD_NON_ACCESSIBLE, reason);
    let with_a_dying_td = || {
        let td = Td::entered();
        let mut enter = Regs {
            rcx: td.second.0,
            ..Regs::call(Leaf::VP_ENTER)
        };
        assert_eq!(td.m.seamcall(1, &mut enter), After::Guest);
        let fatal = TdExit {
            kind: TdExitKind::NonRecoverableTd,
            ..TRIPLE_FAULT
        };
        let _ = td.m.td_exit(0, fatal);
        td
    };
    let td = with_a_dying_td();
    assert_eq!(td.m.td_exit(1, INTERRUPT).rax, dead(1));
    td.audit();
    let td = with_a_dying_td();
    let mut regs = Regs {
        rax: GuestLeaf::VP_INFO.0.into(),
        ..Regs::default()
    };
    match td.m.tdcall(1, &mut regs) {
        GuestAfter::TdExit(out) => assert_eq!(out.rax, dead(77)),
        other => panic!("{other:?}"),
    }
    td.audit();
}
