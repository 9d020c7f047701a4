//! PHYMEM.PAGE.RDMD and RECLAIM: what they say about a page, and where a page can be.

mod host;

use std::sync::Arc;

use host::{GIB, Host, TDR};
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_module::platform::Quiet;
use seamlock_tdx_module::{Module, Platform};

/// A call on a page with every other register set.
fn call(m: &Module, leaf: Leaf, page: u64) -> Regs {
    let mut regs = Regs {
        rcx: page,
        rdx: 2,
        r8: 8,
        r9: 9,
        r10: 10,
        r11: 11,
        r12: 12,
        ..Regs::call(leaf)
    };
    let _ = m.seamcall(0, &mut regs);
    regs
}

#[test]
fn the_registers_for_what_is_said_about_a_page_are_zero_when_nothing_is() {
    let host = Host::ready(1);
    for leaf in [Leaf::PHYMEM_PAGE_RDMD, Leaf::PHYMEM_PAGE_RECLAIM] {
        for page in [1, 1 << 40, 1 << 63, TDR] {
            let regs = call(&host.m, leaf, page);
            let said = [regs.rcx, regs.rdx, regs.r8, regs.r9, regs.r10, regs.r11];
            assert_eq!(said, [0; 6], "{leaf} {page:#x}");
            assert_eq!(regs.r12, 12);
        }
    }
}

#[test]
fn an_address_above_the_processors_width_is_out_of_range_and_not_malformed() {
    let platform = Platform {
        maxpa: 46,
        hkid_start_bit: 40,
        events: Arc::new(Quiet::default()),
        ..Platform::sapphire_rapids(4 * GIB, 4)
    };
    let m = Module::ready(platform).unwrap();
    let status = |page| call(&m, Leaf::PHYMEM_PAGE_RDMD, page).status();
    let invalid = TdxStatus::OPERAND_INVALID.with(OperandId::RCX);
    let no_such_page = TdxStatus::OPERAND_ADDR_RANGE_ERROR.with(OperandId::RCX);
    assert_eq!(status(1 << 39), no_such_page);
    assert_eq!(status(1 << 45), invalid);
    assert_eq!(status(1 << 46), no_such_page);
    assert_eq!(status(1 << 51), no_such_page);
    assert_eq!(status(1 << 52), invalid);
}
