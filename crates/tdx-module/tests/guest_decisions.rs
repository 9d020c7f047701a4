//! What the module decides about instructions, registers and CPUID of a guest.

mod a_td;

use a_td::{SHARED, Td, params, status};
use seamlock_tdx_abi::guest_leaf::GuestLeaf;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_abi::td_params::{Attributes, TdParams};
use seamlock_tdx_module::guest::{
    Decision, EXITS, Exception, GuestAfter, GuestState, MSRS, MsrAccess, MsrAnswer, VmExitReport,
    decision,
};

const TD_CTLS: u64 = 0x9110_0003_0000_0017;
const PENDING_NMI: u64 = 0x2020_0000_0000_000b;
const VE: Exception = Exception::Virtualization;
const GP: Exception = Exception::GeneralProtection;

fn vm_exit(td: &Td, reason: u32) -> GuestAfter {
    td.m.vm_exit(
        0,
        &VmExitReport {
            reason,
            ..VmExitReport::default()
        },
    )
}

fn exit_registers(after: GuestAfter) -> Regs {
    match after {
        GuestAfter::TdExit(regs) => regs,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_exit_reason_leads_where_the_table_says() {
    for reason in 0..80 {
        let td = Td::entered();
        let after = vm_exit(&td, reason);
        let exit = |code| {
            GuestAfter::TdExit(Regs {
                rax: status(code, reason),
                ..Regs::default()
            })
        };
        let expected = match decision(reason) {
            Some(Decision::Ve) => GuestAfter::Inject(VE),
            Some(Decision::Ud) => GuestAfter::Inject(Exception::UndefinedInstruction),
            Some(Decision::Gp | Decision::GpWithoutPerfmon | Decision::Elsewhere) => {
                GuestAfter::Inject(GP)
            }
            Some(Decision::Exit | Decision::ExitOrFatal) => exit(TdxStatus::SUCCESS),
            Some(Decision::DisableVcpu) => exit(TdxStatus::NON_RECOVERABLE_VCPU),
            Some(Decision::Interruption | Decision::ExitIfShared) | None => {
                exit(TdxStatus::NON_RECOVERABLE_TD)
            }
        };
        assert_eq!(after, expected, "{reason}");
        td.audit();
    }
}

#[test]
fn a_debugged_td_exits_for_reasons_that_would_end_another() {
    let attributes = Attributes::DEBUG.bits();
    for reason in [0, 7, 52] {
        let td = Td::with(&TdParams {
            attributes,
            ..params()
        });
        td.enter();
        assert_eq!(exit_registers(vm_exit(&td, reason)).rax, u64::from(reason));
    }
    assert!(EXITS.iter().all(|(reason, ..)| *reason != 52));
}

#[test]
fn an_interruption_is_told_to_the_host_and_a_machine_check_ends_the_td() {
    let interruption = |reason, info| VmExitReport {
        reason,
        interruption: info,
        ..VmExitReport::default()
    };
    let nmi = 1 << 31 | 2 << 8 | 2;
    let timer = 1 << 31 | 0xec;
    for (reason, info) in [(0, nmi), (1, timer)] {
        let td = Td::entered();
        let out = exit_registers(td.m.vm_exit(0, &interruption(reason, info)));
        let expected = Regs {
            rax: reason.into(),
            r9: info.into(),
            ..Regs::default()
        };
        assert_eq!(out, expected);
        td.enter();
    }
    let td = Td::entered();
    let out = exit_registers(td.m.vm_exit(0, &interruption(0, 1 << 31 | 3 << 8 | 18)));
    assert_eq!(
        out.rax,
        status(TdxStatus::NON_RECOVERABLE_TD_NON_ACCESSIBLE, 0)
    );
    let (_, regs) = td.try_enter(Regs::default());
    assert_eq!(regs.rax, TdxStatus::TD_FATAL.0);
    td.audit();
}

#[test]
fn a_misconfigured_entry_is_the_hosts_where_the_address_is_shared() {
    let td = Td::entered();
    let report = VmExitReport {
        reason: 49,
        gpa: SHARED.0 + 5,
        ..VmExitReport::default()
    };
    let out = exit_registers(td.m.vm_exit(0, &report));
    assert_eq!(
        out,
        Regs {
            rax: 49,
            r8: SHARED.0,
            ..Regs::default()
        }
    );
}

#[test]
fn an_instruction_that_raises_ve_leaves_what_it_was() {
    let td = Td::entered();
    let report = VmExitReport {
        reason: 30,
        qual: 0x03f8_0008,
        instruction_length: 1,
        instruction_info: 0x77,
        ..VmExitReport::default()
    };
    assert_eq!(td.m.vm_exit(0, &report), GuestAfter::Inject(VE));
    let info = td.guest(GuestLeaf::VP_VEINFO_GET, Regs::default());
    assert_eq!(
        (info.rcx, info.rdx, info.r10),
        (30, 0x03f8_0008, 1 | 0x77 << 32)
    );
    assert_eq!((info.r8, info.r9), (0, 0));
}

#[test]
fn a_guest_starts_in_flat_protected_mode_at_the_reset_vector() {
    let td = Td::entered();
    let GuestState { gprs, cpu, inject } = td.m.guest_state(0).unwrap();
    let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, rest @ ..] = gprs;
    let fms = td.m.platform().cpuid(1, 0)[0].into();
    assert_eq!([rcx, rdx, rbx, rsi, r8], [0x1234, fms, 48, 0, 0x1234]);
    assert_eq!(([rax, rsp, rbp, rdi], rest), ([0; 4], [0; 7]));
    assert_eq!(
        (cpu.rip, cpu.rflags, cpu.cr0, cpu.efer),
        (0xffff_fff0, 2, 0x21, 0x901)
    );
    assert_eq!((cpu.cpl(), cpu.is_64_bit(), inject), (0, false, None));
    assert_eq!(
        (cpu.cs.base, cpu.cs.limit, cpu.cs.access),
        (0, u32::MAX, 0xc09b)
    );
    assert!(td.m.guest_state(1).is_none());
}

fn with_state(td: &Td, change: impl FnOnce(&mut GuestState)) {
    let mut state = td.m.guest_state(0).unwrap();
    change(&mut state);
    assert!(td.m.store_guest_state(0, &state));
}

fn cpuid(td: &Td, leaf: u32, subleaf: u32) -> [u32; 4] {
    td.m.guest_cpuid(0, leaf, subleaf).unwrap()
}

#[test]
fn cpuid_names_the_vendor_tdx_and_the_vcpu() {
    let td = Td::entered();
    let [max, ebx, ecx, edx] = cpuid(&td, 0, 0);
    assert_eq!(max, 0x23);
    assert_eq!(
        [ebx, edx, ecx].map(u32::to_le_bytes).concat(),
        b"GenuineIntel"
    );
    let [_, ebx, ecx, edx] = cpuid(&td, 0x21, 0);
    assert_eq!(
        [ebx, edx, ecx].map(u32::to_le_bytes).concat(),
        b"IntelTDX    "
    );
    // x2APIC id 7, hypervisor bit.
    let [_, ebx, ecx, _] = cpuid(&td, 1, 0);
    assert_eq!((ebx >> 24, ecx >> 31), (7, 1));
    // Beyond the last leaf: as the last.
    assert_eq!(cpuid(&td, 0x24, 0), cpuid(&td, 0x23, 0));
}

#[test]
fn cpuid_follows_the_registers_of_the_guest() {
    let td = Td::entered();
    let osxsave = |td: &Td| cpuid(td, 1, 0)[2] >> 27 & 1;
    let ospke = |td: &Td| cpuid(td, 7, 0)[2] >> 4 & 1;
    let syscall = |td: &Td| cpuid(td, 0x8000_0001, 0)[3] >> 11 & 1;
    assert_eq!((osxsave(&td), ospke(&td), syscall(&td)), (0, 0, 0));
    assert_eq!(cpuid(&td, 0xd, 0)[1], 576);
    with_state(&td, |state| {
        state.cpu.cr4 |= 1 << 18 | 1 << 22;
        state.cpu.efer |= 1 << 10;
        state.cpu.cs.access |= 1 << 13;
        state.cpu.xcr0 = 7;
    });
    assert_eq!((osxsave(&td), ospke(&td), syscall(&td)), (1, 1, 1));
    assert_eq!(cpuid(&td, 0xd, 0)[1], 832);
}

#[test]
fn leaves_that_the_guest_did_not_ask_for_raise_ve() {
    let td = Td::entered();
    for leaf in [2, 6, 0xb, 0x1f, 0x4000_0000, 0x8000_0006] {
        assert_eq!(td.m.guest_cpuid(0, leaf, 0), Err(VE), "{leaf:#x}");
        let _ = td.guest(GuestLeaf::VP_VEINFO_GET, Regs::default());
    }
    let ask = Regs {
        rdx: TD_CTLS,
        r8: 6,
        r9: 6,
        ..Regs::default()
    };
    assert_eq!(td.guest(GuestLeaf::VM_WR, ask).rax, 0);
    assert_eq!(cpuid(&td, 2, 0)[0], 0x00fe_ff01);
    for leaf in [0xb, 0x1f] {
        assert_eq!(cpuid(&td, leaf, 0)[3], 7);
    }
}

#[test]
fn registers_are_native_virtual_or_an_exception_by_the_table() {
    let td = Td::entered();
    for rule in MSRS {
        for index in [rule.first, rule.last] {
            let (read, write) = (
                td.m.guest_rdmsr(0, index),
                td.m.guest_wrmsr(0, index, 0x901),
            );
            match rule.read {
                MsrAccess::Native => assert_eq!(read, MsrAnswer::Native, "{index:#x}"),
                MsrAccess::Ve | MsrAccess::Gp => {
                    assert!(matches!(read, MsrAnswer::Inject(_)), "{index:#x}");
                }
                _ => {}
            }
            assert!(!matches!(write, MsrAnswer::Value(_)), "{index:#x}");
            let _ = td.guest(GuestLeaf::VP_VEINFO_GET, Regs::default());
        }
    }
    let (inject_ve, inject_gp) = (MsrAnswer::Inject(VE), MsrAnswer::Inject(GP));
    let read = |index| {
        let answer = td.m.guest_rdmsr(0, index);
        let _ = td.guest(GuestLeaf::VP_VEINFO_GET, Regs::default());
        answer
    };
    assert_eq!(read(0x10), MsrAnswer::Native);
    assert_eq!(read(0x1b), inject_ve);
    assert_eq!(read(0xc1), inject_gp);
    assert_eq!(read(0xbd), MsrAnswer::Value(1));
    assert_eq!(read(0x345), MsrAnswer::Value(0));
    assert!(matches!(read(0x10a), MsrAnswer::Value(_)));
    let write = |index, value| {
        let answer = td.m.guest_wrmsr(0, index, value);
        let _ = td.guest(GuestLeaf::VP_VEINFO_GET, Regs::default());
        answer
    };
    // EFER: only SCE may change. XSS: nothing that XFAM does not have.
    assert_eq!(write(0xc000_0080, 0x900), MsrAnswer::Native);
    assert_eq!(write(0xc000_0080, 0x101), inject_ve);
    assert_eq!(write(0xda0, 0), MsrAnswer::Native);
    assert_eq!(write(0xda0, 1 << 8), inject_gp);
    assert_eq!(write(0x1d9, 1 << 6), inject_ve);
    assert_eq!(write(0x1d9, 1 << 2), inject_gp);
    assert_eq!(write(0xc000_0082, 5), MsrAnswer::Native);
}

#[test]
fn control_registers_keep_what_a_td_needs() {
    let td = Td::entered();
    let unread = |result: Result<u64, Exception>| {
        let _ = td.guest(GuestLeaf::VP_VEINFO_GET, Regs::default());
        result
    };
    let cr0 = |value| unread(td.m.guest_write_cr0(0, value, 0));
    assert_eq!(cr0(0x8001_0033), Ok(0x8001_0033));
    assert_eq!(cr0(0x8005_0173), Ok(0x8005_0033));
    assert_eq!((cr0(0x20), cr0(0x4000_0021)), (Err(VE), Err(VE)));
    assert_eq!(
        (cr0(1), cr0(1 << 32 | 0x21), cr0(0x8000_0020)),
        (Err(GP), Err(GP), Err(GP))
    );
    let cr4 = |value| unread(td.m.guest_write_cr4(0, value, 0));
    assert_eq!(cr4(0x4_06f0), Ok(0x4_06f0));
    assert_eq!(
        (cr4(0), cr4(0x2040), cr4(0x4040)),
        (Err(VE), Err(VE), Err(VE))
    );
    for not_in_xfam in [22, 23, 25, 19, 24, 15, 40] {
        assert_eq!(cr4(0x40 | 1 << not_in_xfam), Err(GP), "{not_in_xfam}");
    }
    let xcr0 = |index, value| td.m.guest_xsetbv(0, index, value);
    assert_eq!((xcr0(0, 3), xcr0(0, 1)), (Ok(()), Ok(())));
    assert_eq!(
        (xcr0(1, 3), xcr0(0, 2), xcr0(0, 7)),
        (Err(GP), Err(GP), Err(GP))
    );
}

#[test]
fn ve_for_a_control_register_names_it_and_its_source() {
    let td = Td::entered();
    assert_eq!(td.m.guest_write_cr4(0, 0, 11), Err(VE));
    let info = td.guest(GuestLeaf::VP_VEINFO_GET, Regs::default());
    assert_eq!((info.rcx, info.rdx), (28, 4 | 11 << 8));
}

#[test]
fn an_nmi_of_the_host_waits_for_ve_information_and_comes_once() {
    let td = Td::new();
    let inject = Regs {
        rcx: td.tdvpr.0,
        rdx: PENDING_NMI,
        r8: 1,
        r9: 1,
        ..Regs::call(Leaf::VP_WR)
    };
    td.ok(inject);
    td.enter();
    assert_eq!(td.m.guest_cpuid(0, 0x4000_0000, 0), Err(VE));
    assert!(!td.m.take_nmi(0));
    let _ = td.guest(GuestLeaf::VP_VEINFO_GET, Regs::default());
    assert!(td.m.take_nmi(0));
    assert!(!td.m.take_nmi(0));
    assert!(!td.m.take_nmi(1));
}

#[test]
fn where_no_guest_runs_everything_is_a_general_protection_fault() {
    let td = Td::new();
    assert_eq!(td.m.guest_cpuid(0, 0, 0), Err(GP));
    assert_eq!(vm_exit(&td, 12), GuestAfter::Inject(GP));
    assert_eq!(td.m.guest_rdmsr(0, 0x10), MsrAnswer::Inject(GP));
    assert_eq!(td.m.guest_wrmsr(9, 0x10, 0), MsrAnswer::Inject(GP));
    assert_eq!(td.m.guest_write_cr0(0, 0x21, 0), Err(GP));
    assert_eq!(td.m.guest_xsetbv(0, 0, 1), Err(GP));
    assert!(!td.m.store_guest_state(0, &GuestState::default()));
    td.audit();
}
