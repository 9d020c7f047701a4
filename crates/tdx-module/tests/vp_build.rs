//! Building and taking apart vCPUs: VP.CREATE, ADDCX, INIT, FLUSH.

mod a_td;

use std::sync::atomic::Ordering::SeqCst;

use a_td::{Td, params, status};
use seamlock_sync::Mode;
use seamlock_tdx_abi::addr::Hpa;
use seamlock_tdx_abi::field::FieldId;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_module::LockAt;

fn init(td: &Td, tdvpr: Hpa, version: u8, id: u64) -> u64 {
    let regs = Regs {
        rcx: tdvpr.0,
        r8: id,
        ..Regs::call_version(Leaf::VP_INIT, version)
    };
    let rax = td.host(regs).rax;
    td.m.audit().unwrap();
    rax
}

fn vcpus(td: &Td) -> u64 {
    let regs = Regs {
        rcx: td.tdr.0,
        rdx: FieldId::TDCS_NUM_VCPUS.0,
        ..Regs::call(Leaf::MNG_RD)
    };
    td.ok(regs).r8
}

fn busy(operand: OperandId) -> u64 {
    TdxStatus::OPERAND_BUSY.with(operand).0
}

#[test]
fn version_1_of_vp_init_wants_the_tdr_alone_and_version_0_shares_it() {
    for (version, outcome) in [(0, 0), (1, busy(OperandId::TDR))] {
        let td = Td::unfinished(&params());
        let tdr = LockAt::Page(td.tdr);
        td.m.hold(tdr, Mode::Shared).unwrap();
        let regs = Regs {
            rcx: td.tdvpr.0,
            ..Regs::call_version(Leaf::VP_INIT, version)
        };
        assert_eq!(td.host(regs).rax, outcome, "version {version}");
        td.m.release(tdr, Mode::Shared);
        td.audit();
        if outcome != 0 {
            assert_eq!(init(&td, td.tdvpr, version, 0), 0);
        }
    }
}

#[test]
fn vp_init_names_the_word_that_is_taken() {
    let words = [
        (LockAt::Page as fn(Hpa) -> LockAt, true, OperandId::RCX),
        (LockAt::Page, false, OperandId::TDR),
        (LockAt::OpState, false, OperandId::OP_STATE),
    ];
    let td = Td::unfinished(&params());
    for (word, of_vcpu, operand) in words {
        let at = word(if of_vcpu { td.tdvpr } else { td.tdr });
        td.m.hold(at, Mode::Exclusive).unwrap();
        let regs = Regs {
            rcx: td.tdvpr.0,
            ..Regs::call(Leaf::VP_INIT)
        };
        assert_eq!(td.host(regs).rax, busy(operand));
        td.m.release(at, Mode::Exclusive);
    }
    assert_eq!((vcpus(&td), init(&td, td.tdvpr, 0, 0)), (0, 0));
}

#[test]
fn a_taken_x2apic_id_costs_a_place_and_one_that_is_too_wide_does_not() {
    let mut td = Td::unfinished(&params());
    assert_eq!(init(&td, td.tdvpr, 1, 5), 0);
    let second = td.blank_vcpu(5);
    let wide = TdxStatus::OPERAND_INVALID.with(OperandId::R8).0;
    assert_eq!((init(&td, second, 1, 5 | 1 << 32), vcpus(&td)), (wide, 1));
    let taken = status(TdxStatus::X2APIC_ID_NOT_UNIQUE, 5);
    assert_eq!((init(&td, second, 1, 5), vcpus(&td)), (taken, 2));
    assert_eq!((init(&td, second, 1, 6), vcpus(&td)), (0, 3));
    // The place that was lost counts as id 0.
    let third = td.blank_vcpu(5);
    let taken = status(TdxStatus::X2APIC_ID_NOT_UNIQUE, 0);
    assert_eq!((init(&td, third, 1, 0), vcpus(&td)), (taken, 4));
    let full = TdxStatus::MAX_VCPUS_EXCEEDED.0;
    assert_eq!((init(&td, third, 1, 9), vcpus(&td)), (full, 4));
}

#[test]
fn a_changed_tsc_costs_a_place_too() {
    let td = Td::unfinished(&params());
    td.machine.tsc_adjusted.store(true, SeqCst);
    let inconsistent = status(TdxStatus::INCONSISTENT_MSR, 0x3b);
    assert_eq!((init(&td, td.tdvpr, 0, 0), vcpus(&td)), (inconsistent, 1));
    td.machine.tsc_adjusted.store(false, SeqCst);
    assert_eq!((init(&td, td.tdvpr, 0, 0), vcpus(&td)), (0, 2));
}

#[test]
fn a_vcpu_is_built_in_order() {
    let mut td = Td::unfinished(&params());
    let version = TdxStatus::OPERAND_INVALID.with(OperandId::RAX).0;
    assert_eq!(init(&td, td.tdvpr, 2, 0), version);
    let small = td.blank_vcpu(4);
    let too_few = TdxStatus::TDCX_NUM_INCORRECT.0;
    assert_eq!(init(&td, small, 1, 0), too_few);
    assert_eq!(init(&td, td.tdvpr, 1, 0), 0);
    let state = TdxStatus::VCPU_STATE_INCORRECT.0;
    assert_eq!(init(&td, td.tdvpr, 1, 1), state);
    let rcx = td.page().0;
    let more = Regs {
        rcx,
        rdx: td.tdvpr.0,
        ..Regs::call(Leaf::VP_ADDCX)
    };
    assert_eq!(td.host(more).rax, state);
    let enter = Regs {
        rcx: td.tdvpr.0,
        ..Regs::call(Leaf::VP_ENTER)
    };
    assert_eq!(td.host(enter).rax, TdxStatus::OP_STATE_INCORRECT.0);
    td.audit();
}

#[test]
fn vp_addcx_stops_at_fifteen_pages() {
    let mut td = Td::unfinished(&params());
    let tdvpr = td.blank_vcpu(14);
    let rcx = td.page().0;
    let more = Regs {
        rcx,
        rdx: tdvpr.0,
        ..Regs::call(Leaf::VP_ADDCX)
    };
    assert_eq!(td.host(more).rax, TdxStatus::TDCX_NUM_INCORRECT.0);
    td.audit();
}

#[test]
fn a_flush_is_for_the_lp_that_has_the_vcpu_and_does_not_ask_for_op_state() {
    let td = Td::unfinished(&params());
    assert_eq!(init(&td, td.tdvpr, 1, 0), 0);
    let flush = Regs {
        rcx: td.tdvpr.0,
        ..Regs::call(Leaf::VP_FLUSH)
    };
    let not_here = TdxStatus::VCPU_NOT_ASSOCIATED.0;
    assert_eq!(td.host_on(1, flush).rax, not_here);
    let op_state = LockAt::OpState(td.tdr);
    td.m.hold(op_state, Mode::Exclusive).unwrap();
    assert_eq!(td.host(flush).rax, 0);
    td.m.release(op_state, Mode::Exclusive);
    assert_eq!(td.host(flush).rax, not_here);
    td.audit();
}
