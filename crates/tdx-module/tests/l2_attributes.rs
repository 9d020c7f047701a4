//! TDG.MEM.PAGE.ATTR.RD and WR for L2 VMs.

mod a_td;

use a_td::{MAPPED, PENDING, Td, params, status};
use seamlock_tdx_abi::addr::{Gpa, NULL_PA};
use seamlock_tdx_abi::guest_leaf::GuestLeaf;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_abi::td_params::TdParams;

/// VM_CTLS of L2 VM 1.
const VM_CTLS_1: u64 = 0x9110_0003_0000_0013;
const VALID: u64 = 1 << 15;
const R: u64 = 1;
const W: u64 = 2;
const X: u64 = 4;
/// The attributes of VM 1 are in bits 31:16.
const VM1: u32 = 16;

fn with_an_l2_vm() -> Td {
    Td::with(&TdParams {
        num_l2_vms: 1,
        ..params()
    })
}

/// Gives VM 1 its tables down to level 1.
fn add_tables(td: &mut Td) {
    for level in [3, 2, 1] {
        let r9 = td.page().0;
        let regs = Regs {
            rcx: level,
            rdx: td.tdr.0 | 1,
            r8: NULL_PA,
            r9,
            r10: NULL_PA,
            r11: NULL_PA,
            ..Regs::call_version(Leaf::MEM_SEPT_ADD, 1)
        };
        td.ok(regs);
    }
}

fn write(td: &Td, gpa: Gpa, attributes: u64, mask: u64) -> Regs {
    let regs = Regs {
        rcx: gpa.0,
        rdx: attributes << VM1,
        r8: mask << VM1,
        ..Regs::default()
    };
    td.guest(GuestLeaf::MEM_PAGE_ATTR_WR, regs)
}

fn read(td: &Td, gpa: Gpa) -> u64 {
    let regs = Regs {
        rcx: gpa.0,
        ..Regs::default()
    };
    td.guest(GuestLeaf::MEM_PAGE_ATTR_RD, regs).rdx >> VM1
}

#[test]
fn an_l2_vm_gets_a_page_other_rights_to_it_and_loses_it() {
    let mut td = with_an_l2_vm();
    add_tables(&mut td);
    td.enter();
    assert_eq!(read(&td, MAPPED), 0);
    let out = write(&td, MAPPED, VALID | R | W, 0x7fff);
    assert_eq!(
        (out.rax, out.rcx, out.rdx >> VM1),
        (0, MAPPED.0, VALID | R | W)
    );
    assert_eq!(read(&td, MAPPED), VALID | R | W);
    td.audit();
    // Only the bits of the mask change.
    assert_eq!(write(&td, MAPPED, VALID | X, X | W).rax, 0);
    assert_eq!(read(&td, MAPPED), VALID | R | X);
    // Nothing left: the alias goes.
    let out = write(&td, MAPPED, VALID, 0x7fff);
    assert_eq!((out.rax, out.rdx >> VM1), (0, VALID));
    assert_eq!(read(&td, MAPPED), 0);
    td.audit();
}

#[test]
fn rights_that_no_page_can_have_are_refused_and_the_present_ones_told() {
    let mut td = with_an_l2_vm();
    add_tables(&mut td);
    td.enter();
    assert_eq!(write(&td, MAPPED, VALID | R, 0x7fff).rax, 0);
    let out = write(&td, MAPPED, VALID | W, 0x7fff);
    let refused = TdxStatus::PAGE_ATTR_INVALID.0;
    assert_eq!((out.rax, out.rcx, out.rdx >> VM1), (refused, 0, VALID | R));
    assert_eq!(read(&td, MAPPED), VALID | R);
    let out = write(&td, PENDING, VALID | W, 0x7fff);
    assert_eq!((out.rax, out.rdx), (refused, 0));
    td.audit();
}

#[test]
fn an_l2_vm_gets_a_pending_page_when_it_is_accepted() {
    let mut td = with_an_l2_vm();
    add_tables(&mut td);
    td.enter();
    let out = write(&td, PENDING, VALID | R | W, 0x7fff);
    assert_eq!((out.rax, out.rcx), (0, PENDING.0 | 1 << 62));
    let state = |td: &Td| {
        let regs = Regs {
            rcx: PENDING.0,
            rdx: td.tdr.0,
            ..Regs::call_version(Leaf::MEM_SEPT_RD, 0)
        };
        td.host_on(1, regs).rax
    };
    assert_eq!(state(&td), 0);
    let accept = Regs {
        rcx: PENDING.0,
        ..Regs::default()
    };
    assert_eq!(td.guest(GuestLeaf::MEM_PAGE_ACCEPT, accept).rax, 0);
    assert_eq!(read(&td, PENDING), VALID | R | W);
    td.audit();
}

#[test]
fn a_missing_table_is_the_guests_business_or_by_choice_the_hosts() {
    let td = with_an_l2_vm();
    td.enter();
    let out = write(&td, MAPPED, VALID | R, 0x7fff);
    // VM 1, level 3: the table under the root is missing.
    assert_eq!(
        (out.rax, out.rdx),
        (status(TdxStatus::L2_SEPT_WALK_FAILED, 1 << 16 | 3), 0)
    );
    td.ok_on(
        1,
        Regs {
            rcx: td.tdr.0,
            rdx: VM_CTLS_1,
            r8: 1,
            r9: 1,
            ..Regs::call(Leaf::MNG_WR)
        },
    );
    let regs = Regs {
        rcx: MAPPED.0,
        rdx: (VALID | R) << VM1,
        r8: 0x7fff << VM1,
        ..Regs::default()
    };
    let out = td.exit(GuestLeaf::MEM_PAGE_ATTR_WR, regs);
    let details = 2 | (3 << 3 | 1 << 20) << 32;
    assert_eq!(
        (out.rax, out.rcx, out.rdx, out.r8),
        (48, 2, details, MAPPED.0)
    );
    td.audit();
}
