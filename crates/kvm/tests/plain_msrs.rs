//! MSRs of a VM that is no TD: what user space may write, what reads back, and what is there after
//! creation. Each row names the kernel file and line at v7.3.4 that decides.

mod plain;
mod vmm;

use plain::{Plain, plain};
use seamlock_tdx_abi::kvm::*;
use vmm::boot;

/// An MSR, values that are taken and what they read back as, and values that are refused.
type Row = (u32, &'static [(u64, u64)], &'static [u64], &'static str);

fn check(vm: &Plain, rows: &[Row]) {
    for (msr, good, bad, site) in rows {
        for (value, back) in *good {
            assert!(vm.set_msr(*msr, *value), "{msr:#x} = {value:#x}: {site}");
            assert_eq!(vm.msr(*msr), Some(*back), "{msr:#x} = {value:#x}: {site}");
        }
        for value in *bad {
            assert!(!vm.set_msr(*msr, *value), "{msr:#x} = {value:#x}: {site}");
        }
    }
}

#[test]
fn each_msr_takes_what_the_kernel_takes() {
    let vm = plain(true);
    vm.give_cpuid();
    check(
        &vm,
        &[
            (
                0x3a,
                &[(5, 5)],
                &[8],
                "vmx.c:2107 KVM_SUPPORTED_FEATURE_CONTROL",
            ),
            (0x48, &[(7, 7), (0x401, 0x401)], &[1 << 9], "msrs.c:2705"),
            (0x10, &[(9, 9)], &[], "msrs.c:1506"),
            (0x9e, &[(0xa_0000, 0xa_0000)], &[], "msrs.c:1498"),
            (0xce, &[(0, 0), (1 << 31, 1 << 31)], &[], "msrs.c:1696"),
            (0x140, &[(1, 1)], &[2], "msrs.c:1701"),
            (0x122, &[(3, 3)], &[4], "vmx.c:2471"),
            (
                0xe1,
                &[(0xffff_fffd, 0xffff_fffd)],
                &[2, 1 << 32],
                "vmx.c:2437",
            ),
            // BTF and LBR are dropped.
            (
                0x1d9,
                &[(3, 0), (4, 4)],
                &[1 << 3],
                "vmx.c:2312 vmx_is_valid_debugctl",
            ),
            // Made canonical, and not refused.
            (0x176, &[(1 << 56, 0xff << 56)], &[], "msrs.c:729"),
            (
                0xc000_0082,
                &[(0xff << 56, 0xff << 56)],
                &[1 << 60],
                "msrs.c:711",
            ),
            (0xc000_0103, &[(7, 7)], &[1 << 32], "msrs.c:750"),
            (0x6a2, &[], &[1 << 6, 1 << 12, 3 << 10], "msrs.h:136"),
            (0x6a4, &[(8, 8)], &[2, 1 << 60], "msrs.c:792"),
            (0x6a8, &[(9, 9)], &[1 << 60], "msrs.c:792"),
            (0x1c4, &[(0, 0)], &[1 << 18], "msrs.c:1719"),
            (0x17b, &[(0, 0)], &[u64::MAX], "msrs.c:1319 set_msr_mce"),
            (0x280, &[(0, 0)], &[1], "msrs.c:1331"),
            (
                0x400,
                &[(u64::MAX, u64::MAX), (!1, !1)],
                &[2],
                "msrs.c:1355",
            ),
            (0x401, &[(1 << 63, 1 << 63)], &[], "msrs.c:1365"),
            (
                0x200,
                &[(0xabc0_0006, 0xabc0_0006)],
                &[2, 0x100, 1 << 52],
                "mtrr.c:78",
            ),
            (0x201, &[(0xf_f000_0800, 0xf_f000_0800)], &[1], "mtrr.c:84"),
            (
                0x250,
                &[(0x0606_0606_0606_0606, 0x0606_0606_0606_0606)],
                &[7],
                "mtrr.c:66",
            ),
            (0x2ff, &[(0xc06, 0xc06)], &[0x100, 7], "mtrr.c:61"),
            (0x277, &[(0, 0)], &[2], "msrs.c:1462"),
            (
                0xc001_0015,
                &[(0x100_0148, 0x100_0000)],
                &[1 << 20],
                "msrs.c:1444",
            ),
            (
                0x345,
                &[(0x24c0, 0x24c0), (0, 0)],
                &[1, 0x1400, 0x0400],
                "vmx.c:2600",
            ),
            (0x4b56_4d02, &[(0, 0), (2, 2)], &[0x10, 9], "msrs.c:1383"),
            (0x4b56_4d04, &[(8, 8)], &[2, 1], "lapic.c:3568"),
            (0x4b56_4d06, &[(0x41, 0x41)], &[0x100], "msrs.c:1410"),
            // What is written to one number is read at the other.
            (0x12, &[(8, 8)], &[], "msrs.c:1541"),
            (0x4b56_4d01, &[(0x10, 0x10)], &[], "msrs.c:1535"),
            // Nothing is kept.
            (0x11e, &[(5, 0xbe70_2111)], &[], "msrs.c:1679"),
            (
                0x6e0,
                &[(5, 0)],
                &[],
                "lapic.c kvm_set_lapic_tscdeadline_msr",
            ),
        ],
    );
    assert_eq!(vm.msr(0x12), Some(0x10));
}

#[test]
fn counters_are_those_of_the_guests_cpuid() {
    let vm = plain(false);
    // Without a PMU in CPUID: zero, as KVM tells about them.
    for msr in [0xc3, 0x186, 0x309, 0x38d, 0x38f] {
        assert_eq!(vm.msr(msr), Some(0), "{msr:#x}");
        assert!(vm.set_msr(msr, 0), "{msr:#x}");
    }
    assert!(!vm.set_msr(0xc3, 1));
    // Old processors' counters take anything and keep nothing (msrs.c:1638).
    assert!(vm.set_msr(0xc1, 1));
    assert_eq!((vm.msr(0xc1), vm.msr(0x4c1)), (Some(0), None));
    vm.give_cpuid();
    check(
        &vm,
        &[
            (0xc1, &[(1 << 60 | 5, 5)], &[], "pmu_intel.c:412"),
            (0x4c1, &[], &[1 << 48], "pmu_intel.c:404"),
            (
                0x186,
                &[(0x53_00c0 & !(1 << 21), 0x53_00c0)],
                &[1 << 21, 1 << 33],
                "pmu_intel.c:417",
            ),
            (0x188, &[(1 << 33, 1 << 33)], &[], "pmu_intel.c:419"),
            (0x38d, &[(0xbbb, 0xbbb)], &[4, 0x1000], "pmu_intel.c:369"),
            (
                0x38e,
                &[(3 << 62 | 7 << 32 | 0xff, 3 << 62 | 7 << 32 | 0xff)],
                &[0x100],
                "pmu.c:886",
            ),
            (
                0x38f,
                &[(0x7_0000_00ff, 0x7_0000_00ff)],
                &[0x100],
                "pmu.c:895",
            ),
            (0x390, &[(1, 0)], &[0x100], "pmu.c:915"),
            (0x600, &[(0x1000, 0x1000)], &[1 << 60], "pmu_intel.c:388"),
            (0x3f1, &[(0xff, 0xff)], &[0x100], "pmu_intel.c:376"),
        ],
    );
    // A new CPUID resets them, and enables all counters.
    vm.give_cpuid();
    assert_eq!((vm.msr(0xc1), vm.msr(0x38d)), (Some(0), Some(0)));
    assert_eq!((vm.msr(0x38f), vm.msr(0x3f1)), (Some(0xff), Some(0xff)));
}

#[test]
fn hyperv_msrs_are_kept_by_the_vm_or_by_the_vcpu() {
    let vm = plain(true);
    let page = vm.map_slot(0, 0x2000);
    check(
        &vm,
        &[
            // hyperv.c:1421: no hypercall page before there is a guest.
            (0x4000_0001, &[(0x1001, 0)], &[], "hyperv.c:1421"),
            (0x4000_0000, &[(0x8100, 0x8100)], &[], "hyperv.c:1411"),
            (
                0x4000_0001,
                &[(0x1001, 0x1001), (0x5000, 0x5000)],
                &[0x5001],
                "hyperv.c:1452",
            ),
            (0x4000_0002, &[(0, 0), (5, 5)], &[1024], "hyperv.c:1555"),
            (0x4000_0003, &[(1, 0)], &[], "hyperv.c:1489"),
            (0x4000_0010, &[(77, 77)], &[], "hyperv.c:1614"),
            (0x4000_0020, &[(77, 0)], &[], "hyperv.c:1507"),
            (0x4000_0021, &[(0x1001, 0x1001)], &[], "hyperv.c:1457"),
            (0x4000_0022, &[(1, 2_000_000_000)], &[], "hyperv.c:1641"),
            (0x4000_0023, &[(1, 1_000_000_000)], &[], "hyperv.c:1765"),
            (0x4000_0072, &[(0x20, 0x20)], &[1 << 32], "lapic.c:3517"),
            (
                0x4000_0073,
                &[(0x1001, 0x1001), (0x1000, 0x1000)],
                &[0x5001],
                "hyperv.c:1587",
            ),
            (0x4000_0100, &[(9, 9)], &[], "hyperv.c:1469"),
            (0x4000_0105, &[(u64::MAX, 1 << 63)], &[], "hyperv.c:1091"),
            (0x4000_0118, &[(1, 1)], &[2], "hyperv.c:1514"),
            (0x4000_00f2, &[(3, 3)], &[], "hyperv.c:376"),
            // Until the interrupt controller is on, zero is all that it takes.
            (0x4000_0080, &[(0, 0)], &[1], "hyperv.c:275"),
            (0x4000_00b0, &[(0, 0)], &[1], "hyperv.c:704"),
        ],
    );
    // 0f 01 c1 c3: VMCALL, RET.
    assert_eq!(
        vm.vmm.process.read_vec(page + 0x1000, 4).unwrap(),
        [0, 0, 0, 0]
    );
    assert_eq!(
        (vm.msr(0x4000_0081), vm.msr(0x4000_0090)),
        (Some(1), Some(1 << 16))
    );
    // On the 21st bit nothing: not in kvm_set_msr_common's ranges.
    assert_eq!((vm.msr(0x4000_0074), vm.msr(0x4000_0119)), (None, None));
    assert_eq!(vm.enable_vcpu_cap(KVM_CAP_HYPERV_SYNIC2, 0), Ok(0));
    check(
        &vm,
        &[
            (0x4000_0080, &[(0, 0), (1, 1)], &[], "hyperv.c:282"),
            (0x4000_0091, &[(0x31, 0x31)], &[], "hyperv.c:153"),
            // A timer that was on and has neither SINT nor direct mode goes off.
            (
                0x4000_00b0,
                &[(0x1_0001, 0x1_0001), (1, 0)],
                &[],
                "hyperv.c:718",
            ),
            (0x4000_00b1, &[(100, 100)], &[], "hyperv.c:738"),
        ],
    );
    // What is the VM's is there on every vCPU, what is the vCPU's is not.
    let second = vm.vmm.ioctl(vm.vm, KVM_CREATE_VCPU, 3).unwrap() as i32;
    let vm = Plain { vcpu: second, ..vm };
    assert_eq!(vm.msr(0x4000_0000), Some(0x8100));
    assert_eq!(
        (vm.msr(0x4000_0002), vm.msr(0x4000_0080)),
        (Some(1), Some(0))
    );
}

#[test]
fn the_hypercall_page_is_written_where_the_guest_wants_it() {
    let vm = plain(true);
    let page = vm.map_slot(0, 0x2000);
    assert!(vm.set_msr(0x4000_0000, 1));
    assert!(vm.set_msr(0x4000_0001, 0x1001));
    let code = vm.vmm.process.read_vec(page + 0x1000, 5).unwrap();
    assert_eq!(code, [0x0f, 0x01, 0xc1, 0xc3, 0]);
    // Without a guest it is off again (hyperv.c:1413).
    assert!(vm.set_msr(0x4000_0000, 0));
    assert_eq!(vm.msr(0x4000_0001), Some(0x1000));
}

#[test]
fn vmx_msrs_go_down_from_what_kvm_supports_and_never_up() {
    let vm = plain(false);
    // vmx.c:2201: not there without VMX in CPUID, and telling about it does not help.
    assert_eq!((vm.msr(0x480), vm.set_msr(0x480, 0)), (None, false));
    vm.give_cpuid();
    check(
        &vm,
        &[
            (0x48a, &[(0, 0), (u64::MAX, u64::MAX)], &[], "nested.c:1591"),
            (
                0x48d,
                &[(0x7f_0000_0016, 0x7f_0000_0016)],
                &[0xff_0000_0006, 1 << 48 | 0x16],
                "nested.c:1436",
            ),
            (
                0x485,
                &[(5, 5)],
                &[0x2000_0166, 1 << 9, 1 << 16, 1 << 32],
                "nested.c:1473",
            ),
            (
                0x486,
                &[(0x8000_0021, 0x8000_0021)],
                &[0x21],
                "nested.c:1531",
            ),
            (0x48c, &[(0, 0)], &[1 << 1], "nested.c:1503"),
            (0x491, &[(0, 0), (1, 1)], &[2], "nested.c:1594"),
            // Those without TRUE and CRx_FIXED1 follow from others.
            (0x481, &[], &[0xff_0000_0016], "nested.c:1557"),
            (0x487, &[], &[0xffff_ffff], "nested.c:1582"),
        ],
    );
    let basic = vm.msr(0x480).unwrap();
    assert_eq!(basic & 0xffff_ffff, 0x11e5_7ed0);
    assert!(vm.set_msr(0x480, basic & !(1 << 54)) && vm.set_msr(0x480, basic));
    assert!(!vm.set_msr(0x480, basic | 1 << 48) && !vm.set_msr(0x480, basic + 1));
    // CR4_FIXED1 is what CPUID lets the guest set.
    assert_eq!(vm.msr(0x489).unwrap() & (1 << 13 | 1 << 14), 1 << 13);
    // nested.c:1551: not in VMX operation.
    let mut state = KvmNestedState {
        size: 128,
        vmxon_pa: 0x1000,
        vmcs12_pa: u64::MAX,
        ..zerocopy::FromZeros::new_zeroed()
    };
    vm.vmm
        .ioctl_with(vm.vcpu, KVM_SET_NESTED_STATE, &mut state)
        .expect("VMXON");
    assert!(!vm.set_msr(0x48a, 0));
}

#[test]
fn feature_msrs_start_as_what_kvm_supports_unless_user_space_says_so_itself() {
    let vmm = boot();
    let features = plain::msr_list(&vmm, KVM_GET_MSR_FEATURE_INDEX_LIST);
    assert_eq!(features.len(), 18 + 4);
    let stuffed = plain(false);
    stuffed.give_cpuid();
    let vm = plain::plain_without(KVM_X86_QUIRK_STUFF_FEATURE_MSRS);
    vm.give_cpuid();
    for msr in features {
        let supported = plain::feature_msr(&vmm, msr).expect("it is listed");
        // CRx_FIXED1 follow CPUID, those without TRUE have bits that are always on, and a vCPU's
        // microcode is KVM's choice (vmx.c:5031).
        let derived = matches!(msr, 0x481..=0x484 | 0x487 | 0x489);
        let start = if msr == 0x8b {
            0x1_0000_0000
        } else {
            supported
        };
        if !derived {
            assert_eq!(vm.msr(msr), Some(0), "{msr:#x}");
        }
        if !matches!(msr, 0x487 | 0x489) {
            assert_eq!(stuffed.msr(msr), Some(start), "{msr:#x}");
        }
        assert_eq!(vm.set_msr(msr, supported), !derived, "{msr:#x}");
    }
    assert_eq!(plain::feature_msr(&vmm, 0xc001_1029), None);
    // msrs.c:528: told about, and no feature.
    assert_eq!(plain::feature_msr(&vmm, 0x174), Some(0));
}

#[test]
fn kvms_own_msrs_follow_cpuid_where_user_space_wants_that() {
    let vm = plain(true);
    vm.give_cpuid();
    assert!(vm.set_msr(0x4b56_4d03, 1));
    assert_eq!(
        vm.enable_vcpu_cap(KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1),
        Ok(0)
    );
    assert_eq!(vm.msr(0x4b56_4d03), Some(1));
    vm.give_cpuid_without(0x4000_0001);
    // msrs.c:1570: unsupported, so zero as far as user space is concerned.
    assert_eq!(vm.msr(0x4b56_4d03), Some(0));
    assert!(vm.set_msr(0x4b56_4d03, 0) && !vm.set_msr(0x4b56_4d03, 1));
    assert_eq!(
        vm.enable_vcpu_cap(KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 0),
        Ok(0)
    );
    assert!(vm.set_msr(0x4b56_4d03, 1));
}

#[test]
fn what_is_listed_can_be_read_and_is_in_the_kernels_order() {
    let vm = plain(false);
    vm.give_cpuid();
    let listed = plain::msr_list(&vm.vmm, KVM_GET_MSR_INDEX_LIST);
    for msr in &listed {
        assert!(
            vm.msr(*msr).is_some(),
            "{msr:#x} is listed and can't be read"
        );
    }
    assert_eq!(&listed[..4], &[0x174, 0x175, 0x176, 0xc000_0081]);
    assert_eq!(listed.last(), Some(&0x4b56_4d05));
    let mut sorted = listed.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), listed.len());
}
