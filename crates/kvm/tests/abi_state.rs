//! The exact ABI of v7.3 for what user space may read and write of a vCPU and a VM besides TDX commands:
//! copies before checks, checks before copies, and what is there after a reset. Each row names the kernel
//! file and line at v7.3.4 that decides.

mod vmm;

use std::sync::Arc;

use seamlock_kvm::Options;
use seamlock_kvm::discipline::{SEALED, V7_3};
use seamlock_kvm::task::{RunPage, UserMemory};
use seamlock_tdx_abi::kvm::*;
use vmm::{MEMORY, Td, Vmm, boot, boot_with};
use zerocopy::{FromZeros, IntoBytes};

const BAD: u64 = 0x10;

/// A request, its argument, and how it is refused.
type Row = (u32, u64, Errno, &'static str);

fn check(vmm: &Vmm, fd: i32, rows: &[Row]) {
    for (request, arg, errno, site) in rows {
        let name = ioctl_info(*request).map_or("?", |info| info.name);
        match vmm.try_ioctl(fd, *request, *arg) {
            Ok(value) => panic!("{name}: returned {value} instead of {errno}"),
            Err(error) => {
                assert_eq!(error.errno, *errno, "{name}: {error}");
                assert!(error.site.contains(site), "{name}: {error}, not {site}");
            }
        }
    }
}

fn zeros(vmm: &Vmm, bytes: u64) -> u64 {
    vmm.process.map(bytes)
}

fn user<T: IntoBytes + zerocopy::Immutable>(vmm: &Vmm, value: &T) -> u64 {
    vmm.process.map_copy(value.as_bytes())
}

#[test]
fn registers_of_a_td_are_refused_and_what_is_set_is_copied_first() {
    let vmm = boot();
    let td = vmm.build(1);
    let page = zeros(&vmm, 4096);
    let get = |request| (request, BAD, Errno::EINVAL, "guest_state_protected");
    let set = |request| {
        [
            (request, BAD, Errno::EFAULT, "kvm_main.c:4464"),
            (request, page, Errno::EINVAL, "guest_state_protected"),
        ]
    };
    let mut rows = vec![
        get(KVM_GET_REGS),
        get(KVM_GET_SREGS),
        get(KVM_GET_SREGS2),
        // x86.c:3850 looks at the state before it copies.
        get(KVM_SET_SREGS2),
        get(KVM_GET_FPU),
        get(KVM_GET_XSAVE),
        get(KVM_GET_XSAVE2),
        get(KVM_GET_XCRS),
        get(KVM_GET_DEBUGREGS),
        (KVM_GET_LAPIC, BAD, Errno::EINVAL, "x86.c:2704"),
        (KVM_SET_LAPIC, BAD, Errno::EFAULT, "x86.c:3462"),
        (KVM_SET_LAPIC, page, Errno::EINVAL, "x86.c:2717"),
    ];
    rows.extend(set(KVM_SET_REGS));
    rows.extend(set(KVM_SET_SREGS));
    rows.extend(set(KVM_SET_FPU));
    rows.extend(set(KVM_SET_GUEST_DEBUG));
    rows.extend(set(KVM_SET_XSAVE));
    rows.extend(set(KVM_SET_XCRS));
    rows.extend(set(KVM_SET_DEBUGREGS));
    check(&vmm, td.vcpus[0], &rows);
    vmm.drop_td(&td);
}

#[test]
fn vcpu_ioctls_without_state_refuse_in_the_kernels_order() {
    let vmm = boot();
    let td = vmm.build(1);
    let vcpu = td.vcpus[0];
    let reg = |id| user(&vmm, &KvmOneReg { id, addr: BAD });
    let attr = |group, attr, addr| {
        let flags = 0;
        user(
            &vmm,
            &KvmDeviceAttr {
                flags,
                group,
                attr,
                addr,
            },
        )
    };
    let cap = |cap| {
        user(
            &vmm,
            &KvmEnableCap {
                cap,
                ..KvmEnableCap::new_zeroed()
            },
        )
    };
    let mce = |bank, status| {
        user(
            &vmm,
            &KvmX86Mce {
                bank,
                status,
                ..Default::default()
            },
        )
    };
    let tpr = |flags| {
        user(
            &vmm,
            &KvmTprAccessCtl {
                flags,
                ..Default::default()
            },
        )
    };
    let events = |edit: fn(&mut KvmVcpuEvents)| {
        let mut events = KvmVcpuEvents::default();
        edit(&mut events);
        user(&vmm, &events)
    };
    const MSR: u64 = 0x2030_0002_0000_0000;
    check(
        &vmm,
        vcpu,
        &[
            (KVM_SMI, 0, Errno::ENOTTY, "smm.h:143"),
            (KVM_INTERRUPT, BAD, Errno::EFAULT, "x86.c"),
            (KVM_INTERRUPT, user(&vmm, &256u32), Errno::EINVAL, "x86.c"),
            (KVM_GET_ONE_REG, BAD, Errno::EFAULT, "msrs.c"),
            (KVM_GET_ONE_REG, reg(0x3a), Errno::EINVAL, "msrs.c:2376"),
            (
                KVM_GET_ONE_REG,
                reg(MSR | 1 << 40),
                Errno::EINVAL,
                "msrs.c:2376",
            ),
            (
                KVM_GET_ONE_REG,
                reg(MSR ^ (1 << 52)),
                Errno::EINVAL,
                "msrs.c:2376",
            ),
            (
                KVM_GET_ONE_REG,
                reg(MSR | 0x10),
                Errno::EINVAL,
                "msrs.c:2318",
            ),
            (
                KVM_GET_ONE_REG,
                reg(MSR | 0x3a),
                Errno::EFAULT,
                "msrs.c:2318",
            ),
            (
                KVM_SET_ONE_REG,
                reg(MSR | 0x3a),
                Errno::EFAULT,
                "msrs.c:2331",
            ),
            (KVM_GET_REG_LIST, BAD, Errno::EFAULT, "msrs.c:2424"),
            (KVM_HAS_DEVICE_ATTR, BAD, Errno::EFAULT, "x86.c:3344"),
            (
                KVM_HAS_DEVICE_ATTR,
                attr(1, 0, 0),
                Errno::ENXIO,
                "x86.c:3344",
            ),
            (
                KVM_GET_DEVICE_ATTR,
                attr(0, 1, 0),
                Errno::ENXIO,
                "x86.c:3344",
            ),
            (
                KVM_GET_DEVICE_ATTR,
                attr(0, 0, BAD),
                Errno::EFAULT,
                "x86.c:3285",
            ),
            (
                KVM_SET_DEVICE_ATTR,
                attr(0, 0, BAD),
                Errno::EFAULT,
                "x86.c:3305",
            ),
            (
                KVM_X86_SET_MCE,
                mce(32, 1 << 63),
                Errno::EINVAL,
                "x86.c:2879",
            ),
            (KVM_X86_SET_MCE, mce(0, 1), Errno::EINVAL, "x86.c:2879"),
            (
                KVM_TPR_ACCESS_REPORTING,
                tpr(1),
                Errno::EINVAL,
                "tpr_access",
            ),
            (
                KVM_SET_VAPIC_ADDR,
                user(&vmm, &MEMORY),
                Errno::EINVAL,
                "kvm_lapic_set_vapic_addr",
            ),
            (KVM_ENABLE_CAP, BAD, Errno::EFAULT, "x86.c:3372"),
            (
                KVM_ENABLE_CAP,
                cap(KVM_CAP_SPLIT_IRQCHIP),
                Errno::EINVAL,
                "x86.c:3372",
            ),
            (
                KVM_SET_VCPU_EVENTS,
                events(|e| e.flags = 1 << 6),
                Errno::EINVAL,
                "x86.c:3041",
            ),
            (
                KVM_SET_VCPU_EVENTS,
                events(|e| e.flags = 1 << 4),
                Errno::EINVAL,
                "x86.c:3041",
            ),
            (
                KVM_SET_VCPU_EVENTS,
                events(|e| e.flags = 1 << 5),
                Errno::EINVAL,
                "x86.c:3041",
            ),
            (
                KVM_SET_VCPU_EVENTS,
                events(|e| (e.exception_injected, e.exception_nr) = (1, 2)),
                Errno::EINVAL,
                "x86.c:3041",
            ),
            (KVM_SET_CPUID, BAD, Errno::EFAULT, "cpuid.c:590"),
            (
                KVM_SET_CPUID,
                user(&vmm, &257u64),
                Errno::E2BIG,
                "cpuid.c:590",
            ),
        ],
    );
    let accepted = [
        (KVM_TPR_ACCESS_REPORTING, tpr(0)),
        (KVM_ENABLE_CAP, cap(KVM_CAP_ENFORCE_PV_FEATURE_CPUID)),
        (KVM_SET_VAPIC_ADDR, user(&vmm, &0u64)),
        (KVM_HAS_DEVICE_ATTR, attr(0, 0, 0)),
        (KVM_X86_SET_MCE, mce(31, 1 << 63)),
        (KVM_GET_REG_LIST, user(&vmm, &0u64)),
        (KVM_NMI, 0),
    ];
    for (request, arg) in accepted {
        assert_eq!(vmm.ioctl(vcpu, request, arg), Ok(0), "{request:#x}");
    }
    let mut events = KvmVcpuEvents::default();
    assert_eq!(
        vmm.ioctl_with(vcpu, KVM_GET_VCPU_EVENTS, &mut events),
        Ok(0)
    );
    assert_eq!((events.nmi_pending, events.flags), (1, 1 | 1 << 2 | 1 << 3));
    vmm.drop_td(&td);
}

#[test]
fn vm_ioctls_of_a_td_refuse_what_its_interrupt_controllers_lack() {
    let vmm = boot();
    let td = vmm.build(0);
    let page = zeros(&vmm, 4096);
    let log = |slot| {
        let dirty_bitmap = page;
        user(
            &vmm,
            &KvmDirtyLog {
                slot,
                padding1: 0,
                dirty_bitmap,
            },
        )
    };
    let clear = |first_page| {
        let log = KvmClearDirtyLog {
            first_page,
            dirty_bitmap: page,
            ..Default::default()
        };
        user(&vmm, &log)
    };
    let routes = |edit: fn(&mut [KvmIrqRoutingEntry; 2])| {
        let mut entries = [KvmIrqRoutingEntry {
            r#type: 2,
            ..Default::default()
        }; 2];
        entries[1].gsi = 1;
        edit(&mut entries);
        let header = KvmIrqRouting { nr: 2, flags: 0 };
        vmm.process
            .map_copy(&[header.as_bytes(), entries.as_bytes()].concat())
    };
    let msi = |flags| {
        user(
            &vmm,
            &KvmMsi {
                flags,
                ..Default::default()
            },
        )
    };
    let pmu = |action, nevents, flags| {
        let filter = KvmPmuEventFilter {
            action,
            nevents,
            flags,
            ..Default::default()
        };
        user(&vmm, &filter)
    };
    check(
        &vmm,
        td.vm,
        &[
            (KVM_CREATE_PIT, 0, Errno::ENOENT, "x86.c:4473"),
            (KVM_CREATE_PIT2, BAD, Errno::EFAULT, "x86.c:4473"),
            (KVM_CREATE_PIT2, page, Errno::ENOENT, "x86.c:4473"),
            (KVM_GET_IRQCHIP, BAD, Errno::EFAULT, "x86.c:4493"),
            (KVM_GET_IRQCHIP, page, Errno::ENXIO, "x86.c:4493"),
            (KVM_SET_IRQCHIP, page, Errno::ENXIO, "x86.c:4493"),
            (KVM_GET_PIT, BAD, Errno::EFAULT, "x86.c:4535"),
            (KVM_SET_PIT, page, Errno::ENXIO, "x86.c:4535"),
            (KVM_GET_PIT2, BAD, Errno::ENXIO, "x86.c:4535"),
            (KVM_SET_PIT2, BAD, Errno::EFAULT, "x86.c:4577"),
            (KVM_REINJECT_CONTROL, page, Errno::ENXIO, "x86.c:4535"),
            (KVM_SET_NR_MMU_PAGES, 63, Errno::EINVAL, "x86.c:3920"),
            (KVM_GET_DIRTY_LOG, BAD, Errno::EFAULT, "kvm_main.c:2257"),
            (
                KVM_GET_DIRTY_LOG,
                log(1 << 16),
                Errno::EINVAL,
                "kvm_main.c:2257",
            ),
            (KVM_GET_DIRTY_LOG, log(0), Errno::ENOENT, "kvm_main.c:2257"),
            (
                KVM_CLEAR_DIRTY_LOG,
                clear(1),
                Errno::EINVAL,
                "kvm_main.c:2367",
            ),
            (
                KVM_CLEAR_DIRTY_LOG,
                clear(64),
                Errno::ENOENT,
                "kvm_main.c:2367",
            ),
            (KVM_RESET_DIRTY_RINGS, 0, Errno::EINVAL, "kvm_main.c:5043"),
            (
                KVM_SET_GSI_ROUTING,
                routes(|e| e[1].gsi = 0),
                Errno::EINVAL,
                "irq.c:296",
            ),
            (
                KVM_SET_GSI_ROUTING,
                routes(|e| e[1].gsi = 4096),
                Errno::EINVAL,
                "irqchip.c:168",
            ),
            (
                KVM_SET_GSI_ROUTING,
                routes(|e| e[0].r#type = 1),
                Errno::EINVAL,
                "irq.c:296",
            ),
            (
                KVM_SET_GSI_ROUTING,
                routes(|e| e[0].flags = 2),
                Errno::EINVAL,
                "irq.c:296",
            ),
            (KVM_SIGNAL_MSI, msi(2), Errno::EINVAL, "irqchip.c:48"),
            (
                KVM_SET_PMU_EVENT_FILTER,
                pmu(2, 0, 0),
                Errno::EINVAL,
                "pmu.c:1243",
            ),
            (
                KVM_SET_PMU_EVENT_FILTER,
                pmu(0, 301, 0),
                Errno::E2BIG,
                "pmu.c:1243",
            ),
        ],
    );
    assert_eq!(vmm.ioctl(td.vm, KVM_SET_GSI_ROUTING, routes(|_| {})), Ok(0));
    assert_eq!(vmm.ioctl(td.vm, KVM_SIGNAL_MSI, msi(1)), Ok(0));
    // irq.c:279; only the STATUS form is copied back (kvm_main.c:5333).
    let mut line = KvmIrqLevel { irq: 5, level: 1 };
    assert_eq!(vmm.ioctl_with(td.vm, KVM_IRQ_LINE, &mut line), Ok(0));
    assert_eq!(line.irq, 5);
    assert_eq!(vmm.ioctl_with(td.vm, KVM_IRQ_LINE_STATUS, &mut line), Ok(0));
    assert_eq!(line.irq, u32::MAX);
    vmm.drop_td(&td);
}

fn msrs(vmm: &Vmm, vcpu: i32, request: u32, list: &mut [(u32, u64)]) -> Result<i64, Errno> {
    let header = KvmMsrs {
        nmsrs: list.len() as u32,
        pad: 0,
    };
    let mut bytes = header.as_bytes().to_vec();
    for (index, data) in list.iter() {
        bytes.extend_from_slice(&(*index as u64).to_le_bytes());
        bytes.extend_from_slice(&data.to_le_bytes());
    }
    let at = vmm.process.map_copy(&bytes);
    let reply = vmm.ioctl(vcpu, request, at);
    let back = vmm.process.read_vec(at + 8, 16 * list.len()).unwrap();
    for (entry, bytes) in list.iter_mut().zip(back.chunks(16)) {
        entry.1 = u64::from_le_bytes(bytes[8..].try_into().unwrap());
    }
    reply
}

#[test]
fn msrs_of_a_td_are_those_that_kvm_emulates_and_start_as_after_reset() {
    let vmm = boot();
    let mut td = vmm.create_td();
    vmm.init_vm(&td).unwrap();
    let vcpu = vmm.create_vcpu(&mut td, 0).unwrap() as i32;
    // msrs.c, lapic.c kvm_lapic_reset: xAPIC and BSP; 32 banks; microcode 1; no PEBS, no BTS.
    let mut list = [
        (0x1b, 9),
        (0x179, 9),
        (0x8b, 9),
        (0x1a0, 9),
        (0xc000_0080, 9),
        (0x10, 9),
    ];
    assert_eq!(msrs(&vmm, vcpu, KVM_GET_MSRS, &mut list), Ok(5));
    let values: Vec<u64> = list.iter().map(|(_, data)| *data).collect();
    assert_eq!(values, [0xfee0_0900, 32, 1 << 32, 0x1800, 0xd01, 0]);
    // tdx.c:2253: APICBASE, EFER and FEAT_CTL are read-only; what follows is not looked at.
    for read_only in [0x1b, 0xc000_0080, 0x3a] {
        let mut list = [(0x277, 6), (read_only, 0), (0x2ff, 1)];
        assert_eq!(msrs(&vmm, vcpu, KVM_SET_MSRS, &mut list), Ok(1));
    }
    let mut list = [(0x277, 0), (0x2ff, 9)];
    assert_eq!(msrs(&vmm, vcpu, KVM_GET_MSRS, &mut list), Ok(2));
    assert_eq!(list, [(0x277, 6), (0x2ff, 0)]);
    // The whole array is copied in first (msrs.c:2264).
    let at = zeros(&vmm, 4096) + 4096 - 24;
    vmm.process.write(at, &2u64.to_le_bytes()).unwrap();
    assert_eq!(vmm.ioctl(vcpu, KVM_GET_MSRS, at), Err(Errno::EFAULT));
    vmm.process.write(at, &256u64.to_le_bytes()).unwrap();
    assert_eq!(vmm.ioctl(vcpu, KVM_GET_MSRS, at), Err(Errno::E2BIG));
    vmm.drop_td(&td);
}

#[test]
fn a_filter_is_checked_range_by_range() {
    let vmm = boot();
    let td = vmm.create_td();
    let filter = |edit: fn(&mut KvmMsrFilter)| {
        let mut filter = KvmMsrFilter::default();
        filter.ranges[0] = KvmMsrFilterRange {
            flags: 1,
            nmsrs: 64,
            base: 0x10,
            bitmap: BAD,
            padding: 0,
        };
        edit(&mut filter);
        user(&vmm, &filter)
    };
    let set = KVM_X86_SET_MSR_FILTER;
    let denied = filter(|f| (f.flags, f.ranges[0].nmsrs) = (1, 0));
    check(
        &vmm,
        td.vm,
        &[
            (set, filter(|f| f.flags = 2), Errno::EINVAL, "msrs.c:2505"),
            (set, denied, Errno::EINVAL, "msrs.c:2505"),
            (
                set,
                filter(|f| f.ranges[0].flags = 4),
                Errno::EINVAL,
                "msrs.c:2471",
            ),
            (
                set,
                filter(|f| f.ranges[0].nmsrs = 0x3001),
                Errno::EINVAL,
                "msrs.c:2471",
            ),
            // The first range's bitmap is copied before the second range is looked at.
            (
                set,
                filter(|f| (f.ranges[1].nmsrs, f.ranges[1].flags) = (1, 9)),
                Errno::EFAULT,
                "msrs.c:2471",
            ),
        ],
    );
    assert_eq!(
        vmm.ioctl(td.vm, set, filter(|f| f.ranges[0].nmsrs = 0)),
        Ok(0)
    );
    vmm.drop_td(&td);
}

/// `struct kvm_run` of the only vCPU of the only VM.
fn run_page(vmm: &Vmm) -> Arc<dyn RunPage> {
    let kvm = vmm.host.live_vms().remove(0);
    kvm.vcpus().next().expect("a vCPU").run_page().clone()
}

fn run_word(vmm: &Vmm, offset: usize) -> u64 {
    let mut bytes = [0; 8];
    run_page(vmm).read(offset, &mut bytes);
    u64::from_le_bytes(bytes)
}

fn finalized(vmm: &Vmm) -> Td {
    let td = vmm.build(1);
    vmm.finalize(&td).unwrap();
    td
}

#[test]
fn kvm_run_shares_no_registers_with_a_td_and_tells_its_apic_base() {
    let vmm = boot();
    let td = finalized(&vmm);
    let vcpu = td.vcpus[0];
    // x86.c:8943: no register set is valid, whichever way.
    for offset in [KVM_VALID_REGS_OFFSET, KVM_DIRTY_REGS_OFFSET] {
        run_page(&vmm).write(offset, &1u64.to_le_bytes());
        run_page(&vmm).write(14, &[0xff, 0xff]);
        let error = vmm.try_ioctl(vcpu, KVM_RUN, 0).unwrap_err();
        assert!(
            error.is(Errno::EINVAL) && error.site.contains("x86.c:8943"),
            "{error}"
        );
        // x86.c:8919: flags are cleared; post_kvm_run_save: the x2APIC of the boot processor.
        assert_eq!(run_word(&vmm, 8) >> 48, 0);
        assert_eq!(run_word(&vmm, 24), 0xfee0_0d00);
        run_page(&vmm).write(offset, &0u64.to_le_bytes());
    }
    // x86.c:8878: a TD's vCPU waits for no SIPI.
    let mut state = KvmMpState {
        mp_state: KVM_MP_STATE_INIT_RECEIVED,
    };
    assert_eq!(vmm.ioctl_with(vcpu, KVM_SET_MP_STATE, &mut state), Ok(0));
    let error = vmm.try_ioctl(vcpu, KVM_RUN, 0).unwrap_err();
    assert!(
        error.is(Errno::EINVAL) && error.site.contains("x86.c:8878"),
        "{error}"
    );
    vmm.drop_td(&td);
}

#[test]
fn pre_faults_tell_private_memory_from_shared() {
    let vmm = boot();
    let td = finalized(&vmm);
    let vcpu = td.vcpus[0];
    let pre_fault = |gpa| {
        let mut range = KvmPreFaultMemory {
            gpa,
            size: 4096,
            ..Default::default()
        };
        vmm.ioctl_with(vcpu, KVM_PRE_FAULT_MEMORY, &mut range)
    };
    // mmu.c kvm_handle_noslot_fault: private without a slot is EFAULT and a memory fault, shared ENOENT.
    assert_eq!(pre_fault(MEMORY), Err(Errno::ENOENT));
    vmm.attributes(td.vm, MEMORY, 4096, KVM_MEMORY_ATTRIBUTE_PRIVATE)
        .unwrap();
    assert_eq!(pre_fault(MEMORY), Err(Errno::EFAULT));
    assert_eq!(run_word(&vmm, 8) as u32, KVM_EXIT_MEMORY_FAULT);
    let told = [32, 40, 48].map(|offset| run_word(&vmm, offset));
    assert_eq!(told, [KVM_MEMORY_EXIT_FLAG_PRIVATE, MEMORY, 4096]);
    // Shared memory that no user mapping backs (mmu.c kvm_handle_error_pfn).
    vmm.attributes(td.vm, 0, 4096, 0).unwrap();
    assert_eq!(pre_fault(0), Err(Errno::EFAULT));
    assert_eq!(pre_fault(4096), Ok(0));
    vmm.drop_td(&td);
}

/// CPUID says 52 bits, the TD has 48 (tdx.c:1637 tdx_load_mmu_pgd).
fn give_another_address_width(vmm: &Vmm, vcpu: i32) {
    let entries = [
        KvmCpuidEntry2 {
            function: 1,
            ecx: 1 << 21,
            ..Default::default()
        },
        KvmCpuidEntry2 {
            function: 0x8000_0000,
            eax: 0x8000_0008,
            ..Default::default()
        },
        KvmCpuidEntry2 {
            function: 0x8000_0008,
            eax: 52 << 16 | 52,
            ..Default::default()
        },
    ];
    let header = KvmCpuid2 {
        nent: 3,
        padding: 0,
    };
    let at = vmm
        .process
        .map_copy(&[header.as_bytes(), entries.as_bytes()].concat());
    assert_eq!(vmm.ioctl(vcpu, KVM_SET_CPUID2, at), Ok(0));
}

#[test]
fn a_vcpu_whose_cpuid_has_another_address_width_than_the_td_bugs_the_vm_unless_sealed() {
    for (discipline, loads) in [(&V7_3, Err(Errno::EIO)), (&SEALED, Ok(0))] {
        let vmm = boot_with(Options {
            discipline,
            ..Options::default()
        });
        let td = vmm.build(1);
        give_another_address_width(&vmm, td.vcpus[0]);
        let mut region = KvmTdxInitMemRegion {
            source_addr: vmm.process.map(4096),
            gpa: 0,
            nr_pages: 1,
        };
        assert_eq!(vmm.load(td.vcpus[0], &mut region, false), loads);
        assert_eq!(region.nr_pages, u64::from(loads.is_err()));
        assert_eq!(vmm.finalize(&td), loads);
        vmm.drop_td(&td);
    }
}

#[test]
fn capabilities_and_xfam_are_what_kvm_supports_and_not_all_that_the_processor_has() {
    let vmm = boot();
    let td = vmm.create_td();
    let extension = |cap: u32| vmm.ioctl(td.vm, KVM_CHECK_EXTENSION, cap.into());
    // kvm_host.h KVM_GUESTDBG_VALID_MASK, x86.c:2163 kvm_get_allowed_disable_exits.
    assert_eq!(extension(KVM_CAP_SET_GUEST_DEBUG2), Ok(0x1f_0003));
    assert_eq!(extension(KVM_CAP_X86_DISABLE_EXITS), Ok(0x1f));
    // vmx.c:8786: LMCE and CMCI besides x86.c:7074.
    let mut mce = 0u64;
    assert_eq!(
        vmm.ioctl_with(vmm.kvm, KVM_X86_GET_MCE_CAP_SUPPORTED, &mut mce),
        Ok(0)
    );
    assert_eq!(mce, 1 << 27 | 1 << 24 | 1 << 10 | 1 << 8);
    let mut bytes = KvmTdxCapabilities::new_zeroed().as_bytes().to_vec();
    bytes.resize(2056 + 256 * 40, 0);
    bytes[2048] = 255;
    let at = vmm.process.map_copy(&bytes);
    assert_eq!(
        vmm.tdx(td.vm, TdxCmdId::KVM_TDX_CAPABILITIES, 0, at).0,
        Ok(0)
    );
    let xfam = vmm.process.read_vec(at + 8, 8).unwrap();
    // x86.c:211, x86.c:223: no PT, UINTR, LBR or HWP.
    assert_eq!(u64::from_le_bytes(xfam.try_into().unwrap()), 0x6_1ae7);
    vmm.drop_td(&td);
}

#[test]
fn emulated_cpuid_asks_for_clean_padding_and_room_for_one_entry_more() {
    let vmm = boot();
    // cpuid.c kvm_dev_ioctl_get_cpuid, sanity_check_entries.
    let request = |nent: u32, padding: u32| {
        let mut entries = vec![KvmCpuidEntry2::default(); nent as usize];
        if let Some(last) = entries.last_mut() {
            last.padding[2] = padding;
        }
        let header = KvmCpuid2 { nent, padding: 0 };
        let at = vmm
            .process
            .map_copy(&[header.as_bytes(), entries.as_bytes()].concat());
        (vmm.ioctl(vmm.kvm, KVM_GET_EMULATED_CPUID, at), at)
    };
    assert_eq!(request(0, 0).0, Err(Errno::E2BIG));
    assert_eq!(request(4, 1).0, Err(Errno::EINVAL));
    assert_eq!(request(3, 0).0, Err(Errno::E2BIG));
    let (reply, at) = request(4, 0);
    assert_eq!(reply, Ok(0));
    assert_eq!(vmm.process.read_vec(at, 4).unwrap(), 3u32.to_le_bytes());
}

#[test]
fn cpuid_that_follows_from_the_guests_state_is_kvms() {
    let vmm = boot();
    let td = vmm.build(1);
    // cpuid.c kvm_update_cpuid_runtime: OSXSAVE and OSPKE by CR4, APIC by its base, XSAVE's size by XCR0.
    let entry = |function, ecx, eax| KvmCpuidEntry2 {
        function,
        flags: if function == 1 { 0 } else { 1 },
        ecx,
        eax,
        ..Default::default()
    };
    let entries = [
        entry(1, 1 << 27 | 1 << 21, 5),
        entry(7, 1 << 4, 6),
        entry(0xd, 0, 7),
    ];
    let header = KvmCpuid2 {
        nent: 3,
        padding: 0,
    };
    let at = vmm
        .process
        .map_copy(&[header.as_bytes(), entries.as_bytes()].concat());
    assert_eq!(vmm.ioctl(td.vcpus[0], KVM_SET_CPUID2, at), Ok(0));
    assert_eq!(vmm.ioctl(td.vcpus[0], KVM_GET_CPUID2, at), Ok(0));
    let word =
        |at: u64| u32::from_le_bytes(vmm.process.read_vec(at, 4).unwrap().try_into().unwrap());
    let register = |i: u64, register: u64| word(at + 8 + 40 * i + 12 + 4 * register);
    assert_eq!(
        (register(0, 0), register(0, 2), register(0, 3)),
        (5, 1 << 21, 1 << 9)
    );
    assert_eq!((register(1, 0), register(1, 2)), (6, 0));
    assert_eq!((register(2, 0), register(2, 1)), (7, 576));
    vmm.drop_td(&td);
}

#[test]
fn fallocate_checks_the_mode_the_range_and_then_what_guest_memfd_can() {
    let vmm = boot();
    let td = vmm.build(0);
    let task = vmm.process.task(&vmm.control);
    let call = |fd, mode, offset, len| {
        seamlock_kvm::fallocate(&task, fd, mode, offset, len).map_err(|error| error.errno)
    };
    const MAX: u64 = i64::MAX as u64 & !0xfff;
    // fs/open.c vfs_fallocate, guest_memfd.c:265.
    assert_eq!(call(td.gmem, 1, 0, 0), Err(Errno::EINVAL));
    assert_eq!(call(td.gmem, 1 << 10, 0, 4096), Err(Errno::EOPNOTSUPP));
    assert_eq!(call(td.gmem, 2, MAX, MAX), Err(Errno::EOPNOTSUPP));
    assert_eq!(call(td.gmem, 0, MAX, MAX), Err(Errno::EFBIG));
    assert_eq!(call(td.gmem, 0, 0, 4096), Err(Errno::EOPNOTSUPP));
    assert_eq!(call(td.gmem, 0x11, 0, 4096), Err(Errno::EOPNOTSUPP));
    assert_eq!(call(td.gmem, 1, 8, 4096), Err(Errno::EINVAL));
    assert_eq!(call(td.gmem, 1, MEMORY, 4096), Err(Errno::EINVAL));
    assert_eq!(call(td.gmem, 3, MEMORY, 4096), Ok(()));
    assert_eq!(call(td.vm, 1, 0, 4096), Err(Errno::ENODEV));
    vmm.drop_td(&td);
}
