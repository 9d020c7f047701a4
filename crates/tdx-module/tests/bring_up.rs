//! From a module just loaded to one that is ready, and to the first parameters of a TD.

mod host;

use host::{GIB, Host, SHARED_PAGE, TDR, on, params};
use seamlock_tdx_abi::addr::Hpa;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_abi::td_params::{Attributes, ConfigFlags, TdParams};
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

#[test]
fn each_part_of_td_params_is_refused_by_its_own_operand() {
    let host = Host::with_tdcs();
    let cases = [
        (
            TdParams {
                attributes: 2,
                ..params()
            },
            OperandId::ATTRIBUTES,
        ),
        (
            TdParams {
                attributes: Attributes::DEBUG.bits() | Attributes::MIGRATABLE.bits(),
                ..params()
            },
            OperandId::ATTRIBUTES,
        ),
        (
            TdParams {
                xfam: 0,
                ..params()
            },
            OperandId::XFAM,
        ),
        (
            TdParams {
                xfam: 3 | 7 << 5,
                ..params()
            },
            OperandId::XFAM,
        ),
        (
            TdParams {
                xfam: 3 | 1 << 11,
                ..params()
            },
            OperandId::XFAM,
        ),
        (
            TdParams {
                xfam: 3 | 1 << 17,
                ..params()
            },
            OperandId::XFAM,
        ),
        (
            TdParams {
                max_vcpus: 0,
                ..params()
            },
            OperandId::MAX_VCPUS,
        ),
        (
            TdParams {
                max_vcpus: 577,
                ..params()
            },
            OperandId::MAX_VCPUS,
        ),
        (
            TdParams {
                num_l2_vms: 4,
                ..params()
            },
            OperandId::NUM_L2_VMS,
        ),
        (
            TdParams {
                reserved_0: [0, 0, 0, 1],
                ..params()
            },
            OperandId::RDX,
        ),
        (
            TdParams {
                config_flags: 1 << 4,
                ..params()
            },
            OperandId::EXEC_CONTROLS,
        ),
        (
            TdParams {
                config_flags: ConfigFlags::GPAW.bits(),
                ..params()
            },
            OperandId::EPTP_CONTROLS,
        ),
        (
            TdParams {
                eptp_controls: 0x16,
                ..params()
            },
            OperandId::EPTP_CONTROLS,
        ),
        (
            TdParams {
                tsc_frequency: 3,
                ..params()
            },
            OperandId::TSC_FREQUENCY,
        ),
        (
            TdParams {
                tsc_frequency: 401,
                ..params()
            },
            OperandId::TSC_FREQUENCY,
        ),
        (
            TdParams {
                reserved_1: [1; 38],
                ..params()
            },
            OperandId::RDX,
        ),
        (
            TdParams {
                msr_config_ctls: 2,
                ..params()
            },
            OperandId::RDX,
        ),
        (
            TdParams {
                reserved_2: [1; 24],
                ..params()
            },
            OperandId::RDX,
        ),
        (
            TdParams {
                reserved_3: [1; 480],
                ..params()
            },
            OperandId::RDX,
        ),
        (
            TdParams {
                ia32_arch_capabilities_config: 1 << 4,
                ..params()
            },
            OperandId::IA32_ARCH_CAPABILITIES_CONFIG,
        ),
        (
            TdParams {
                ia32_arch_capabilities_config: 1 << 5,
                msr_config_ctls: 1,
                ..params()
            },
            OperandId::IA32_ARCH_CAPABILITIES_CONFIG,
        ),
    ];
    for (params, operand) in cases {
        assert_eq!(
            host.init(&params),
            TdxStatus::OPERAND_INVALID.with(operand),
            "{params:?}"
        );
    }
    let nested = TdParams {
        num_l2_vms: 1,
        ..params()
    };
    assert_eq!(host.init(&nested), TdxStatus::TDCS_NOT_ALLOCATED);
    assert_eq!(host.init(&params()), TdxStatus::SUCCESS);
    assert_eq!(host.init(&params()), TdxStatus::OP_STATE_INCORRECT);
}

#[test]
fn a_refused_cpuid_configuration_names_its_leaf() {
    let host = Host::with_tdcs();
    let with = |index: usize, change: fn(&mut seamlock_tdx_abi::td_params::CpuidValue)| {
        let mut params = params();
        change(&mut params.cpuid_config[index]);
        let out = host.init_regs(&params);
        (out.status(), out.rcx)
    };
    let refused = TdxStatus::OPERAND_INVALID.with(OperandId::CPUID_CONFIG);
    assert_eq!(with(4, |value| value.edx = 8), (refused, 3 << 32 | 4));
    assert_eq!(
        with(9, |value| value.eax = 0x100),
        (refused, 0xffff_ffff_8000_0008)
    );
    // Another processor than this one.
    assert_eq!(
        with(0, |value| value.eax = 0xc06f2),
        (refused, 0xffff_ffff_0000_0001)
    );
    // Elision of locks without transactions.
    assert_eq!(with(5, |value| value.ebx = 1 << 4), (refused, 7));
    let topology = TdxStatus::CPUID_LEAF_1F_FORMAT_UNRECOGNIZED;
    assert_eq!(with(13, |value| value.ecx = 0x201), (topology, 0));
    assert_eq!(with(12, |value| value.ecx = 0x100), (topology, 0));
}

#[test]
fn a_physical_address_width_below_the_gpa_width_is_the_tds_choice() {
    let host = Host::with_tdcs();
    let with = |width| {
        let mut params = TdParams {
            config_flags: ConfigFlags::MAXPA_VIRT.bits(),
            ..params()
        };
        params.cpuid_config[9].eax = width;
        params
    };
    let refused = TdxStatus::OPERAND_INVALID.with(OperandId::CPUID_CONFIG);
    for width in [35, 49, 52] {
        assert_eq!(host.init(&with(width)), refused, "{width}");
    }
    assert_eq!(host.init(&with(40)), TdxStatus::SUCCESS);
    let add = |gpa: u64| Regs {
        rdx: TDR,
        r8: TDR + (1 << 20),
        ..on(Leaf::MEM_SEPT_ADD, gpa | 3)
    };
    let outside = TdxStatus::OPERAND_INVALID.with(OperandId::RCX);
    assert_eq!(host.status(0, add(1 << 40)), outside);
    host.ok(0, add((1 << 40) - (1 << 39)));
}

#[test]
fn td_params_must_be_aligned_shared_memory() {
    let host = Host::with_tdcs();
    let init = |rdx| {
        host.status(
            0,
            Regs {
                rdx,
                ..on(Leaf::MNG_INIT, TDR)
            },
        )
    };
    let refused = TdxStatus::OPERAND_INVALID.with(OperandId::RDX);
    let seamrr = host.m.platform().seamrr.base;
    for pa in [
        SHARED_PAGE + 512,
        SHARED_PAGE | host::HKID << 46,
        seamrr,
        1 << 52,
    ] {
        assert_eq!(init(pa), refused, "{pa:#x}");
    }
    // A hole reads as zeros, which are no parameters.
    assert_eq!(
        init(8 * GIB),
        TdxStatus::OPERAND_INVALID.with(OperandId::XFAM)
    );
}
