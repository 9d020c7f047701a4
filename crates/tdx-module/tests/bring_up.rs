//! From a module just loaded to one that is ready.

mod host;

use host::{GIB, Host, on};
use seamlock_tdx_abi::addr::Hpa;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_abi::tdmr::{ReservedArea, TdmrInfo};
use zerocopy::IntoBytes;

const ARRAY: u64 = 0x1000;

fn initialised() -> Host {
    let host = Host::loaded(1);
    host.ok(0, Regs::call(Leaf::SYS_INIT));
    for lp in 0..4 {
        host.ok(lp, Regs::call(Leaf::SYS_LP_INIT));
    }
    host
}

/// A TDMR of so many GiB, with its PAMT at `pamt` in convertible memory.
fn tdmr(base: u64, gib: u64, pamt: u64) -> TdmrInfo {
    TdmrInfo {
        base,
        size: gib * GIB,
        pamt_4k_base: pamt,
        pamt_4k_size: gib * 0x40_0000,
        pamt_2m_base: pamt + gib * 0x40_0000,
        pamt_2m_size: gib * 0x2000,
        pamt_1g_base: pamt + gib * 0x40_2000,
        pamt_1g_size: 0x1000,
        ..TdmrInfo::default()
    }
}

fn configure(host: &Host, tdmrs: &[TdmrInfo]) -> TdxStatus {
    let memory = host.m.memory();
    for (i, tdmr) in tdmrs.iter().enumerate() {
        let pa = ARRAY + 0x200 * (i as u64 + 1);
        memory
            .write(Hpa(ARRAY + 8 * i as u64), &pa.to_le_bytes())
            .unwrap();
        memory.write(Hpa(pa), tdmr.as_bytes()).unwrap();
    }
    let rdx = tdmrs.len() as u64;
    host.status(
        0,
        Regs {
            rdx,
            r8: 32,
            ..on(Leaf::SYS_CONFIG, ARRAY)
        },
    )
}

#[test]
fn each_leaf_of_the_bring_up_has_its_moment() {
    let host = Host::loaded(1);
    assert_eq!(
        host.status(0, Regs::call(Leaf::SYS_LP_INIT)),
        TdxStatus::SYS_LP_INIT_NOT_PENDING
    );
    assert_eq!(
        host.status(0, on(Leaf::SYS_INIT, 1)),
        TdxStatus::OPERAND_INVALID.with(OperandId::RCX)
    );
    assert_eq!(
        host.status(0, Regs::call(Leaf::MNG_CREATE)),
        TdxStatus::SYS_NOT_READY
    );
    let host = initialised();
    assert_eq!(
        host.status(0, Regs::call(Leaf::SYS_INIT)),
        TdxStatus::SYS_INIT_NOT_PENDING
    );
    assert_eq!(
        host.status(0, Regs::call(Leaf::SYS_KEY_CONFIG)),
        TdxStatus::SYS_KEY_CONFIG_NOT_PENDING
    );
    assert_eq!(
        host.status(0, Regs::call(Leaf::SYS_UPDATE)),
        TdxStatus::SYS_INVALID_HANDOFF
    );
    assert_eq!(
        configure(&host, &[tdmr(GIB, 1, 0x200_0000)]),
        TdxStatus::SUCCESS
    );
    assert_eq!(
        configure(&host, &[tdmr(GIB, 1, 0x200_0000)]),
        TdxStatus::SYS_CONFIG_NOT_PENDING
    );
    host.ok(0, Regs::call(Leaf::SYS_KEY_CONFIG));
    assert_eq!(
        host.status(0, Regs::call(Leaf::SYS_UPDATE)),
        TdxStatus::SYS_STATE_INCORRECT
    );
}

#[test]
fn the_first_wrong_tdmr_is_the_one_reported() {
    let good = tdmr(GIB, 1, 0x200_0000);
    let second = tdmr(2 * GIB, 1, 0x300_0000);
    let reserved = |areas: &[(u64, u64)]| {
        let mut tdmr = good;
        for (slot, (offset, size)) in tdmr.reserved.iter_mut().zip(areas) {
            *slot = ReservedArea {
                offset: *offset,
                size: *size,
            };
        }
        tdmr
    };
    let cases = [
        (
            vec![TdmrInfo {
                base: GIB + 4096,
                ..good
            }],
            TdxStatus::INVALID_TDMR,
            0,
        ),
        (
            vec![TdmrInfo { size: 0, ..good }],
            TdxStatus::INVALID_TDMR,
            0,
        ),
        (
            vec![TdmrInfo {
                base: u64::MAX - GIB + 1,
                ..good
            }],
            TdxStatus::INVALID_TDMR,
            0,
        ),
        (vec![second, good], TdxStatus::NON_ORDERED_TDMR, 1),
        (
            vec![good, tdmr(GIB, 1, 0x300_0000)],
            TdxStatus::NON_ORDERED_TDMR,
            1,
        ),
        (
            vec![TdmrInfo {
                pamt_2m_size: 0x1000,
                ..good
            }],
            TdxStatus::INVALID_PAMT,
            0x100,
        ),
        (
            vec![TdmrInfo {
                pamt_1g_base: 0x241,
                ..good
            }],
            TdxStatus::INVALID_PAMT,
            0x200,
        ),
        (
            vec![TdmrInfo {
                pamt_2m_base: good.pamt_4k_base,
                ..good
            }],
            TdxStatus::PAMT_OVERLAP,
            0,
        ),
        (
            vec![good, tdmr(2 * GIB, 1, 0x200_0000)],
            TdxStatus::PAMT_OVERLAP,
            1,
        ),
        (
            vec![good, tdmr(2 * GIB, 1, GIB)],
            TdxStatus::PAMT_OVERLAP,
            1,
        ),
        (
            vec![tdmr(GIB, 1, 2 * GIB), second],
            TdxStatus::PAMT_OVERLAP,
            0x1_0000,
        ),
        (vec![tdmr(GIB, 1, 0)], TdxStatus::PAMT_OUTSIDE_CMRS, 0x200),
        (vec![tdmr(0, 1, GIB)], TdxStatus::TDMR_OUTSIDE_CMRS, 0),
        (
            vec![reserved(&[(0, 100)])],
            TdxStatus::INVALID_RESERVED_IN_TDMR,
            0,
        ),
        (
            vec![reserved(&[(0, 4096), (GIB, 4096)])],
            TdxStatus::INVALID_RESERVED_IN_TDMR,
            0x100,
        ),
        (
            vec![reserved(&[(4096, 8192), (8192, 4096)])],
            TdxStatus::NON_ORDERED_RESERVED_IN_TDMR,
            0x100,
        ),
        (
            vec![reserved(&[(0, 0), (4096, 4096)])],
            TdxStatus::NON_ORDERED_RESERVED_IN_TDMR,
            0,
        ),
    ];
    for (tdmrs, status, details) in cases {
        assert_eq!(
            configure(&initialised(), &tdmrs),
            status.with_details(details),
            "{tdmrs:?}"
        );
    }
}

#[test]
fn a_pamt_may_lie_in_a_reserved_area_and_memory_outside_of_the_cmrs_too() {
    let mut low = tdmr(0, 1, 32 << 20);
    low.reserved[0] = ReservedArea {
        offset: 0,
        size: 48 << 20,
    };
    assert_eq!(configure(&initialised(), &[low]), TdxStatus::SUCCESS);
}

#[test]
fn a_refused_configuration_keeps_the_hkid() {
    let host = initialised();
    assert_eq!(
        configure(&host, &[tdmr(GIB + 1, 1, 0)]).code(),
        TdxStatus::INVALID_TDMR
    );
    let good = tdmr(GIB, 1, 0x200_0000);
    let array = [0x1200u64.to_le_bytes()].concat();
    host.m.memory().write(Hpa(0x1200), good.as_bytes()).unwrap();
    host.m.memory().write(Hpa(ARRAY), &array).unwrap();
    host.ok(
        0,
        Regs {
            rdx: 1,
            r8: 33,
            ..on(Leaf::SYS_CONFIG, ARRAY)
        },
    );
    host.ok(0, Regs::call(Leaf::SYS_KEY_CONFIG));
    for _ in 0..256 {
        host.ok(0, on(Leaf::SYS_TDMR_INIT, GIB));
    }
    for hkid in [32, 33] {
        let create = Regs {
            rdx: hkid,
            ..on(Leaf::MNG_CREATE, GIB)
        };
        assert_eq!(host.status(0, create), TdxStatus::HKID_NOT_FREE);
    }
}

#[test]
fn a_gigabyte_is_usable_after_256_calls_and_no_earlier() {
    let host = initialised();
    assert_eq!(
        configure(&host, &[tdmr(GIB, 2, 0x200_0000)]),
        TdxStatus::SUCCESS
    );
    host.ok(0, Regs::call(Leaf::SYS_KEY_CONFIG));
    let init = on(Leaf::SYS_TDMR_INIT, GIB);
    let create = Regs {
        rdx: 33,
        ..on(Leaf::MNG_CREATE, GIB)
    };
    for _ in 0..255 {
        assert_eq!(host.ok(0, init).rdx, GIB);
    }
    let outside = TdxStatus::OPERAND_ADDR_RANGE_ERROR.with(OperandId::RCX);
    assert_eq!(host.status(0, create), outside);
    assert_eq!(host.ok(0, init).rdx, 2 * GIB);
    host.ok(0, create);
    for _ in 0..256 {
        host.ok(0, init);
    }
    assert_eq!(host.status(0, init), TdxStatus::TDMR_ALREADY_INITIALIZED);
    let invalid = TdxStatus::OPERAND_INVALID.with(OperandId::RCX);
    assert_eq!(host.status(0, on(Leaf::SYS_TDMR_INIT, 2 * GIB)), invalid);
}

#[test]
fn bringing_up_64_gigabytes_costs_no_memory() {
    let host = Host::loaded(1);
    let platform = seamlock_tdx_module::Platform::sapphire_rapids(64 * GIB, 4);
    let m = seamlock_tdx_module::Module::ready(platform).unwrap();
    assert_eq!(m.memory().resident_pages(), 1);
    assert_eq!(host.m.memory().resident_pages(), 0);
}

#[test]
fn after_a_shutdown_only_lp_shutdown_answers() {
    let host = Host::ready(1);
    let invalid = TdxStatus::OPERAND_INVALID.with(OperandId::RCX);
    assert_eq!(host.status(0, on(Leaf::SYS_SHUTDOWN, 1)), invalid);
    host.ok(0, Regs::call(Leaf::SYS_SHUTDOWN));
    assert_eq!(
        host.status(0, Regs::call(Leaf::SYS_RD)),
        TdxStatus::SYS_SHUTDOWN
    );
    assert_eq!(
        host.status(0, Regs::call(Leaf::MNG_CREATE)),
        TdxStatus::SYS_SHUTDOWN
    );
    host.ok(0, Regs::call(Leaf::SYS_LP_SHUTDOWN));
}
