//! Numbers against the kernel's headers: printed by a C program built on Linux v7.3.4's UAPI.

use core::mem::size_of;
use std::collections::BTreeSet;

use super::*;

#[test]
fn requests_are_unique_and_take_themselves_apart() {
    let mut requests = BTreeSet::new();
    let mut names = BTreeSet::new();
    for info in IOCTLS {
        assert!(requests.insert(info.request), "{} twice", info.name);
        assert!(names.insert(info.name), "{} twice", info.name);
        assert_eq!(info.request >> 8 & 0xff, u32::from(KVMIO), "{}", info.name);
        assert!(!info.scope.is_empty(), "{}", info.name);
        assert_eq!(info.dir.is_empty(), info.size == 0, "{}", info.name);
        assert_eq!(ioctl_info(info.request), Some(info));
    }
    assert_eq!(ioctl_info(0xae06), None);
}

#[test]
fn requests_are_those_of_the_kernel_headers() {
    let expected: BTreeSet<(u32, &str)> = [
        (0x0000ae03, "KVM_CHECK_EXTENSION"),
        (0xc018aec0, "KVM_CLEAR_DIRTY_LOG"),
        (0xc00caee0, "KVM_CREATE_DEVICE"),
        (0xc040aed4, "KVM_CREATE_GUEST_MEMFD"),
        (0x0000ae60, "KVM_CREATE_IRQCHIP"),
        (0x0000ae64, "KVM_CREATE_PIT"),
        (0x4040ae77, "KVM_CREATE_PIT2"),
        (0x0000ae41, "KVM_CREATE_VCPU"),
        (0x0000ae01, "KVM_CREATE_VM"),
        (0x4068aea3, "KVM_ENABLE_CAP"),
        (0x0000ae00, "KVM_GET_API_VERSION"),
        (0x8030ae7c, "KVM_GET_CLOCK"),
        (0xc008ae91, "KVM_GET_CPUID2"),
        (0x8080aea1, "KVM_GET_DEBUGREGS"),
        (0x4018aee2, "KVM_GET_DEVICE_ATTR"),
        (0x4010ae42, "KVM_GET_DIRTY_LOG"),
        (0xc008ae09, "KVM_GET_EMULATED_CPUID"),
        (0x81a0ae8c, "KVM_GET_FPU"),
        (0xc208ae62, "KVM_GET_IRQCHIP"),
        (0x8400ae8e, "KVM_GET_LAPIC"),
        (0x8004ae98, "KVM_GET_MP_STATE"),
        (0xc008ae88, "KVM_GET_MSRS"),
        (0xc004ae0a, "KVM_GET_MSR_FEATURE_INDEX_LIST"),
        (0xc004ae02, "KVM_GET_MSR_INDEX_LIST"),
        (0xc080aebe, "KVM_GET_NESTED_STATE"),
        (0x0000ae45, "KVM_GET_NR_MMU_PAGES"),
        (0x4010aeab, "KVM_GET_ONE_REG"),
        (0xc048ae65, "KVM_GET_PIT"),
        (0x8070ae9f, "KVM_GET_PIT2"),
        (0x8090ae81, "KVM_GET_REGS"),
        (0xc008aeb0, "KVM_GET_REG_LIST"),
        (0x8138ae83, "KVM_GET_SREGS"),
        (0x8140aecc, "KVM_GET_SREGS2"),
        (0x0000aece, "KVM_GET_STATS_FD"),
        (0xc008ae05, "KVM_GET_SUPPORTED_CPUID"),
        (0xc008aec1, "KVM_GET_SUPPORTED_HV_CPUID"),
        (0x0000aea3, "KVM_GET_TSC_KHZ"),
        (0x8040ae9f, "KVM_GET_VCPU_EVENTS"),
        (0x0000ae04, "KVM_GET_VCPU_MMAP_SIZE"),
        (0x8188aea6, "KVM_GET_XCRS"),
        (0x9000aea4, "KVM_GET_XSAVE"),
        (0x9000aecf, "KVM_GET_XSAVE2"),
        (0x4018aee3, "KVM_HAS_DEVICE_ATTR"),
        (0x4018aebd, "KVM_HYPERV_EVENTFD"),
        (0x4004ae86, "KVM_INTERRUPT"),
        (0x4040ae79, "KVM_IOEVENTFD"),
        (0x4020ae76, "KVM_IRQFD"),
        (0x4008ae61, "KVM_IRQ_LINE"),
        (0xc008ae67, "KVM_IRQ_LINE_STATUS"),
        (0x0000aead, "KVM_KVMCLOCK_CTRL"),
        (0xc008aeba, "KVM_MEMORY_ENCRYPT_OP"),
        (0x8010aebb, "KVM_MEMORY_ENCRYPT_REG_REGION"),
        (0x8010aebc, "KVM_MEMORY_ENCRYPT_UNREG_REGION"),
        (0x0000ae9a, "KVM_NMI"),
        (0xc040aed5, "KVM_PRE_FAULT_MEMORY"),
        (0x4010ae67, "KVM_REGISTER_COALESCED_MMIO"),
        (0x0000ae71, "KVM_REINJECT_CONTROL"),
        (0x0000aec7, "KVM_RESET_DIRTY_RINGS"),
        (0x0000ae80, "KVM_RUN"),
        (0x0000ae78, "KVM_SET_BOOT_CPU_ID"),
        (0x4030ae7b, "KVM_SET_CLOCK"),
        (0x4008ae8a, "KVM_SET_CPUID"),
        (0x4008ae90, "KVM_SET_CPUID2"),
        (0x4080aea2, "KVM_SET_DEBUGREGS"),
        (0x4018aee1, "KVM_SET_DEVICE_ATTR"),
        (0x41a0ae8d, "KVM_SET_FPU"),
        (0x4008ae6a, "KVM_SET_GSI_ROUTING"),
        (0x4048ae9b, "KVM_SET_GUEST_DEBUG"),
        (0x4008ae48, "KVM_SET_IDENTITY_MAP_ADDR"),
        (0x8208ae63, "KVM_SET_IRQCHIP"),
        (0x4400ae8f, "KVM_SET_LAPIC"),
        (0x4020aed2, "KVM_SET_MEMORY_ATTRIBUTES"),
        (0x4004ae99, "KVM_SET_MP_STATE"),
        (0x4008ae89, "KVM_SET_MSRS"),
        (0x4080aebf, "KVM_SET_NESTED_STATE"),
        (0x0000ae44, "KVM_SET_NR_MMU_PAGES"),
        (0x4010aeac, "KVM_SET_ONE_REG"),
        (0x8048ae66, "KVM_SET_PIT"),
        (0x4070aea0, "KVM_SET_PIT2"),
        (0x4020aeb2, "KVM_SET_PMU_EVENT_FILTER"),
        (0x4090ae82, "KVM_SET_REGS"),
        (0x4004ae8b, "KVM_SET_SIGNAL_MASK"),
        (0x4138ae84, "KVM_SET_SREGS"),
        (0x4140aecd, "KVM_SET_SREGS2"),
        (0x0000aea2, "KVM_SET_TSC_KHZ"),
        (0x0000ae47, "KVM_SET_TSS_ADDR"),
        (0x4020ae46, "KVM_SET_USER_MEMORY_REGION"),
        (0x40a0ae49, "KVM_SET_USER_MEMORY_REGION2"),
        (0x4008ae93, "KVM_SET_VAPIC_ADDR"),
        (0x4040aea0, "KVM_SET_VCPU_EVENTS"),
        (0x4188aea7, "KVM_SET_XCRS"),
        (0x5000aea5, "KVM_SET_XSAVE"),
        (0x4020aea5, "KVM_SIGNAL_MSI"),
        (0x0000aeb7, "KVM_SMI"),
        (0xc028ae92, "KVM_TPR_ACCESS_REPORTING"),
        (0xc018ae85, "KVM_TRANSLATE"),
        (0x4010ae68, "KVM_UNREGISTER_COALESCED_MMIO"),
        (0x8008ae9d, "KVM_X86_GET_MCE_CAP_SUPPORTED"),
        (0x4008ae9c, "KVM_X86_SETUP_MCE"),
        (0x4040ae9e, "KVM_X86_SET_MCE"),
        (0x4188aec6, "KVM_X86_SET_MSR_FILTER"),
        (0x4038ae7a, "KVM_XEN_HVM_CONFIG"),
        (0x400caed0, "KVM_XEN_HVM_EVTCHN_SEND"),
        (0xc048aec8, "KVM_XEN_HVM_GET_ATTR"),
        (0x4048aec9, "KVM_XEN_HVM_SET_ATTR"),
        (0xc048aeca, "KVM_XEN_VCPU_GET_ATTR"),
        (0x4048aecb, "KVM_XEN_VCPU_SET_ATTR"),
    ]
    .into();
    let ours = IOCTLS
        .iter()
        .map(|info| (info.request, info.name))
        .collect();
    assert_eq!(expected, ours);
}

#[test]
fn argument_sizes_are_those_of_the_structures() {
    let sizes = [
        (
            KVM_SET_USER_MEMORY_REGION,
            size_of::<KvmUserspaceMemoryRegion>(),
        ),
        (
            KVM_SET_USER_MEMORY_REGION2,
            size_of::<KvmUserspaceMemoryRegion2>(),
        ),
        (KVM_SET_MEMORY_ATTRIBUTES, size_of::<KvmMemoryAttributes>()),
        (KVM_CREATE_GUEST_MEMFD, size_of::<KvmCreateGuestMemfd>()),
        (KVM_PRE_FAULT_MEMORY, size_of::<KvmPreFaultMemory>()),
        (KVM_GET_DIRTY_LOG, size_of::<KvmDirtyLog>()),
        (KVM_CLEAR_DIRTY_LOG, size_of::<KvmClearDirtyLog>()),
        (KVM_MEMORY_ENCRYPT_REG_REGION, size_of::<KvmEncRegion>()),
        (KVM_ENABLE_CAP, size_of::<KvmEnableCap>()),
        (KVM_CREATE_DEVICE, size_of::<KvmCreateDevice>()),
        (KVM_SET_DEVICE_ATTR, size_of::<KvmDeviceAttr>()),
        (KVM_GET_CLOCK, size_of::<KvmClockData>()),
        (KVM_X86_SET_MSR_FILTER, size_of::<KvmMsrFilter>()),
        (KVM_SET_PMU_EVENT_FILTER, size_of::<KvmPmuEventFilter>()),
        (KVM_IRQ_LINE, size_of::<KvmIrqLevel>()),
        (KVM_SET_GSI_ROUTING, size_of::<KvmIrqRouting>()),
        (KVM_IRQFD, size_of::<KvmIrqfd>()),
        (KVM_IOEVENTFD, size_of::<KvmIoeventfd>()),
        (KVM_SIGNAL_MSI, size_of::<KvmMsi>()),
        (KVM_INTERRUPT, size_of::<KvmInterrupt>()),
        (
            KVM_REGISTER_COALESCED_MMIO,
            size_of::<KvmCoalescedMmioZone>(),
        ),
        (KVM_CREATE_PIT2, size_of::<KvmPitConfig>()),
        (KVM_SET_CPUID2, size_of::<KvmCpuid2>()),
        (KVM_GET_REGS, size_of::<KvmRegs>()),
        (KVM_GET_SREGS, size_of::<KvmSregs>()),
        (KVM_GET_SREGS2, size_of::<KvmSregs2>()),
        (KVM_GET_FPU, size_of::<KvmFpu>()),
        (KVM_GET_MSRS, size_of::<KvmMsrs>()),
        (KVM_GET_MSR_INDEX_LIST, size_of::<KvmMsrList>()),
        (KVM_GET_MP_STATE, size_of::<KvmMpState>()),
        (KVM_GET_VCPU_EVENTS, size_of::<KvmVcpuEvents>()),
        (KVM_GET_DEBUGREGS, size_of::<KvmDebugregs>()),
        (KVM_GET_XCRS, size_of::<KvmXcrs>()),
        (KVM_SET_GUEST_DEBUG, size_of::<KvmGuestDebug>()),
        (KVM_TRANSLATE, size_of::<KvmTranslation>()),
        (KVM_TPR_ACCESS_REPORTING, size_of::<KvmTprAccessCtl>()),
        (KVM_SET_VAPIC_ADDR, size_of::<KvmVapicAddr>()),
        (KVM_SET_SIGNAL_MASK, size_of::<KvmSignalMask>()),
        (KVM_GET_ONE_REG, size_of::<KvmOneReg>()),
        (KVM_X86_SET_MCE, size_of::<KvmX86Mce>()),
        (KVM_GET_LAPIC, KVM_APIC_REG_SIZE),
        (KVM_GET_XSAVE, KVM_XSAVE_BYTES),
    ];
    for (request, size) in sizes {
        let info = ioctl_info(request).expect("a known request");
        assert_eq!(usize::from(info.size), size, "{}", info.name);
    }
    // The size field says a pointer, though the argument points to a command.
    assert_eq!(
        ioctl_info(KVM_MEMORY_ENCRYPT_OP).map(|info| info.size),
        Some(8)
    );
}

#[test]
fn exit_data_fits_in_the_union() {
    assert_eq!(size_of::<KvmRunHeader>(), EXIT_DATA_OFFSET);
    assert_eq!(EXIT_DATA_OFFSET + EXIT_DATA_BYTES, KVM_VALID_REGS_OFFSET);
    assert_eq!(SYNC_REGS_OFFSET + SYNC_REGS_SIZE_BYTES, KVM_RUN_BYTES);
    let sizes = [
        size_of::<KvmExitTdx>(),
        size_of::<KvmExitInternal>(),
        size_of::<KvmExitHypercall>(),
    ];
    assert!(sizes.iter().all(|size| *size <= EXIT_DATA_BYTES));
    assert_eq!(
        size_of::<KvmExitTdxGetTdvmcallInfo>(),
        size_of::<KvmExitTdx>()
    );
}

#[test]
fn tdx_commands_are_those_of_the_kernel() {
    assert_eq!(TdxCmdId::ALL.len(), KVM_TDX_CMD_NR_MAX as usize);
    for (index, (id, name)) in TdxCmdId::ALL.iter().enumerate() {
        assert_eq!((id.0 as usize, id.name()), (index, Some(*name)));
    }
    assert_eq!(TdxCmdId::KVM_TDX_GET_CPUID.0, 5);
}
