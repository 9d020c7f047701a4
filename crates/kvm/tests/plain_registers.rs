//! Registers of a VM that is no TD: what is there after a reset, what is kept, and what the kernel refuses.

mod plain;
mod vmm;

use plain::{Plain, plain};
use seamlock_tdx_abi::kvm::*;
use zerocopy::{FromZeros, IntoBytes};

/// Long mode, as a VMM sets it up.
fn long_mode(sregs: &mut KvmSregs) {
    (sregs.cr0, sregs.cr4, sregs.efer) = (0x8000_0021, 0x220, 0xd00);
    (sregs.cs.l, sregs.cr3) = (1, 0x1000);
}

#[test]
fn after_creation_a_vcpu_is_as_after_a_reset() {
    let vm = plain(true);
    let regs: KvmRegs = vm.get(KVM_GET_REGS);
    assert_eq!((regs.rip, regs.rflags, regs.rdx), (0xfff0, 2, 0x600));
    let sregs: KvmSregs = vm.get(KVM_GET_SREGS);
    assert_eq!((sregs.cr0, sregs.cr4, sregs.efer), (0x6000_0010, 0, 0));
    let cs = (sregs.cs.selector, sregs.cs.base, sregs.cs.r#type);
    assert_eq!(cs, (0xf000, 0xffff_0000, 11));
    assert_eq!(
        (sregs.ds.r#type, sregs.tr.r#type, sregs.ldt.r#type),
        (3, 11, 2)
    );
    assert_eq!((sregs.idt.limit, sregs.apic_base), (0xffff, 0xfee0_0900));
    let debug: KvmDebugregs = vm.get(KVM_GET_DEBUGREGS);
    assert_eq!((debug.dr6, debug.dr7), (0xffff_0ff0, 0x400));
    let xcrs: KvmXcrs = vm.get(KVM_GET_XCRS);
    assert_eq!((xcrs.nr_xcrs, xcrs.xcrs[0].value), (1, 1));
    let fpu: KvmFpu = vm.get(KVM_GET_FPU);
    assert_eq!((fpu.fcw, fpu.mxcsr), (0x37f, 0));
    let xsave: [u8; KVM_XSAVE_BYTES] = vm.get(KVM_GET_XSAVE);
    assert_eq!(
        (&xsave[..2], &xsave[24..26]),
        (&[0x7f, 3][..], &[0x80, 0x1f][..])
    );
    let lapic: [u8; KVM_APIC_REG_SIZE] = vm.get(KVM_GET_LAPIC);
    let word = |at: usize| u32::from_le_bytes(lapic[at..at + 4].try_into().unwrap());
    assert_eq!((word(0x20), word(0x30), word(0xf0)), (0, 0x0005_0014, 0xff));
    assert_eq!((word(0x320), word(0x350)), (0x1_0000, 0x700));
    assert_eq!(
        (vm.msr(0xc000_0080), vm.msr(0x277)),
        (Some(0), Some(0x0007_0406_0007_0406))
    );
    assert_eq!(vm.msr(0xdead), None);
}

#[test]
fn what_is_set_is_read_back() {
    let vm = plain(false);
    vm.give_cpuid();
    let mut regs: KvmRegs = vm.get(KVM_GET_REGS);
    (regs.rax, regs.rip, regs.rflags) = (7, 0x1234, 0);
    assert_eq!(vm.set(KVM_SET_REGS, &regs), Ok(0));
    regs.rflags = 2;
    assert_eq!(vm.get::<KvmRegs>(KVM_GET_REGS), regs);
    let mut sregs: KvmSregs = vm.get(KVM_GET_SREGS);
    long_mode(&mut sregs);
    (sregs.fs.base, sregs.cr8) = (0xffff_8000_0000_0000, 5);
    sregs.interrupt_bitmap[1] = 1 << 3;
    // Not present, so unusable; and LDTR is not marked accessed.
    (sregs.ldt.present, sregs.gs.r#type) = (0, 2);
    assert_eq!(vm.set(KVM_SET_SREGS, &sregs), Ok(0));
    (sregs.ldt.unusable, sregs.gs.r#type) = (1, 3);
    assert_eq!(vm.get::<KvmSregs>(KVM_GET_SREGS), sregs);
    assert_eq!(vm.msr(0xc000_0100), Some(0xffff_8000_0000_0000));
    assert!(vm.set_msr(0xc000_0101, 0x1000));
    assert_eq!(vm.get::<KvmSregs>(KVM_GET_SREGS).gs.base, 0x1000);
    let mut debug: KvmDebugregs = vm.get(KVM_GET_DEBUGREGS);
    debug.db = [1, 2, 3, 4];
    assert_eq!(vm.set(KVM_SET_DEBUGREGS, &debug), Ok(0));
    assert_eq!(vm.get::<KvmDebugregs>(KVM_GET_DEBUGREGS), debug);
    let mut fpu: KvmFpu = vm.get(KVM_GET_FPU);
    (fpu.fpr[7], fpu.xmm[15], fpu.last_ip) = ([9; 16], [8; 16], 77);
    assert_eq!(vm.set(KVM_SET_FPU, &fpu), Ok(0));
    assert_eq!(vm.get::<KvmFpu>(KVM_GET_FPU), fpu);
}

#[test]
fn an_xsave_area_reads_as_initial_where_it_is_not_in_use() {
    let vm = plain(false);
    vm.give_cpuid();
    let mut area: [u8; KVM_XSAVE_BYTES] = vm.get(KVM_GET_XSAVE2);
    area[160] = 5;
    assert_eq!(vm.set(KVM_SET_XSAVE, &area), Ok(0));
    assert_eq!(vm.get::<[u8; KVM_XSAVE_BYTES]>(KVM_GET_XSAVE)[160], 0);
    area[512] = 2;
    assert_eq!(vm.set(KVM_SET_XSAVE, &area), Ok(0));
    assert_eq!(vm.get::<[u8; KVM_XSAVE_BYTES]>(KVM_GET_XSAVE)[160], 5);
    // Bits that no processor has: a component, the header, MXCSR.
    for (at, value) in [(519, 0x40), (520, 1), (530, 1), (27, 1)] {
        let mut bad = area;
        bad[at] = value;
        assert_eq!(vm.set(KVM_SET_XSAVE, &bad), Err(Errno::EINVAL), "byte {at}");
    }
}

#[test]
fn control_registers_that_the_guests_processor_lacks_are_refused_and_change_nothing() {
    let vm = plain(false);
    let refused = |edit: &dyn Fn(&mut KvmSregs)| {
        let before: KvmSregs = vm.get(KVM_GET_SREGS);
        let mut sregs = before;
        edit(&mut sregs);
        assert_eq!(vm.set(KVM_SET_SREGS, &sregs), Err(Errno::EINVAL));
        assert_eq!(vm.get::<KvmSregs>(KVM_GET_SREGS), before);
    };
    // Without CPUID there is no feature, long mode included.
    for bit in [11, 12, 13, 14, 16, 17, 18, 20, 21, 22, 23, 28] {
        refused(&|s| s.cr4 |= 1 << bit);
    }
    refused(&|s| s.efer = 1 << 8);
    refused(&|s| s.efer = 1 << 11);
    vm.give_cpuid();
    // SMX is no guest's, whatever CPUID says.
    refused(&|s| s.cr4 |= 1 << 14);
    refused(&|s| s.cr0 = 1 << 29);
    refused(&|s| s.cr0 = 1 << 31);
    refused(&|s| s.cr0 |= 1 << 40);
    refused(&|s| s.efer = 1 << 12);
    refused(&|s| s.cs.l = 1);
    refused(&|s| s.apic_base = 1 << 10);
    refused(&|s| s.apic_base |= 1);
    refused(&|s| s.apic_base = 1 << 60);
    refused(&|s| {
        long_mode(s);
        s.cr4 = 0;
    });
    refused(&|s| {
        long_mode(s);
        s.efer = 1 << 8;
    });
    refused(&|s| {
        long_mode(s);
        s.cr3 = 1 << 55;
    });
}

#[test]
fn pdptrs_come_with_pae_paging_only() {
    let vm = plain(false);
    vm.give_cpuid();
    let mut sregs: KvmSregs2 = vm.get(KVM_GET_SREGS2);
    assert_eq!(sregs.flags, 0);
    (sregs.flags, sregs.pdptrs) = (1, [1, 2, 3, 4]);
    assert_eq!(vm.set(KVM_SET_SREGS2, &sregs), Err(Errno::EINVAL));
    (sregs.cr0, sregs.cr4) = (0x8000_0011, 0x20);
    assert_eq!(vm.set(KVM_SET_SREGS2, &sregs), Ok(0));
    let back: KvmSregs2 = vm.get(KVM_GET_SREGS2);
    assert_eq!((back.flags, back.pdptrs), (1, [1, 2, 3, 4]));
    sregs.flags = 2;
    assert_eq!(vm.set(KVM_SET_SREGS2, &sregs), Err(Errno::EINVAL));
}

#[test]
fn cpuid_follows_cr4_xcr0_and_the_apic_base() {
    let vm = plain(false);
    vm.give_cpuid();
    let shown = || {
        let leaf_1 = vm.leaf(1, 0);
        (
            leaf_1.ecx >> 27 & 1,
            leaf_1.edx >> 9 & 1,
            vm.leaf(0xd, 0).ebx,
        )
    };
    assert_eq!(shown(), (0, 1, 576));
    let mut sregs: KvmSregs = vm.get(KVM_GET_SREGS);
    (sregs.cr4, sregs.apic_base) = (1 << 18, 0xfee0_0000);
    assert_eq!(vm.set(KVM_SET_SREGS, &sregs), Ok(0));
    let mut xcrs: KvmXcrs = vm.get(KVM_GET_XCRS);
    xcrs.xcrs[0].value = 7;
    assert_eq!(vm.set(KVM_SET_XCRS, &xcrs), Ok(0));
    assert_eq!(shown(), (1, 0, 832));
    // x87 is always on; YMM needs SSE; AVX-512 comes whole.
    for value in [0, 5, 0x27, 1 << 9 | 6, 1 << 62 | 1] {
        xcrs.xcrs[0].value = value;
        assert_eq!(
            vm.set(KVM_SET_XCRS, &xcrs),
            Err(Errno::EINVAL),
            "{value:#x}"
        );
    }
}

#[test]
fn msrs_keep_what_they_may_hold() {
    let vm = plain(false);
    vm.give_cpuid();
    for (msr, good, bad) in [
        (0x3a, 5, 8),
        (0x1b, 0xfee0_0d00, 0x400),
        (0x277, 0x0606_0606_0606_0606, 2),
        (0x400, u64::MAX, 2),
        (0xda0, 1 << 11, 1),
        (0xc000_0080, 0xd01, 1 << 12),
        (0xc000_0082, 0xffff_8000_0000_0000, 1 << 60),
        (0x4b56_4d05, 0, 2),
        (0x140, 1, 2),
    ] {
        assert!(vm.set_msr(msr, good), "{msr:#x}");
        assert!(!vm.set_msr(msr, bad), "{msr:#x}");
        // EFER.LMA follows from the mode.
        let kept = if msr == 0xc000_0080 {
            good & !0x400
        } else {
            good
        };
        assert_eq!(vm.msr(msr), Some(kept), "{msr:#x}");
    }
    assert!(!vm.set_msr(0xfe, 0x508));
}

#[test]
fn the_local_apic_is_there_with_an_irqchip_and_its_priority_is_cr8() {
    let without = plain(false);
    let page = without.vmm.process.map(4096);
    let none = Err(Errno::EINVAL);
    assert_eq!(without.vmm.ioctl(without.vcpu, KVM_GET_LAPIC, page), none);
    assert_eq!(without.vmm.ioctl(without.vcpu, KVM_SET_LAPIC, 0x10), none);
    let vm = plain(true);
    let mut lapic: [u8; KVM_APIC_REG_SIZE] = vm.get(KVM_GET_LAPIC);
    lapic[0x80] = 0x50;
    assert_eq!(vm.set(KVM_SET_LAPIC, &lapic), Ok(0));
    assert_eq!(vm.get::<KvmSregs>(KVM_GET_SREGS).cr8, 5);
    // In x2APIC mode the id is the vCPU's, and in the upper byte for old user space.
    vm.give_cpuid();
    let second = vm.vmm.ioctl(vm.vm, KVM_CREATE_VCPU, 3).unwrap() as i32;
    let vm = Plain { vcpu: second, ..vm };
    vm.give_cpuid();
    assert!(vm.set_msr(0x1b, 0xfee0_0c00));
    assert_eq!(vm.set(KVM_SET_LAPIC, &lapic), Ok(0));
    assert_eq!(vm.get::<[u8; KVM_APIC_REG_SIZE]>(KVM_GET_LAPIC)[0x23], 3);
    assert_eq!(vm.vmm.enable_cap(vm.vm, KVM_CAP_X2APIC_API, 1), Ok(0));
    assert_eq!(vm.set(KVM_SET_LAPIC, &lapic), Err(Errno::EINVAL));
    assert_eq!(vm.get::<[u8; KVM_APIC_REG_SIZE]>(KVM_GET_LAPIC)[0x20], 3);
}

#[test]
fn kvm_run_answers_what_no_kernel_does_and_looks_at_the_rest_first() {
    let vm = plain(false);
    let run = || vm.vmm.ioctl(vm.vcpu, KVM_RUN, 0);
    assert_eq!(run(), Err(Errno::ENOSYS));
    vm.run_page(1, &[1]);
    assert_eq!(run(), Err(Errno::EINTR));
    vm.run_page(1, &[0]);
    vm.vmm.control.signal(false);
    assert_eq!(run(), Err(Errno::EINTR));
    vm.vmm.control.clear_signals();
    // Registers in the shared page: a set that is not there, then all three.
    vm.run_page(KVM_VALID_REGS_OFFSET, &[8]);
    assert_eq!(run(), Err(Errno::EINVAL));
    vm.run_page(KVM_VALID_REGS_OFFSET, &[7]);
    let mut regs: KvmRegs = vm.get(KVM_GET_REGS);
    regs.rbx = 0xb;
    vm.run_page(SYNC_REGS_OFFSET, regs.as_bytes());
    vm.run_page(KVM_DIRTY_REGS_OFFSET, &[1]);
    assert_eq!(run(), Err(Errno::ENOSYS));
    assert_eq!(vm.get::<KvmRegs>(KVM_GET_REGS).rbx, 0xb);
    let (mut dirty, mut cr0) = ([9; 8], [0; 8]);
    vm.read_run_page(KVM_DIRTY_REGS_OFFSET, &mut dirty);
    vm.read_run_page(SYNC_REGS_OFFSET + 144 + 224, &mut cr0);
    assert_eq!((dirty, u64::from_le_bytes(cr0)), ([0; 8], 0x6000_0010));
}

#[test]
fn an_interrupt_and_debugging_are_kept_as_events() {
    let vm = plain(false);
    assert_eq!(vm.set(KVM_INTERRUPT, &0x41u32), Ok(0));
    let sregs: KvmSregs = vm.get(KVM_GET_SREGS);
    assert_eq!(sregs.interrupt_bitmap, [0, 2, 0, 0]);
    let mut debug = KvmGuestDebug::new_zeroed();
    debug.control = 1 | 1 << 19;
    assert_eq!(vm.set(KVM_SET_GUEST_DEBUG, &debug), Ok(0));
    assert_eq!(vm.set(KVM_SET_GUEST_DEBUG, &debug), Err(Errno::EBUSY));
    let events: KvmVcpuEvents = vm.get(KVM_GET_VCPU_EVENTS);
    assert_eq!((events.exception_injected, events.exception_nr), (1, 3));
}

#[test]
fn prefaulting_maps_ordinary_memory_whatever_the_width_of_the_vcpus_addresses() {
    let plain = plain(false);
    plain.give_cpuid();
    let mut region = KvmUserspaceMemoryRegion {
        memory_size: 0x4000,
        userspace_addr: plain.vmm.process.map(0x4000),
        ..Default::default()
    };
    let set = |region: &mut _| {
        plain
            .vmm
            .ioctl_with(plain.vm, KVM_SET_USER_MEMORY_REGION, region)
    };
    assert_eq!(set(&mut region), Ok(0));
    let prefault = |size| {
        let mut range = KvmPreFaultMemory {
            gpa: 0,
            size,
            ..Default::default()
        };
        let result = plain
            .vmm
            .ioctl_with(plain.vcpu, KVM_PRE_FAULT_MEMORY, &mut range);
        (result, range.gpa, range.size)
    };
    assert_eq!(prefault(0x4000), (Ok(0), 0x4000, 0));
    // What is beyond the slot is told once nothing is left before it, and the VM lives.
    assert_eq!(prefault(0x5000), (Ok(0), 0x4000, 0x1000));
    let beyond = plain.vmm.ioctl_with(
        plain.vcpu,
        KVM_PRE_FAULT_MEMORY,
        &mut KvmPreFaultMemory {
            gpa: 0x4000,
            size: 0x1000,
            ..Default::default()
        },
    );
    assert_eq!(beyond, Err(Errno::ENOENT));
    assert!(plain.vmm.host.live_vms()[0].bugs().is_empty());
}
