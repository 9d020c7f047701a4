//! What hardware may do to the module, and what the module makes of it. No vectors were recorded
//! for these statuses.

mod host;

use host::{HKID, Host, TDR, add_tdcx, create, on, params};
use seamlock_tdx_abi::field::FieldId;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_module::platform::{KeyProgramming, PlatformFault};

const KET_BUSY: TdxStatus = TdxStatus::OPERAND_BUSY.with(OperandId::KET);

/// Brings a loaded module to where SYS.CONFIG has been made, LP by LP.
fn configured(host: &Host) {
    host.ok(0, Regs::call(Leaf::SYS_INIT));
    for lp in 0..4 {
        host.ok(lp, Regs::call(Leaf::SYS_LP_INIT));
    }
    let tdmr = [
        host::GIB,
        host::GIB,
        0x240_2000,
        0x1000,
        0x240_0000,
        0x2000,
        0x200_0000,
        0x40_0000,
    ];
    let bytes: Vec<u8> = tdmr.iter().flat_map(|word| word.to_le_bytes()).collect();
    let memory = host.m.memory();
    memory
        .write(seamlock_tdx_abi::addr::Hpa(0x1200), &bytes)
        .unwrap();
    memory
        .write(
            seamlock_tdx_abi::addr::Hpa(0x1000),
            &0x1200u64.to_le_bytes(),
        )
        .unwrap();
    host.ok(
        0,
        Regs {
            rdx: 1,
            r8: HKID - 1,
            ..on(Leaf::SYS_CONFIG, 0x1000)
        },
    );
}

#[test]
fn sys_init_and_lp_init_can_be_repeated_when_there_was_no_entropy() {
    let host = Host::loaded(1);
    for leaf in [Leaf::SYS_INIT, Leaf::SYS_LP_INIT] {
        host.script.entropy.then([false]);
        assert_eq!(host.status(0, Regs::call(leaf)), TdxStatus::RND_NO_ENTROPY);
        host.ok(0, Regs::call(leaf));
    }
}

#[test]
fn a_processor_that_the_module_does_not_support_stops_sys_init() {
    let host = Host::loaded(1);
    let (leaf, subleaf) = (7, 2);
    let cpuid = PlatformFault::Cpuid { leaf, subleaf };
    host.script
        .checks
        .then([Err(cpuid), Err(PlatformFault::Msr { index: 0x10a })]);
    let out = host.call(0, Regs::call(Leaf::SYS_INIT));
    assert_eq!(out.status(), TdxStatus::INCORRECT_CPUID_VALUE);
    assert_eq!(out.rcx, 2 << 32 | 7);
    let status = host.status(0, Regs::call(Leaf::SYS_INIT));
    assert_eq!(status, TdxStatus::INCORRECT_MSR_VALUE.with_details(0x10a));
    host.ok(0, Regs::call(Leaf::SYS_INIT));
}

#[test]
fn a_processor_that_differs_from_the_first_is_not_initialised() {
    let host = Host::loaded(1);
    host.ok(0, Regs::call(Leaf::SYS_INIT));
    let cpuid = PlatformFault::Cpuid {
        leaf: 0xa,
        subleaf: u32::MAX,
    };
    host.script
        .checks
        .then([Err(PlatformFault::Msr { index: 0x3b }), Err(cpuid)]);
    let status = host.status(1, Regs::call(Leaf::SYS_LP_INIT));
    assert_eq!(status, TdxStatus::INCONSISTENT_MSR.with_details(0x3b));
    let out = host.call(1, Regs::call(Leaf::SYS_LP_INIT));
    assert_eq!(out.status(), TdxStatus::INCONSISTENT_CPUID_FIELD);
    assert_eq!(out.rcx, 0xffff_ffff_0000_000a);
    host.ok(1, Regs::call(Leaf::SYS_LP_INIT));
    assert_eq!(
        host.status(1, Regs::call(Leaf::SYS_LP_INIT)),
        TdxStatus::SYS_LP_INIT_DONE
    );
}

#[test]
fn an_lp_that_is_not_initialised_reads_nothing() {
    let host = Host::loaded(1);
    host.ok(0, Regs::call(Leaf::SYS_INIT));
    host.ok(0, Regs::call(Leaf::SYS_LP_INIT));
    for leaf in [Leaf::SYS_RD, Leaf::SYS_RDALL, Leaf::SYS_INFO] {
        assert_eq!(
            host.status(1, Regs::call(leaf)),
            TdxStatus::SYS_LP_INIT_NOT_DONE
        );
    }
    assert_eq!(host.sys_field(FieldId::SYS_MAX_TDMRS), Ok(64));
}

#[test]
fn configuration_waits_for_the_last_lp() {
    let host = Host::loaded(1);
    host.ok(0, Regs::call(Leaf::SYS_INIT));
    for lp in 0..3 {
        host.ok(lp, Regs::call(Leaf::SYS_LP_INIT));
    }
    let status = host.status(
        0,
        Regs {
            rdx: 1,
            r8: 32,
            ..on(Leaf::SYS_CONFIG, 0x1000)
        },
    );
    assert_eq!(status, TdxStatus::SYS_CONFIG_NOT_PENDING);
}

#[test]
fn the_module_is_ready_when_its_key_is_programmed_on_every_package() {
    let host = Host::loaded(2);
    configured(&host);
    host.script
        .keys
        .then([KeyProgramming::Busy, KeyProgramming::NoEntropy]);
    let config = || Regs::call(Leaf::SYS_KEY_CONFIG);
    assert_eq!(host.status(0, config()), KET_BUSY);
    assert_eq!(host.status(0, config()), TdxStatus::KEY_GENERATION_FAILED);
    host.ok(0, config());
    assert_eq!(host.status(1, config()), TdxStatus::KEY_CONFIGURED);
    let init = on(Leaf::SYS_TDMR_INIT, host::GIB);
    assert_eq!(host.status(0, init), TdxStatus::SYS_NOT_READY);
    host.ok(2, config());
    assert_eq!(
        host.status(3, config()),
        TdxStatus::SYS_KEY_CONFIG_NOT_PENDING
    );
    host.ok(0, init);
}

#[test]
fn a_td_without_entropy_for_its_id_leaves_page_and_hkid_free() {
    let mut host = Host::ready(1);
    let tdr = host.page();
    host.script.entropy.then([false]);
    assert_eq!(host.status(0, create(tdr)), TdxStatus::RND_NO_ENTROPY);
    assert_eq!(host.call(0, on(Leaf::PHYMEM_PAGE_RDMD, tdr)).rcx, 0);
    host.ok(0, create(tdr));
}

#[test]
fn a_td_has_its_keys_when_every_package_has_them() {
    let mut host = Host::ready(2);
    let tdr = host.page();
    host.ok(0, create(tdr));
    let config = on(Leaf::MNG_KEY_CONFIG, tdr);
    host.script
        .keys
        .then([KeyProgramming::Busy, KeyProgramming::NoEntropy]);
    assert_eq!(host.status(1, config), KET_BUSY);
    assert_eq!(host.status(1, config), TdxStatus::KEY_GENERATION_FAILED);
    host.ok(1, config);
    assert_eq!(host.status(0, config), TdxStatus::KEY_CONFIGURED);
    let page = host.page();
    assert_eq!(
        host.status(0, add_tdcx(page)),
        TdxStatus::TD_KEYS_NOT_CONFIGURED
    );
    host.ok(3, config);
    host.ok(0, add_tdcx(page));
}

#[test]
fn the_sixth_tdcs_page_needs_entropy_and_can_be_given_again() {
    let mut host = Host::with_keys();
    for _ in 0..5 {
        let page = host.page();
        host.ok(0, add_tdcx(page));
    }
    let page = host.page();
    host.script.entropy.then([false]);
    assert_eq!(host.status(0, add_tdcx(page)), TdxStatus::RND_NO_ENTROPY);
    assert_eq!(host.init(&params()), TdxStatus::TDCS_NOT_ALLOCATED);
    host.ok(0, add_tdcx(page));
    assert_eq!(host.init(&params()), TdxStatus::SUCCESS);
}

#[test]
fn a_changed_tsc_adjustment_or_limited_cpuid_stops_mng_init() {
    let host = Host::with_tdcs();
    host.script.limited_cpuid.then([true]);
    assert_eq!(host.init(&params()), TdxStatus::LIMIT_CPUID_MAXVAL_SET);
    host.script.tsc_adjusted.then([true]);
    assert_eq!(
        host.init(&params()),
        TdxStatus::INCONSISTENT_MSR.with_details(0x3b)
    );
    assert_eq!(host.init(&params()), TdxStatus::SUCCESS);
}

#[test]
fn the_virtual_tsc_starts_from_zero_at_mng_init() {
    let host = Host::with_tdcs();
    host.script.tsc.then([4_000_000_000]);
    assert_eq!(host.init(&params()), TdxStatus::SUCCESS);
    // 2 GHz natively, 1 GHz in the TD.
    assert_eq!(host.td_field(FieldId::TDCS_TSC_MULTIPLIER), Ok(1 << 47));
    assert_eq!(
        host.td_field(FieldId::TDCS_TSC_OFFSET),
        Ok(2_000_000_000u64.wrapping_neg())
    );
}

#[test]
fn an_interrupted_write_back_goes_on_where_it_was_and_frees_the_hkid_at_its_end() {
    let host = Host::with_keys();
    host.ok(0, on(Leaf::MNG_VPFLUSHDONE, TDR));
    let (start, resume) = (on(Leaf::PHYMEM_CACHE_WB, 0), on(Leaf::PHYMEM_CACHE_WB, 1));
    assert_eq!(host.status(0, resume), TdxStatus::WBCACHE_RESUME_ERROR);
    host.script.interrupts.then([false, true]);
    assert_eq!(host.status(0, start), TdxStatus::INTERRUPTED_RESUMABLE);
    let free = on(Leaf::MNG_KEY_FREEID, TDR);
    assert_eq!(host.status(0, free), TdxStatus::WBCACHE_NOT_COMPLETE);
    // Two of four parts are done: one interrupt more can come between the others.
    host.script.interrupts.then([true]);
    assert_eq!(host.status(0, resume), TdxStatus::INTERRUPTED_RESUMABLE);
    host.ok(0, resume);
    assert_eq!(host.script.interrupts.left(), 0);
    assert_eq!(host.status(0, resume), TdxStatus::WBCACHE_RESUME_ERROR);
    host.ok(0, free);
}

#[test]
fn caches_are_written_back_on_every_package() {
    let mut host = Host::ready(2);
    let tdr = host.page();
    host.ok(0, create(tdr));
    host.ok(0, on(Leaf::MNG_VPFLUSHDONE, tdr));
    let free = on(Leaf::MNG_KEY_FREEID, tdr);
    host.ok(0, on(Leaf::PHYMEM_CACHE_WB, 0));
    host.ok(1, on(Leaf::PHYMEM_CACHE_WB, 0));
    assert_eq!(host.status(0, free), TdxStatus::WBCACHE_NOT_COMPLETE);
    host.ok(3, on(Leaf::PHYMEM_CACHE_WB, 0));
    host.ok(0, free);
}
