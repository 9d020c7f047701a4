//! Guest leaves that read or write guest memory: RTMRs, reports, and attributes of pages.

mod a_td;

use std::sync::atomic::Ordering::SeqCst;

use a_td::{
    ABSENT, EPT_VIOLATION, MAPPED, PENDING, PENDING_2M, SHARED, STATE_PENDING, Td, exit_of,
    invalid, params, status, with_a_page,
};
use openssl::sha::sha384;
use seamlock_tdx_abi::addr::{Gpa, Hpa};
use seamlock_tdx_abi::guest_leaf::GuestLeaf;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::report::{TdInfo, TdReport};
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_abi::td_params::{Attributes, TdParams};
use seamlock_tdx_module::guest::{Exception, GuestAfter};
use seamlock_tdx_module::report::is_consistent;
use zerocopy::{FromBytes, IntoBytes};

fn extend(td: &Td, gpa: u64, index: u64) -> u64 {
    let regs = Regs {
        rcx: gpa,
        rdx: index,
        ..Regs::default()
    };
    td.guest(GuestLeaf::MR_RTMR_EXTEND, regs).rax
}

fn report(td: &Td) -> TdReport {
    let regs = Regs {
        rcx: PENDING.0 + 0x400,
        rdx: PENDING.0,
        ..Regs::default()
    };
    assert_eq!(td.guest(GuestLeaf::MR_REPORT, regs).rax, 0);
    let mut bytes = [0; 1024];
    let pa = Hpa(td.hpa(PENDING, 0).0 + 0x400);
    td.m.memory().read(pa, &mut bytes).unwrap();
    TdReport::read_from_bytes(&bytes).unwrap()
}

#[test]
fn an_rtmr_is_the_hash_of_itself_and_the_data() {
    let (td, hpa) = with_a_page();
    let data: [u8; 48] = std::array::from_fn(|i| i as u8);
    td.m.memory().write(Hpa(hpa.0 + 0x40), &data).unwrap();
    let mut expected = [0; 48];
    for _ in 0..2 {
        assert_eq!(extend(&td, PENDING.0 + 0x40, 2), 0);
        expected = sha384(&[expected, data].concat());
        assert_eq!(
            report(&td).td_info.rtmr,
            [[0; 48], [0; 48], expected, [0; 48]]
        );
    }
    assert_eq!(extend(&td, PENDING.0 + 8, 0), invalid(OperandId::RCX));
    assert_eq!(extend(&td, SHARED.0, 0), invalid(OperandId::RCX));
    assert_eq!(extend(&td, PENDING.0, 4), invalid(OperandId::RDX));
    // The address is looked at before the index.
    let regs = Regs {
        rcx: ABSENT.0,
        rdx: 4,
        ..Regs::default()
    };
    let out = td.exit(GuestLeaf::MR_RTMR_EXTEND, regs);
    assert_eq!(
        out,
        Regs {
            rax: EPT_VIOLATION,
            rcx: 1,
            r8: ABSENT.0,
            ..Regs::default()
        }
    );
    td.audit();
}

#[test]
fn a_report_shows_the_td_and_the_guests_data_and_tells_when_it_was_changed() {
    let (td, hpa) = with_a_page();
    td.m.memory().write(hpa, &[0x5a; 64]).unwrap();
    let made = report(&td);
    assert!(is_consistent(&made));
    assert_eq!(made.report_mac.report_data, [0x5a; 64]);
    let TdInfo {
        xfam,
        mrconfigid,
        mrowner,
        mrtd,
        servtd_hash,
        ..
    } = made.td_info;
    assert_eq!((xfam, mrconfigid, mrowner), (3, [1; 48], [2; 48]));
    assert_ne!(mrtd, [0; 48]);
    assert_eq!(servtd_hash, [0; 48]);

    let verify = |td: &Td| {
        let regs = Regs {
            rcx: PENDING.0 + 0x400,
            ..Regs::default()
        };
        td.guest(GuestLeaf::MR_VERIFYREPORT, regs).rax
    };
    assert_eq!(verify(&td), 0);
    let mut forged = made;
    forged.report_mac.report_data[0] ^= 1;
    let place = Hpa(hpa.0 + 0x400);
    td.m.memory().write(place, forged.as_bytes()).unwrap();
    assert_eq!(verify(&td), TdxStatus::INVALID_REPORTMACSTRUCT.0);
    forged.report_mac.cpu_svn = [0; 16];
    td.m.memory().write(place, forged.as_bytes()).unwrap();
    assert_eq!(verify(&td), TdxStatus::INVALID_CPUSVN.0);
}

#[test]
fn the_operands_of_a_report_are_checked_in_order() {
    let (td, _) = with_a_page();
    let status = |rcx, rdx, r8| {
        td.guest(
            GuestLeaf::MR_REPORT,
            Regs {
                rcx,
                rdx,
                r8,
                ..Regs::default()
            },
        )
        .rax
    };
    assert_eq!(status(PENDING.0 + 0x200, 1, 1), invalid(OperandId::RCX));
    assert_eq!(status(PENDING.0, PENDING.0 + 8, 1), invalid(OperandId::RDX));
    assert_eq!(status(PENDING.0, 1 << 48, 1), invalid(OperandId::RDX));
    assert_eq!(status(PENDING.0, PENDING.0, 1), invalid(OperandId::R8));
    assert_eq!(status(1 << 48, PENDING.0, 0), invalid(OperandId::RCX));
}

#[test]
fn an_interrupt_cuts_a_report_only_while_its_hash_is_new() {
    let (td, _) = with_a_page();
    td.machine.interrupt.store(true, SeqCst);
    let regs = Regs {
        rcx: PENDING.0 + 0x400,
        rdx: PENDING.0,
        ..Regs::default()
    };
    assert_eq!(td.tdcall(GuestLeaf::MR_REPORT, regs).0, GuestAfter::Again);
    td.audit();
    assert_eq!(
        td.tdcall(GuestLeaf::MR_REPORT, regs).0,
        GuestAfter::Continue
    );
    assert_eq!(extend(&td, PENDING.0, 0), 0);
    assert_eq!(td.tdcall(GuestLeaf::MR_REPORT, regs).0, GuestAfter::Again);
    assert!(is_consistent(&report(&td)));
}

#[test]
fn a_leaf_that_touches_a_pending_page_gets_ve_or_an_exit_as_the_td_wants() {
    let td = Td::entered();
    let regs = Regs {
        rcx: PENDING.0,
        ..Regs::default()
    };
    let (after, _) = td.tdcall(GuestLeaf::MR_RTMR_EXTEND, regs);
    assert_eq!(after, GuestAfter::Inject(Exception::Virtualization));
    let info = td.guest(GuestLeaf::VP_VEINFO_GET, Regs::default());
    assert_eq!(
        (info.rcx, info.rdx, info.r9, info.r10),
        (48, 1, PENDING.0, 4)
    );

    let attributes = Attributes::SEPT_VE_DISABLE.bits();
    let td = Td::with(&TdParams {
        attributes,
        ..params()
    });
    td.enter();
    let out = td.exit(GuestLeaf::MR_RTMR_EXTEND, regs);
    assert_eq!((out.rax, out.rcx, out.rdx, out.r8), (48, 1, 6, PENDING.0));
}

/// A shared EPT that maps one page at [`SHARED`] with these bits, in host memory.
fn share(td: &Td, page: Hpa, bits: u64) {
    let tables = [0x20_0000, 0x20_1000, 0x20_2000, 0x20_3000].map(Hpa);
    // SHARED is the first address of the upper half: entry 256 of the top table.
    let entry = |table: Hpa, index: u64, value: u64| {
        td.m.memory()
            .write(Hpa(table.0 + 8 * index), &value.to_le_bytes())
            .unwrap();
    };
    entry(tables[0], 256, tables[1].0 | 7);
    entry(tables[1], 0, tables[2].0 | 7);
    entry(tables[2], 0, tables[3].0 | 7);
    entry(tables[3], 0, page.0 | bits);
    td.ok(Regs {
        rcx: td.tdvpr.0,
        rdx: 0x0024_0003_0000_203c,
        r8: tables[0].0,
        r9: u64::MAX,
        ..Regs::call(Leaf::VP_WR)
    });
}

#[test]
fn a_report_can_go_to_shared_memory_and_its_data_come_from_there() {
    let td = Td::new();
    let page = Hpa(0x20_8000);
    share(&td, page, 0x37);
    td.m.memory().write(page, &[0x77; 64]).unwrap();
    td.enter();
    let regs = Regs {
        rcx: SHARED.0 + 0x800,
        rdx: SHARED.0,
        ..Regs::default()
    };
    assert_eq!(td.guest(GuestLeaf::MR_REPORT, regs).rax, 0);
    let mut bytes = [0; 1024];
    td.m.memory().read(Hpa(page.0 + 0x800), &mut bytes).unwrap();
    let made = TdReport::read_from_bytes(&bytes).unwrap();
    assert!(is_consistent(&made));
    assert_eq!(made.report_mac.report_data, [0x77; 64]);
}

#[test]
fn what_the_shared_ept_refuses_is_ve_or_the_hosts() {
    let report = Regs {
        rcx: SHARED.0 + 0x800,
        rdx: SHARED.0,
        ..Regs::default()
    };
    let outcome = |page, bits| {
        let td = Td::new();
        share(&td, page, bits);
        td.enter();
        td.tdcall(GuestLeaf::MR_REPORT, report).0
    };
    let host = Hpa(0x20_8000);
    let ve = GuestAfter::Inject(Exception::Virtualization);
    assert_eq!(outcome(host, 0), ve);
    let exit = |rax, rcx| {
        GuestAfter::TdExit(Regs {
            rax,
            rcx,
            r8: SHARED.0,
            ..Regs::default()
        })
    };
    // Suppress #VE; readable only, when written; writable only; a private page.
    assert_eq!(outcome(host, 1 << 63), exit(48, 1));
    assert_eq!(outcome(host, 1 << 63 | 0x31), exit(48, 2 | 1 << 3));
    assert_eq!(outcome(host, 0x32), exit(49, 0));
    let private = Hpa(33 << 46 | 0x20_8000);
    assert_eq!(outcome(private, 0x37), exit(49, 0));
}

#[test]
fn attributes_tell_how_a_page_is_mapped() {
    let td = Td::entered();
    let read = |gpa: u64| {
        let out = td.guest(
            GuestLeaf::MEM_PAGE_ATTR_RD,
            Regs {
                rcx: gpa,
                rdx: 9,
                ..Regs::default()
            },
        );
        (out.rax, out.rcx, out.rdx)
    };
    const PENDING_FLAG: u64 = 1 << 62;
    assert_eq!(read(MAPPED.0 + 0x123), (0, MAPPED.0, 0));
    assert_eq!(read(PENDING.0), (0, PENDING.0 | PENDING_FLAG, 0));
    assert_eq!(
        read(PENDING_2M.0 + 0x3000),
        (0, PENDING_2M.0 | 1 | PENDING_FLAG, 0)
    );
    assert_eq!(read(SHARED.0), (invalid(OperandId::RCX), 0, 0));
    let out = td.exit(
        GuestLeaf::MEM_PAGE_ATTR_RD,
        Regs {
            rcx: ABSENT.0,
            ..Regs::default()
        },
    );
    assert_eq!(
        out,
        Regs {
            rax: EPT_VIOLATION,
            r8: ABSENT.0,
            ..Regs::default()
        }
    );
    td.audit();
}

#[test]
fn attributes_of_the_td_itself_and_of_vms_that_do_not_exist_can_not_be_written() {
    let td = Td::entered();
    let write = |rcx, rdx, r8| {
        let regs = Regs {
            rcx,
            rdx,
            r8,
            ..Regs::default()
        };
        let out = td.guest(GuestLeaf::MEM_PAGE_ATTR_WR, regs);
        (out.rax, out.rcx)
    };
    assert_eq!(write(MAPPED.0, 1, 0).0, invalid(OperandId::RDX));
    assert_eq!(write(MAPPED.0, 0, 1 << 16).0, invalid(OperandId::R8));
    assert_eq!(write(MAPPED.0, 0x8001 << 16, 0).0, invalid(OperandId::RDX));
    assert_eq!(write(MAPPED.0 | 3, 0, 0).0, invalid(OperandId::RCX));
    assert_eq!(write(MAPPED.0, 0, 0), (0, MAPPED.0));
    assert_eq!(write(PENDING.0, 0, 0), (0, PENDING.0 | 1 << 62));
    assert_eq!(
        write(1, 0, 0),
        (status(TdxStatus::PAGE_SIZE_MISMATCH, 1), 0)
    );
    let regs = Regs {
        rcx: PENDING_2M.0 + 0x1000,
        ..Regs::default()
    };
    let out = td.exit(GuestLeaf::MEM_PAGE_ATTR_WR, regs);
    let info = [0, 1, STATE_PENDING, 1];
    assert_eq!(out, exit_of(5, Gpa(regs.rcx), info, 0));
    td.audit();
}
