//! Guest leaves that need no memory, and TDG.VP.VMCALL.

mod a_td;

use std::sync::atomic::Ordering::SeqCst;

use a_td::{HOST_RBP, PENDING, Td, params};
use seamlock_sync::Mode;
use seamlock_tdx_abi::field::FieldId;
use seamlock_tdx_abi::guest_leaf::GuestLeaf;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_abi::td_params::{ConfigFlags, TdParams};
use seamlock_tdx_module::guest::{Exception, GuestAfter};
use seamlock_tdx_module::tdg::GUEST_LEAVES;
use seamlock_tdx_module::{After, LockAt};

const TD_CTLS: u64 = 0x9110_0003_0000_0017;
const HINT: u64 = 1 << 52;

fn invalid(operand: OperandId) -> u64 {
    TdxStatus::OPERAND_INVALID.with(operand).0
}

#[test]
fn rax_names_a_leaf_that_exists_in_a_version_that_exists() {
    let td = Td::entered();
    let unknown = (0..64).filter(|n| !GUEST_LEAVES.contains(&GuestLeaf(*n)));
    for leaf in unknown.chain([0x100, 0xffff]) {
        let out = td.guest(GuestLeaf(leaf), Regs::default());
        assert_eq!(
            out,
            Regs {
                rax: invalid(OperandId::RAX),
                ..Regs::default()
            }
        );
    }
    for leaf in GUEST_LEAVES {
        for reserved in [1 << 24, 1 << 63, 2 << 16] {
            let regs = Regs {
                rax: reserved,
                ..Regs::default()
            };
            let out = td.guest(*leaf, regs);
            assert_eq!(out.rax, invalid(OperandId::RAX), "{leaf} {reserved:#x}");
        }
    }
    td.audit();
}

#[test]
fn a_call_where_no_guest_runs_is_a_general_protection_fault() {
    let td = Td::new();
    let (after, _) = td.tdcall(GuestLeaf::VP_INFO, Regs::default());
    assert_eq!(after, GuestAfter::Inject(Exception::GeneralProtection));
    td.audit();
}

#[test]
fn vp_info_tells_about_td_and_vcpu() {
    let td = Td::entered();
    let junk = Regs {
        r9: 99,
        r11: 5,
        rbx: 6,
        ..Regs::default()
    };
    let out = td.guest(GuestLeaf::VP_INFO, junk);
    let expected = Regs {
        rcx: 48,
        r8: 2 | 4 << 32,
        r10: 1,
        rbx: 6,
        ..Regs::default()
    };
    assert_eq!(out, expected);
}

#[test]
fn vmcall_passes_the_selected_registers_both_ways() {
    let td = Td::entered();
    let control = 1 << 2 | 1 << 10 | 1 << 15;
    let mut state = td.m.guest_state(0).unwrap();
    (state.cpu.rip, state.gprs[4]) = (0x8000, 0x7000);
    assert!(td.m.store_guest_state(0, &state));
    let guest = Regs {
        rcx: control,
        rdx: 2,
        rbx: 3,
        rbp: 5,
        r10: 10,
        r15: 15,
        ..Regs::default()
    };
    let out = td.exit(GuestLeaf::VP_VMCALL, guest);
    let expected = Regs {
        rax: 77,
        rcx: control,
        rdx: 2,
        r10: 10,
        r15: 15,
        ..Regs::default()
    };
    assert_eq!(out, expected);
    td.audit();

    let host = Regs {
        rdx: 0x22,
        rbx: 0x33,
        r10: 0xaa,
        r15: 0xff,
        ..Regs::default()
    };
    assert_eq!(td.try_enter(host).0, After::Guest);
    let state = td.m.guest_state(0).unwrap();
    assert_eq!(state.cpu.rip, 0x8004);
    let [rax, rcx, rdx, rbx, rsp, rbp, ..] = state.gprs;
    assert_eq!(
        [rax, rcx, rdx, rbx, rsp, rbp],
        [0, control, 0x22, 3, 0x7000, 5]
    );
    assert_eq!([state.gprs[10], state.gprs[15]], [0xaa, 0xff]);
}

#[test]
fn vmcall_refuses_registers_that_are_not_the_guests_to_pass() {
    let keeps = TdParams {
        config_flags: ConfigFlags::NO_RBP_MOD.bits(),
        ..params()
    };
    for (params, rbp_too) in [(params(), false), (keeps, true)] {
        let td = Td::with(&params);
        td.enter();
        for bit in [0, 1, 4, 32, 63] {
            let regs = Regs {
                rcx: 1 << bit,
                ..Regs::default()
            };
            let out = td.guest(GuestLeaf::VP_VMCALL, regs);
            assert_eq!(
                out,
                Regs {
                    rax: invalid(OperandId::RCX),
                    ..regs
                }
            );
        }
        let rbp = Regs {
            rcx: 1 << 5,
            rbp: 0x55,
            ..Regs::default()
        };
        if rbp_too {
            assert_eq!(
                td.guest(GuestLeaf::VP_VMCALL, rbp).rax,
                invalid(OperandId::RCX)
            );
            let out = td.exit(GuestLeaf::VP_VMCALL, Regs::default());
            assert_eq!(out.rbp, HOST_RBP);
        } else {
            assert_eq!(td.exit(GuestLeaf::VP_VMCALL, rbp).rbp, 0x55);
        }
    }
}

#[test]
fn cpuidve_set_turns_cpuid_into_ve_for_the_mode_asked_for() {
    let td = Td::entered();
    let set = |modes| {
        let regs = Regs {
            rcx: modes,
            ..Regs::default()
        };
        td.guest(GuestLeaf::VP_CPUIDVE_SET, regs).rax
    };
    assert_eq!(set(4), invalid(OperandId::RCX));
    assert!(td.m.guest_cpuid(0, 0, 0).is_ok());
    assert_eq!(set(2), 0);
    assert!(td.m.guest_cpuid(0, 0, 0).is_ok());
    assert_eq!(set(1), 0);
    assert_eq!(td.m.guest_cpuid(0, 0, 0), Err(Exception::Virtualization));
    let info = td.guest(GuestLeaf::VP_VEINFO_GET, Regs::default());
    assert_eq!((info.rax, info.rcx, info.r10), (0, 10, 2));
    assert_eq!(set(0), 0);
    assert!(td.m.guest_cpuid(0, 0, 0).is_ok());
}

#[test]
fn ve_information_is_read_once_and_until_then_the_next_ve_is_a_double_fault() {
    let td = Td::entered();
    let none = td.guest(
        GuestLeaf::VP_VEINFO_GET,
        Regs {
            rcx: 1,
            r10: 1,
            ..Regs::default()
        },
    );
    assert_eq!(
        none,
        Regs {
            rax: TdxStatus::NO_VALID_VE_INFO.0,
            ..Regs::default()
        }
    );
    assert_eq!(
        td.m.guest_cpuid(0, 0x4000_0000, 0),
        Err(Exception::Virtualization)
    );
    assert_eq!(
        td.m.guest_cpuid(0, 0x4000_0000, 0),
        Err(Exception::DoubleFault)
    );
    assert_eq!(td.guest(GuestLeaf::VP_VEINFO_GET, Regs::default()).rcx, 10);
    assert_eq!(
        td.m.guest_cpuid(0, 0x4000_0000, 0),
        Err(Exception::Virtualization)
    );
}

#[test]
fn vm_rd_and_vm_wr_reach_what_the_guest_may() {
    let td = Td::entered();
    let read = |version: u64, field| {
        let regs = Regs {
            rax: version << 16,
            rdx: field,
            ..Regs::default()
        };
        td.guest(GuestLeaf::VM_RD, regs)
    };
    let xfam = read(0, FieldId::TDCS_XFAM.0);
    assert_eq!((xfam.rax, xfam.r8, xfam.rdx), (0, 3, FieldId::TDCS_XFAM.0));
    let first = read(1, FieldId::NULL.0);
    assert_eq!(first.rax, TdxStatus::METADATA_FIRST_FIELD_ID_IN_CONTEXT.0);
    let mut id = first.rdx;
    let mut fields = 0;
    while id != FieldId::NULL.0 {
        let out = read(1, id);
        assert_eq!(out.rax, 0, "{id:#x}");
        (id, fields) = (out.rdx, fields + 1);
    }
    assert!(fields > 20, "{fields}");
    let write = |value, mask| {
        let regs = Regs {
            rdx: TD_CTLS,
            r8: value,
            r9: mask,
            ..Regs::default()
        };
        td.guest(GuestLeaf::VM_WR, regs)
    };
    assert_eq!((write(6, 6).rax, read(0, TD_CTLS).r8), (0, 6));
    let out = write(0, 2);
    assert_eq!((out.rax, out.r8, read(0, TD_CTLS).r8), (0, 6, 4));
    let l2 = Regs {
        rcx: 1,
        rdx: TD_CTLS,
        ..Regs::default()
    };
    assert_eq!(td.guest(GuestLeaf::VM_RD, l2).rax, invalid(OperandId::RCX));
    assert_eq!(td.guest(GuestLeaf::VM_WR, l2).rax, invalid(OperandId::RCX));
}

#[test]
fn vp_rd_walks_the_fields_of_the_vcpu_and_vp_wr_writes_some() {
    let td = Td::entered();
    let read = |field| {
        td.guest(
            GuestLeaf::VP_RD,
            Regs {
                rdx: field,
                ..Regs::default()
            },
        )
    };
    let first = read(FieldId::NULL.0);
    assert_eq!(first.rax, TdxStatus::METADATA_FIRST_FIELD_ID_IN_CONTEXT.0);
    let mut id = first.rdx;
    for _ in 0..200 {
        let out = read(id);
        assert_eq!(out.rax, 0, "{id:#x}");
        id = out.rdx;
        if id == FieldId::NULL.0 {
            break;
        }
    }
    assert_eq!(id, FieldId::NULL.0);
    // CPUID_CONTROL of the first leaf in CPUID_VALUES, leaf 1.
    let control = FieldId::VP_CPUID_CONTROL.0;
    let regs = Regs {
        rdx: control,
        r8: 1,
        r9: 3,
        ..Regs::default()
    };
    assert_eq!(td.guest(GuestLeaf::VP_WR, regs).rax, 0);
    assert_eq!(read(control).r8, 1);
    assert_eq!(td.m.guest_cpuid(0, 1, 0), Err(Exception::Virtualization));
    let wrong = Regs {
        rcx: 1,
        rdx: control,
        ..Regs::default()
    };
    assert_eq!(
        td.guest(GuestLeaf::VP_RD, wrong).rax,
        invalid(OperandId::RCX)
    );
    assert_eq!(
        td.guest(GuestLeaf::VP_WR, wrong).rax,
        invalid(OperandId::RCX)
    );
}

#[test]
fn sys_rd_tells_the_guest_of_the_module() {
    let td = Td::entered();
    let features = FieldId::SYS_TDX_FEATURES0.0;
    let out = td.guest(
        GuestLeaf::SYS_RD,
        Regs {
            rdx: features,
            ..Regs::default()
        },
    );
    assert_eq!((out.rax, out.r8 >> 18 & 1), (0, 1));
    let out = td.guest(
        GuestLeaf::SYS_RD,
        Regs {
            rdx: FieldId::NULL.0,
            ..Regs::default()
        },
    );
    assert_eq!(out.rax, TdxStatus::METADATA_FIRST_FIELD_ID_IN_CONTEXT.0);
    assert_ne!(out.rdx, FieldId::NULL.0);
}

/// Leaves the mark of a refused host call on the pending page's entry.
fn refuse_a_host_call(td: &Td) -> LockAt {
    let entry = td.entry(PENDING, 0);
    td.m.hold(entry, Mode::Exclusive).unwrap();
    assert!(td.m.hold(entry, Mode::Exclusive).is_err());
    td.m.release(entry, Mode::Exclusive);
    assert!(td.m.peek(entry).unwrap().host_priority);
    entry
}

fn accept(td: &Td) -> (GuestAfter, Regs) {
    td.tdcall(
        GuestLeaf::MEM_PAGE_ACCEPT,
        Regs {
            rcx: PENDING.0,
            ..Regs::default()
        },
    )
}

#[test]
fn a_guest_that_yields_to_the_host_for_too_long_exits_and_learns_of_the_hint() {
    let td = Td::entered();
    let entry = refuse_a_host_call(&td);
    let busy = TdxStatus::OPERAND_BUSY.with(OperandId::RCX).0;
    let second = td.m.platform().native_tsc_hz;
    for tsc in [10, second / 2, second + 9] {
        td.machine.tsc.store(tsc, SeqCst);
        let (after, regs) = accept(&td);
        assert_eq!((after, regs.rax), (GuestAfter::Continue, busy));
    }
    td.machine.tsc.store(second + 10, SeqCst);
    let expected = Regs {
        rax: TdxStatus::HOST_PRIORITY_BUSY_TIMEOUT.0,
        ..Regs::default()
    };
    assert_eq!(accept(&td).0, GuestAfter::TdExit(expected));
    td.audit();
    let (after, regs) = td.try_enter(Regs {
        rcx: HINT,
        ..Regs::default()
    });
    assert_eq!(after, After::Guest, "{regs:?}");
    let state = td.m.guest_state(0).unwrap();
    let [rax, rcx, ..] = state.gprs;
    assert_eq!(
        [rax, rcx, state.cpu.rip],
        [busy | 1 << 60, PENDING.0, 0xffff_fff4]
    );
    // A host call that has the word ends it.
    td.m.hold(entry, Mode::Exclusive).unwrap();
    td.m.release(entry, Mode::Exclusive);
    assert!(!td.m.peek(entry).unwrap().host_priority);
}

#[test]
fn another_guest_call_in_between_starts_the_time_anew() {
    let td = Td::entered();
    let _ = refuse_a_host_call(&td);
    let second = td.m.platform().native_tsc_hz;
    for i in 0..5 {
        td.machine.tsc.store(i * second, SeqCst);
        let (after, _) = accept(&td);
        assert_eq!(after, GuestAfter::Continue);
        let _ = td.guest(GuestLeaf::VP_INFO, Regs::default());
    }
}
