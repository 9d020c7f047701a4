//! TDH.SYS.RD, MNG.RD, MNG.WR, VP.RD and VP.WR: what is read, what is written, what is refused.

mod host;

use host::{Host, SHARED_PAGE, TDR, on, params};
use seamlock_tdx_abi::addr::Hpa;
use seamlock_tdx_abi::field::FieldId;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::lifecycle::OpState;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_abi::td_params::{Attributes, TdParams, XFAM_FIXED0};

const INCORRECT: Result<u64, TdxStatus> = Err(TdxStatus::METADATA_FIELD_ID_INCORRECT);
const NOT_READABLE: Result<u64, TdxStatus> = Err(TdxStatus::METADATA_FIELD_NOT_READABLE);
const NOT_WRITABLE: Result<u64, TdxStatus> = Err(TdxStatus::METADATA_FIELD_NOT_WRITABLE);
const NOT_VALID: Result<u64, TdxStatus> = Err(TdxStatus::METADATA_FIELD_VALUE_NOT_VALID);

/// The shared HKIDs end below the first private one; a page of the TD carries its HKID here.
const OWNED: u64 = host::HKID << 46;

fn debug_params() -> TdParams {
    TdParams {
        attributes: Attributes::DEBUG.bits(),
        ..params()
    }
}

fn write_td(host: &Host, id: FieldId, r8: u64, r9: u64) -> Result<u64, TdxStatus> {
    let out = host.call(
        0,
        Regs {
            rdx: id.0,
            r8,
            r9,
            ..on(Leaf::MNG_WR, TDR)
        },
    );
    match out.status() {
        TdxStatus::SUCCESS => Ok(out.r8),
        status => Err(status),
    }
}

#[test]
fn the_module_tells_a_host_what_it_needs_to_build_a_td() {
    let host = Host::ready(1);
    let fields = [
        (FieldId::SYS_MAJOR_VERSION, 1),
        (FieldId::SYS_MINOR_VERSION, 5),
        (FieldId::SYS_UPDATE_VERSION, 6),
        (FieldId::SYS_MAX_TDMRS, 64),
        (FieldId::SYS_MAX_RESERVED_PER_TDMR, 16),
        (FieldId::SYS_PAMT_4K_ENTRY_SIZE, 16),
        (FieldId::SYS_TDR_BASE_SIZE, 4096),
        (FieldId::SYS_TDCS_BASE_SIZE, 6 * 4096),
        (FieldId::SYS_TDVPS_BASE_SIZE, 6 * 4096),
        (FieldId::SYS_NUM_CPUID_CONFIG, 18),
        (FieldId(0x9900_0001_0000_0008), 576),
        (FieldId::SYS_NUM_CMRS, 32),
        (FieldId::SYS_CMR_BASE, 16 << 20),
        (FieldId::SYS_CMR_BASE.element(1), 0),
        (FieldId::SYS_XFAM_FIXED1, 3),
        // AVX-512, PT, PKRU, CET, UINTR, LBR and AMX, as the processor has them.
        (FieldId::SYS_XFAM_FIXED0, XFAM_FIXED0),
        (FieldId::SYS_CPUID_CONFIG_LEAVES, 0xffff_ffff_0000_0001),
        (FieldId::SYS_CPUID_CONFIG_LEAVES.element(18), u64::MAX),
        (FieldId::SYS_NUM_ALLOWED_FMS, 1),
        (FieldId::SYS_ALLOWED_FMS, 0x806f8),
    ];
    for (id, value) in fields {
        assert_eq!(host.sys_field(id), Ok(value), "{id}");
    }
    let features = host.sys_field(FieldId::SYS_TDX_FEATURES0).unwrap();
    assert_eq!(features >> 18 & 5, 5, "NO_RBP_MOD and TOPOLOGY_ENUM");
    assert_eq!(host.sys_field(FieldId(0x3f00_0000_0000_0000)), INCORRECT);
}

#[test]
fn bits_that_the_host_may_allow_are_offered_only_where_the_processor_has_them() {
    let host = Host::ready(1);
    let values = |config: u32, half| {
        let id = FieldId::SYS_CPUID_CONFIG_VALUES.element(2 * config + half);
        host.sys_field(id).unwrap()
    };
    // Leaf 1: family and model as configured, and MONITOR among the native bits.
    assert_eq!(values(0, 0) as u32, 0x0fff_3fff);
    assert_eq!(values(0, 1) as u32 >> 3 & 1, 1);
    // Leaf 0x23 is configurable, but this processor does not have it.
    assert_eq!((values(11, 0), values(11, 1)), (0, 0));
}

#[test]
fn sys_rdall_gives_the_same_values_as_sys_rd() {
    let host = Host::ready(1);
    let (mut first, mut seen) = (u64::MAX, 0);
    loop {
        let out = host.call(
            0,
            Regs {
                rdx: SHARED_PAGE,
                r8: first,
                ..Regs::call(Leaf::SYS_RDALL)
            },
        );
        let overflow = out.status() == TdxStatus::METADATA_LIST_OVERFLOW;
        assert!(overflow || out.status() == TdxStatus::SUCCESS);
        seen += check_list(&host);
        first = out.r8;
        if !overflow {
            break;
        }
    }
    assert_eq!(first, u64::MAX);
    let mut id = host
        .call(
            0,
            Regs {
                rdx: u64::MAX,
                ..Regs::call(Leaf::SYS_RD)
            },
        )
        .rdx;
    let mut elements = 0;
    while id != u64::MAX {
        id = host
            .ok(
                0,
                Regs {
                    rdx: id,
                    ..Regs::call(Leaf::SYS_RD)
                },
            )
            .rdx;
        elements += 1;
    }
    assert_eq!(seen, elements);
}

/// Compares a list with single reads and returns its number of elements.
fn check_list(host: &Host) -> usize {
    let word = |n: u64| host.m.memory().read_u64(Hpa(SHARED_PAGE + 8 * n));
    let header = word(0);
    let (bytes, mut sequences, mut n) = (header & 0xffff, header >> 16, 1);
    let mut elements = 0;
    while sequences > 0 {
        let id = FieldId(word(n));
        let count = (u64::from(id.last_element()) + 1) * (u64::from(id.last_field()) + 1);
        let plain = FieldId(id.0 & !(0x1fff << 34));
        for i in 0..count {
            let single = host.sys_field(plain.element(i as u32));
            assert_eq!(single, Ok(word(n + 1 + i)), "{plain:?} {i}");
        }
        elements += count as usize;
        n += 1 + count;
        sequences -= 1;
    }
    assert_eq!(bytes, 8 * n);
    elements
}

#[test]
fn sys_info_agrees_with_sys_rd() {
    let host = Host::ready(1);
    let (info, cmrs) = (SHARED_PAGE, SHARED_PAGE + 4096);
    let regs = Regs {
        rdx: 1024,
        r8: cmrs,
        r9: 32,
        ..on(Leaf::SYS_INFO, info)
    };
    let out = host.ok(0, regs);
    assert_eq!((out.rdx, out.r9), (1024, 32));
    let word = |pa| host.m.memory().read_u64(Hpa(pa));
    assert_eq!(
        host.sys_field(FieldId::SYS_XFAM_FIXED0),
        Ok(word(info + 80))
    );
    assert_eq!(word(info + 128) as u32, 18);
    assert_eq!(host.sys_field(FieldId::SYS_CMR_SIZE), Ok(word(cmrs + 8)));
    let invalid = |operand| TdxStatus::OPERAND_INVALID.with(operand);
    assert_eq!(
        host.status(0, Regs { rdx: 1023, ..regs }),
        invalid(OperandId::RDX)
    );
    assert_eq!(
        host.status(0, Regs { r9: 31, ..regs }),
        invalid(OperandId::R9)
    );
    assert_eq!(word(info + 80), 0, "emptied before R9 was looked at");
}

#[test]
fn a_td_has_no_metadata_before_it_is_initialised() {
    let host = Host::with_tdcs();
    let refused = Err(TdxStatus::OP_STATE_INCORRECT);
    assert_eq!(host.td_field(FieldId::TDCS_ATTRIBUTES), refused);
    assert_eq!(
        write_td(&host, FieldId::TDCS_HP_LOCK_TIMEOUT, 10_000, u64::MAX),
        refused
    );
}

#[test]
fn the_host_reads_what_it_configured_and_where_the_td_lies() {
    let host = Host::with_td(&TdParams {
        mrowner: [0x5a; 48],
        ..params()
    });
    let fields = [
        (FieldId::TDCS_XFAM, 3),
        (FieldId::TDCS_MAX_VCPUS, 4),
        (FieldId::TDCS_OP_STATE, OpState::INITIALIZED.0.into()),
        (FieldId::TDR_HKID, host::HKID),
        (FieldId::TDR_NUM_TDCX, 6),
        (FieldId::TDR_TDCX_PA.element(2), OWNED | (TDR + 3 * 4096)),
        (FieldId::TDR_TDCX_PA.element(6), 0),
        (FieldId::TDCS_EPTP, 0x1e | (TDR + 4 * 4096)),
        (FieldId::TDCS_TSC_FREQUENCY, 40),
        (FieldId::TDCS_MROWNER.element(5), 0x5a5a_5a5a_5a5a_5a5a),
        (FieldId::TDCS_TD_EPOCH, 1),
        (FieldId::TDCS_NUM_CPUID_VALUES, 73),
        (FieldId::TDCS_HP_LOCK_TIMEOUT, 1_000_000),
        // Width of a physical address, and whether every vCPU has an x2APIC id.
        (FieldId(0x9110_0000_0000_0018), 52),
        (FieldId(0x9110_0000_0000_0019), 1),
    ];
    for (id, value) in fields {
        assert_eq!(host.td_field(id), Ok(value), "{id}");
    }
    assert_eq!(host.td_field(FieldId::TDCS_RTMR), NOT_READABLE);
    assert_eq!(host.td_field(FieldId::TDCS_TD_CTLS), NOT_READABLE);
    assert_eq!(host.td_field(FieldId::TDCS_MRTD.element(6)), INCORRECT);
}

#[test]
fn the_host_reads_the_cpuid_values_of_a_td_by_leaf() {
    let host = Host::with_td(&params());
    let pair = |leaf, subleaf| {
        let half = |n| host.td_field(FieldId::cpuid_values(leaf, subleaf, n));
        half(0).and_then(|low| Ok((low, half(1)?)))
    };
    assert_eq!(pair(0x15, None), Ok((40 << 32 | 1, 25_000_000)));
    assert_eq!(
        pair(0x21, Some(0)),
        Ok((0x6574_6e49 << 32, 0x5844_546c_2020_2020))
    );
    // No AVX in XFAM: no AVX in CPUID.
    let (_, leaf_1) = pair(1, None).unwrap();
    assert_eq!(leaf_1 as u32 >> 28 & 1, 0);
    // Two threads to a core, four in the package: leaf 0xB says the same as leaf 0x1F.
    assert_eq!(pair(0xb, Some(1)), Ok((4 << 32 | 2, 0x201)));
    assert_eq!(pair(6, None), Err(TdxStatus::METADATA_FIELD_NOT_READABLE));
    assert_eq!(
        pair(0x40, None),
        Err(TdxStatus::METADATA_FIELD_ID_INCORRECT)
    );
    let reserved = FieldId(FieldId::cpuid_values(1, None, 0).0 | 1 << 17);
    assert_eq!(host.td_field(reserved), INCORRECT);
}

#[test]
fn version_1_of_mng_rd_walks_through_the_td() {
    let host = Host::with_td(&params());
    let read = |rdx| {
        host.call(
            0,
            Regs {
                rcx: TDR,
                rdx,
                ..Regs::call_version(Leaf::MNG_RD, 1)
            },
        )
    };
    let first = read(u64::MAX);
    assert_eq!(
        first.status(),
        TdxStatus::METADATA_FIRST_FIELD_ID_IN_CONTEXT
    );
    assert_eq!(FieldId(first.rdx), FieldId::TDR_FATAL);
    let (mut id, mut count) = (first.rdx, 0);
    while id != u64::MAX {
        let out = read(id);
        let faulting = out.status() == TdxStatus::METADATA_FIELD_NOT_READABLE;
        assert!(out.status() == TdxStatus::SUCCESS || faulting, "{id:#x}");
        // A leaf that faults has an id, but no value and no successor.
        id = if faulting {
            after_faulting_leaf(id)
        } else {
            out.rdx
        };
        count += 1;
    }
    assert!(count > 1200, "{count}");
    let refused = host.call(
        0,
        Regs {
            rcx: TDR,
            ..Regs::call_version(Leaf::MNG_RD, 2)
        },
    );
    assert_eq!(
        refused.status(),
        TdxStatus::OPERAND_INVALID.with(OperandId::RAX)
    );
    assert_eq!((refused.rdx, refused.r8), (u64::MAX, 0));
}

fn after_faulting_leaf(id: u64) -> u64 {
    let next = if id >> 16 & 1 == 0 {
        FieldId::cpuid_values(7, Some(2), 0)
    } else {
        FieldId::cpuid_values(0x8000_0007, None, 0)
    };
    next.0
}

#[test]
fn the_lock_timeout_is_the_hosts_to_set_as_a_whole_and_within_bounds() {
    let host = Host::with_td(&params());
    let set = |r8, r9| write_td(&host, FieldId::TDCS_HP_LOCK_TIMEOUT, r8, r9);
    assert_eq!(set(10_000, u64::MAX), Ok(1_000_000));
    assert_eq!(host.td_field(FieldId::TDCS_HP_LOCK_TIMEOUT), Ok(10_000));
    assert_eq!(set(9_999, u64::MAX), NOT_VALID);
    assert_eq!(set(100_000_001, u64::MAX), NOT_VALID);
    assert_eq!(
        set(20_000, 0xffff),
        Err(TdxStatus::METADATA_WR_MASK_NOT_VALID)
    );
    assert_eq!(set(20_000, 0), NOT_WRITABLE);
    // Module 1.5.06 keeps 32 bits of the ticks: 100 s at 2 GHz do not fit.
    assert_eq!(set(100_000_000, u64::MAX), Ok(10_000));
    assert_eq!(host.td_field(FieldId::TDCS_HP_LOCK_TIMEOUT), Ok(1_215_752));
}

#[test]
fn a_vm_control_has_one_bit_and_the_rest_must_stay() {
    let host = Host::with_td(&params());
    let ctls = FieldId(0x9110_0003_0000_0013);
    assert_eq!(write_td(&host, ctls, 1, 1), Ok(0));
    assert_eq!(host.td_field(ctls), Ok(1));
    assert_eq!(write_td(&host, ctls, 3, u64::MAX), NOT_VALID);
    assert_eq!(write_td(&host, ctls, 2, 2), NOT_WRITABLE);
    assert_eq!(
        write_td(&host, FieldId::TDCS_ATTRIBUTES, 1, 1),
        NOT_WRITABLE
    );
}

#[test]
fn a_vcpu_is_associated_by_a_read_and_belongs_to_one_lp() {
    let mut host = Host::with_td(&params());
    let tdvpr = host.vcpu();
    host.ok(0, on(Leaf::VP_FLUSH, tdvpr));
    let index = Regs {
        rdx: FieldId::VP_VCPU_INDEX.0,
        ..on(Leaf::VP_RD, tdvpr)
    };
    assert_eq!(host.ok(2, index).r8, 0);
    assert_eq!(host.td_field(FieldId::TDCS_NUM_ASSOC_VCPUS), Ok(1));
    assert_eq!(host.status(0, index), TdxStatus::VCPU_ASSOCIATED);
    let lpid = Regs {
        rdx: FieldId::VP_ASSOC_LPID.0,
        ..index
    };
    assert_eq!(host.ok(2, lpid).r8, 2);
}

#[test]
fn posted_interrupts_need_a_vector_and_a_descriptor_first() {
    let mut host = Host::with_td(&params());
    let tdvpr = host.vcpu();
    let pin = FieldId::VP_VMCS_PIN_BASED_VM_EXEC_CONTROL;
    let vector = FieldId::VP_VMCS_POSTED_INTR_NV;
    let descriptor = FieldId::VP_VMCS_POSTED_INTR_DESC_ADDR;
    let missing = |code| Err(TdxStatus::TD_VMCS_FIELD_NOT_INITIALIZED.with_details(code));
    let set = |id, r8, r9| host.write_vp_field(tdvpr, id, r8, r9);
    assert_eq!(set(pin, 0x80, 0x80), missing(0x0002));
    assert_eq!(set(vector, 0x100, 0xffff), NOT_VALID);
    assert_eq!(set(vector, 0xf2, 0xffff), Ok(0xffff));
    assert_eq!(set(pin, 0x80, 0x80), missing(0x2016));
    assert_eq!(set(descriptor, SHARED_PAGE + 64, u64::MAX), Ok(u64::MAX));
    assert_eq!(set(pin, 0x80, 0x80), Ok(0));
    assert_eq!(host.vp_field(tdvpr, pin), Ok(0x80));
    assert_eq!(set(pin, 0x81, 0x81), NOT_VALID);
}

#[test]
fn addresses_for_a_vcpu_must_be_shared_and_aligned() {
    let mut host = Host::with_td(&params());
    let tdvpr = host.vcpu();
    let descriptor = FieldId::VP_VMCS_POSTED_INTR_DESC_ADDR;
    let eptp = FieldId::VP_VMCS_SHARED_EPT_POINTER;
    let set = |id, r8, r9| host.write_vp_field(tdvpr, id, r8, r9);
    assert_eq!(set(descriptor, SHARED_PAGE + 32, u64::MAX), NOT_VALID);
    assert_eq!(set(descriptor, OWNED | SHARED_PAGE, u64::MAX), NOT_VALID);
    let seamrr = host.m.platform().seamrr.base;
    assert_eq!(set(descriptor, seamrr, u64::MAX), NOT_VALID);
    // Until it is given, it points to a page of zeros of the TD's own.
    assert_eq!(host.vp_field(tdvpr, eptp), Ok(OWNED | (TDR + 5 * 4096)));
    assert_eq!(
        set(eptp, SHARED_PAGE, 0x000f_ffff_ffff_f000),
        Ok(OWNED | (TDR + 5 * 4096))
    );
    assert_eq!(host.vp_field(tdvpr, eptp), Ok(SHARED_PAGE));
}

#[test]
fn the_registers_of_a_vcpu_are_shown_to_the_host_of_a_debug_td_only() {
    for (params, shown) in [(params(), false), (debug_params(), true)] {
        let mut host = Host::with_td(&params);
        let tdvpr = host.vcpu();
        let rip = FieldId::vmcs(0x681e);
        let cs_limit = FieldId::vmcs(0x4802);
        let expected = |value| if shown { Ok(value) } else { NOT_READABLE };
        assert_eq!(host.vp_field(tdvpr, FieldId::VP_R8), expected(0));
        assert_eq!(host.vp_field(tdvpr, rip), expected(0xffff_fff0));
        assert_eq!(host.vp_field(tdvpr, cs_limit), expected(0xffff_ffff));
        let written = host.write_vp_field(tdvpr, FieldId::VP_R8, 0x8888, u64::MAX);
        assert_eq!(written, if shown { Ok(0) } else { NOT_WRITABLE });
        let moved = host.write_vp_field(tdvpr, rip, 0x1000, u64::MAX);
        assert_eq!(moved, if shown { Ok(0xffff_fff0) } else { NOT_WRITABLE });
        assert_eq!(host.vp_field(tdvpr, FieldId::VP_R8), expected(0x8888));
        assert_eq!(host.vp_field(tdvpr, rip), expected(0x1000));
    }
}

#[test]
fn a_debugger_changes_only_the_control_bits_that_the_guest_owns() {
    let mut host = Host::with_td(&debug_params());
    let tdvpr = host.vcpu();
    let (cr0, cr3) = (FieldId::vmcs(0x6800), FieldId::vmcs(0x6802));
    let old = host.vp_field(tdvpr, cr0).unwrap();
    assert_eq!(
        host.write_vp_field(tdvpr, cr0, old | 1 << 16, u64::MAX),
        Ok(old)
    );
    assert_eq!(host.vp_field(tdvpr, cr0), Ok(old | 1 << 16));
    // Protected mode can't be left.
    assert_eq!(
        host.write_vp_field(tdvpr, cr0, old & !1, u64::MAX),
        NOT_VALID
    );
    // Page tables lie in private memory.
    assert_eq!(
        host.write_vp_field(tdvpr, cr3, 1 << 47, u64::MAX),
        NOT_VALID
    );
    assert_eq!(host.write_vp_field(tdvpr, cr3, 0x1000, u64::MAX), Ok(0));
}

#[test]
fn the_upper_half_of_a_vmcs_field_has_no_id_of_its_own() {
    let mut host = Host::with_td(&params());
    let tdvpr = host.vcpu();
    assert_eq!(host.vp_field(tdvpr, FieldId::vmcs(0x203d)), INCORRECT);
    assert_eq!(host.vp_field(tdvpr, FieldId::vmcs(0x0000)), NOT_READABLE);
}

#[test]
fn an_id_of_several_elements_is_not_one_field() {
    let host = Host::with_td(&params());
    for bit in [24, 34, 38, 47, 55, 62] {
        let id = FieldId(FieldId::TDCS_MRTD.0 | 1 << bit);
        assert_eq!(host.td_field(id), INCORRECT, "bit {bit}");
    }
    for bit in [50, 51, 63] {
        let id = FieldId(FieldId::TDCS_MRTD.0 | 1 << bit);
        assert_eq!(host.td_field(id), Ok(0), "bit {bit}");
    }
}

#[test]
fn a_debugger_sees_the_vpid_which_is_made_of_the_hkid_and_the_vm() {
    let mut host = Host::with_td(&debug_params());
    let tdvpr = host.vcpu();
    assert_eq!(host.vp_field(tdvpr, FieldId(0)), Ok(host::HKID << 2));
}
