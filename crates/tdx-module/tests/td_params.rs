//! The parameters of a TD: what TDH.MNG.INIT takes, and which operand a refusal names.

mod host;

use host::{GIB, Host, SHARED_PAGE, TDR, on, params};
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_abi::td_params::{Attributes, ConfigFlags, TdParams};

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
