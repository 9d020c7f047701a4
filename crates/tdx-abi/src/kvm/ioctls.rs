//! Every KVM ioctl that x86 has.
//!
//! Source: Linux v7.3.4 `include/uapi/linux/kvm.h`; scopes from `virt/kvm/kvm_main.c` and
//! `arch/x86/kvm/x86.c`.

use super::ioc::{_io, _ior, _iow, _iowr, IoctlInfo, Scope};

macro_rules! ioctls {
    ($($(#[$doc:meta])* $name:ident = $request:expr, $scope:expr;)*) => {
        $(
            #[doc = concat!("`", stringify!($name), "`.")]
            #[doc = ""]
            $(#[$doc])*
            pub const $name: u32 = $request;
        )*

        /// Every ioctl: system ones first, then VM, then vCPU, each by number.
        pub const IOCTLS: &[IoctlInfo] =
            &[$(IoctlInfo::new(stringify!($name), $name, $scope),)*];
    };
}

ioctls! {
    /// Argument: an immediate or nothing.
    KVM_GET_API_VERSION = _io(0x00), Scope::SYSTEM;
    /// Argument: an immediate or nothing.
    KVM_CREATE_VM = _io(0x01), Scope::SYSTEM;
    /// Argument: `kvm_msr_list`.
    KVM_GET_MSR_INDEX_LIST = _iowr(0x02, 4), Scope::SYSTEM;
    /// Argument: an immediate or nothing.
    KVM_CHECK_EXTENSION = _io(0x03), Scope::SYSTEM.union(Scope::VM);
    /// Argument: an immediate or nothing.
    KVM_GET_VCPU_MMAP_SIZE = _io(0x04), Scope::SYSTEM;
    /// Argument: `kvm_cpuid2`.
    KVM_GET_SUPPORTED_CPUID = _iowr(0x05, 8), Scope::SYSTEM;
    /// Argument: `kvm_cpuid2`.
    KVM_GET_EMULATED_CPUID = _iowr(0x09, 8), Scope::SYSTEM;
    /// Argument: `kvm_msr_list`.
    KVM_GET_MSR_FEATURE_INDEX_LIST = _iowr(0x0a, 4), Scope::SYSTEM;
    /// Argument: `kvm_msrs`.
    KVM_GET_MSRS = _iowr(0x88, 8), Scope::SYSTEM.union(Scope::VCPU);
    /// Argument: `__u64`.
    KVM_X86_GET_MCE_CAP_SUPPORTED = _ior(0x9d, 8), Scope::SYSTEM;
    /// Argument: `kvm_cpuid2`.
    KVM_GET_SUPPORTED_HV_CPUID = _iowr(0xc1, 8), Scope::SYSTEM.union(Scope::VCPU);
    /// Argument: an immediate or nothing.
    KVM_CREATE_VCPU = _io(0x41), Scope::VM;
    /// Argument: `kvm_dirty_log`.
    KVM_GET_DIRTY_LOG = _iow(0x42, 16), Scope::VM;
    /// Argument: an immediate or nothing.
    KVM_SET_NR_MMU_PAGES = _io(0x44), Scope::VM;
    /// Argument: an immediate or nothing.
    KVM_GET_NR_MMU_PAGES = _io(0x45), Scope::VM;
    /// Argument: `kvm_userspace_memory_region`.
    KVM_SET_USER_MEMORY_REGION = _iow(0x46, 32), Scope::VM;
    /// Argument: an immediate or nothing.
    KVM_SET_TSS_ADDR = _io(0x47), Scope::VM;
    /// Argument: `__u64`.
    KVM_SET_IDENTITY_MAP_ADDR = _iow(0x48, 8), Scope::VM;
    /// Argument: `kvm_userspace_memory_region2`.
    KVM_SET_USER_MEMORY_REGION2 = _iow(0x49, 160), Scope::VM;
    /// Argument: an immediate or nothing.
    KVM_CREATE_IRQCHIP = _io(0x60), Scope::VM;
    /// Argument: `kvm_irq_level`.
    KVM_IRQ_LINE = _iow(0x61, 8), Scope::VM;
    /// Argument: `kvm_irqchip`.
    KVM_GET_IRQCHIP = _iowr(0x62, 520), Scope::VM;
    /// Argument: `kvm_irqchip`.
    KVM_SET_IRQCHIP = _ior(0x63, 520), Scope::VM;
    /// Argument: an immediate or nothing.
    KVM_CREATE_PIT = _io(0x64), Scope::VM;
    /// Argument: `kvm_pit_state`.
    KVM_GET_PIT = _iowr(0x65, 72), Scope::VM;
    /// Argument: `kvm_pit_state`.
    KVM_SET_PIT = _ior(0x66, 72), Scope::VM;
    /// Argument: `kvm_coalesced_mmio_zone`.
    KVM_REGISTER_COALESCED_MMIO = _iow(0x67, 16), Scope::VM;
    /// Argument: `kvm_irq_level`.
    KVM_IRQ_LINE_STATUS = _iowr(0x67, 8), Scope::VM;
    /// Argument: `kvm_coalesced_mmio_zone`.
    KVM_UNREGISTER_COALESCED_MMIO = _iow(0x68, 16), Scope::VM;
    /// Argument: `kvm_irq_routing`.
    KVM_SET_GSI_ROUTING = _iow(0x6a, 8), Scope::VM;
    /// Argument: an immediate or nothing.
    KVM_REINJECT_CONTROL = _io(0x71), Scope::VM;
    /// Argument: `kvm_irqfd`.
    KVM_IRQFD = _iow(0x76, 32), Scope::VM;
    /// Argument: `kvm_pit_config`.
    KVM_CREATE_PIT2 = _iow(0x77, 64), Scope::VM;
    /// Argument: an immediate or nothing.
    KVM_SET_BOOT_CPU_ID = _io(0x78), Scope::VM;
    /// Argument: `kvm_ioeventfd`.
    KVM_IOEVENTFD = _iow(0x79, 64), Scope::VM;
    /// Argument: `kvm_xen_hvm_config`.
    KVM_XEN_HVM_CONFIG = _iow(0x7a, 56), Scope::VM;
    /// Argument: `kvm_clock_data`.
    KVM_SET_CLOCK = _iow(0x7b, 48), Scope::VM;
    /// Argument: `kvm_clock_data`.
    KVM_GET_CLOCK = _ior(0x7c, 48), Scope::VM;
    /// Argument: `kvm_pit_state2`.
    KVM_GET_PIT2 = _ior(0x9f, 112), Scope::VM;
    /// Argument: `kvm_pit_state2`.
    KVM_SET_PIT2 = _iow(0xa0, 112), Scope::VM;
    /// Argument: an immediate or nothing.
    KVM_SET_TSC_KHZ = _io(0xa2), Scope::VM.union(Scope::VCPU);
    /// Argument: an immediate or nothing.
    KVM_GET_TSC_KHZ = _io(0xa3), Scope::VM.union(Scope::VCPU);
    /// Argument: `kvm_enable_cap`.
    KVM_ENABLE_CAP = _iow(0xa3, 104), Scope::VM.union(Scope::VCPU);
    /// Argument: `kvm_msi`.
    KVM_SIGNAL_MSI = _iow(0xa5, 32), Scope::VM;
    /// Argument: `kvm_pmu_event_filter`.
    KVM_SET_PMU_EVENT_FILTER = _iow(0xb2, 32), Scope::VM;
    /// Argument: `unsigned long`.
    KVM_MEMORY_ENCRYPT_OP = _iowr(0xba, 8), Scope::VM.union(Scope::VCPU);
    /// Argument: `kvm_enc_region`.
    KVM_MEMORY_ENCRYPT_REG_REGION = _ior(0xbb, 16), Scope::VM;
    /// Argument: `kvm_enc_region`.
    KVM_MEMORY_ENCRYPT_UNREG_REGION = _ior(0xbc, 16), Scope::VM;
    /// Argument: `kvm_hyperv_eventfd`.
    KVM_HYPERV_EVENTFD = _iow(0xbd, 24), Scope::VM;
    /// Argument: `kvm_clear_dirty_log`.
    KVM_CLEAR_DIRTY_LOG = _iowr(0xc0, 24), Scope::VM;
    /// Argument: `kvm_msr_filter`.
    KVM_X86_SET_MSR_FILTER = _iow(0xc6, 392), Scope::VM;
    /// Argument: an immediate or nothing.
    KVM_RESET_DIRTY_RINGS = _io(0xc7), Scope::VM;
    /// Argument: `kvm_xen_hvm_attr`.
    KVM_XEN_HVM_GET_ATTR = _iowr(0xc8, 72), Scope::VM;
    /// Argument: `kvm_xen_hvm_attr`.
    KVM_XEN_HVM_SET_ATTR = _iow(0xc9, 72), Scope::VM;
    /// Argument: an immediate or nothing.
    KVM_GET_STATS_FD = _io(0xce), Scope::VM.union(Scope::VCPU);
    /// Argument: `kvm_irq_routing_xen_evtchn`.
    KVM_XEN_HVM_EVTCHN_SEND = _iow(0xd0, 12), Scope::VM;
    /// Argument: `kvm_memory_attributes`.
    KVM_SET_MEMORY_ATTRIBUTES = _iow(0xd2, 32), Scope::VM;
    /// Argument: `kvm_create_guest_memfd`.
    KVM_CREATE_GUEST_MEMFD = _iowr(0xd4, 64), Scope::VM;
    /// Argument: `kvm_create_device`.
    KVM_CREATE_DEVICE = _iowr(0xe0, 12), Scope::VM;
    /// Argument: `kvm_device_attr`.
    KVM_SET_DEVICE_ATTR = _iow(0xe1, 24), Scope::all();
    /// Argument: `kvm_device_attr`.
    KVM_GET_DEVICE_ATTR = _iow(0xe2, 24), Scope::all();
    /// Argument: `kvm_device_attr`.
    KVM_HAS_DEVICE_ATTR = _iow(0xe3, 24), Scope::all();
    /// Argument: an immediate or nothing.
    KVM_RUN = _io(0x80), Scope::VCPU;
    /// Argument: `kvm_regs`.
    KVM_GET_REGS = _ior(0x81, 144), Scope::VCPU;
    /// Argument: `kvm_regs`.
    KVM_SET_REGS = _iow(0x82, 144), Scope::VCPU;
    /// Argument: `kvm_sregs`.
    KVM_GET_SREGS = _ior(0x83, 312), Scope::VCPU;
    /// Argument: `kvm_sregs`.
    KVM_SET_SREGS = _iow(0x84, 312), Scope::VCPU;
    /// Argument: `kvm_translation`.
    KVM_TRANSLATE = _iowr(0x85, 24), Scope::VCPU;
    /// Argument: `kvm_interrupt`.
    KVM_INTERRUPT = _iow(0x86, 4), Scope::VCPU;
    /// Argument: `kvm_msrs`.
    KVM_SET_MSRS = _iow(0x89, 8), Scope::VCPU;
    /// Argument: `kvm_cpuid`.
    KVM_SET_CPUID = _iow(0x8a, 8), Scope::VCPU;
    /// Argument: `kvm_signal_mask`.
    KVM_SET_SIGNAL_MASK = _iow(0x8b, 4), Scope::VCPU;
    /// Argument: `kvm_fpu`.
    KVM_GET_FPU = _ior(0x8c, 416), Scope::VCPU;
    /// Argument: `kvm_fpu`.
    KVM_SET_FPU = _iow(0x8d, 416), Scope::VCPU;
    /// Argument: `kvm_lapic_state`.
    KVM_GET_LAPIC = _ior(0x8e, 1024), Scope::VCPU;
    /// Argument: `kvm_lapic_state`.
    KVM_SET_LAPIC = _iow(0x8f, 1024), Scope::VCPU;
    /// Argument: `kvm_cpuid2`.
    KVM_SET_CPUID2 = _iow(0x90, 8), Scope::VCPU;
    /// Argument: `kvm_cpuid2`.
    KVM_GET_CPUID2 = _iowr(0x91, 8), Scope::VCPU;
    /// Argument: `kvm_tpr_access_ctl`.
    KVM_TPR_ACCESS_REPORTING = _iowr(0x92, 40), Scope::VCPU;
    /// Argument: `kvm_vapic_addr`.
    KVM_SET_VAPIC_ADDR = _iow(0x93, 8), Scope::VCPU;
    /// Argument: `kvm_mp_state`.
    KVM_GET_MP_STATE = _ior(0x98, 4), Scope::VCPU;
    /// Argument: `kvm_mp_state`.
    KVM_SET_MP_STATE = _iow(0x99, 4), Scope::VCPU;
    /// Argument: an immediate or nothing.
    KVM_NMI = _io(0x9a), Scope::VCPU;
    /// Argument: `kvm_guest_debug`.
    KVM_SET_GUEST_DEBUG = _iow(0x9b, 72), Scope::VCPU;
    /// Argument: `__u64`.
    KVM_X86_SETUP_MCE = _iow(0x9c, 8), Scope::VCPU;
    /// Argument: `kvm_x86_mce`.
    KVM_X86_SET_MCE = _iow(0x9e, 64), Scope::VCPU;
    /// Argument: `kvm_vcpu_events`.
    KVM_GET_VCPU_EVENTS = _ior(0x9f, 64), Scope::VCPU;
    /// Argument: `kvm_vcpu_events`.
    KVM_SET_VCPU_EVENTS = _iow(0xa0, 64), Scope::VCPU;
    /// Argument: `kvm_debugregs`.
    KVM_GET_DEBUGREGS = _ior(0xa1, 128), Scope::VCPU;
    /// Argument: `kvm_debugregs`.
    KVM_SET_DEBUGREGS = _iow(0xa2, 128), Scope::VCPU;
    /// Argument: `kvm_xsave`.
    KVM_GET_XSAVE = _ior(0xa4, 4096), Scope::VCPU;
    /// Argument: `kvm_xsave`.
    KVM_SET_XSAVE = _iow(0xa5, 4096), Scope::VCPU;
    /// Argument: `kvm_xcrs`.
    KVM_GET_XCRS = _ior(0xa6, 392), Scope::VCPU;
    /// Argument: `kvm_xcrs`.
    KVM_SET_XCRS = _iow(0xa7, 392), Scope::VCPU;
    /// Argument: `kvm_one_reg`.
    KVM_GET_ONE_REG = _iow(0xab, 16), Scope::VCPU;
    /// Argument: `kvm_one_reg`.
    KVM_SET_ONE_REG = _iow(0xac, 16), Scope::VCPU;
    /// Argument: an immediate or nothing.
    KVM_KVMCLOCK_CTRL = _io(0xad), Scope::VCPU;
    /// Argument: `kvm_reg_list`.
    KVM_GET_REG_LIST = _iowr(0xb0, 8), Scope::VCPU;
    /// Argument: an immediate or nothing.
    KVM_SMI = _io(0xb7), Scope::VCPU;
    /// Argument: `kvm_nested_state`.
    KVM_GET_NESTED_STATE = _iowr(0xbe, 128), Scope::VCPU;
    /// Argument: `kvm_nested_state`.
    KVM_SET_NESTED_STATE = _iow(0xbf, 128), Scope::VCPU;
    /// Argument: `kvm_xen_vcpu_attr`.
    KVM_XEN_VCPU_GET_ATTR = _iowr(0xca, 72), Scope::VCPU;
    /// Argument: `kvm_xen_vcpu_attr`.
    KVM_XEN_VCPU_SET_ATTR = _iow(0xcb, 72), Scope::VCPU;
    /// Argument: `kvm_sregs2`.
    KVM_GET_SREGS2 = _ior(0xcc, 320), Scope::VCPU;
    /// Argument: `kvm_sregs2`.
    KVM_SET_SREGS2 = _iow(0xcd, 320), Scope::VCPU;
    /// Argument: `kvm_xsave`.
    KVM_GET_XSAVE2 = _ior(0xcf, 4096), Scope::VCPU;
    /// Argument: `kvm_pre_fault_memory`.
    KVM_PRE_FAULT_MEMORY = _iowr(0xd5, 64), Scope::VCPU;
}

/// The ioctl of a request number, if x86 has it.
pub fn ioctl_info(request: u32) -> Option<&'static IoctlInfo> {
    IOCTLS.iter().find(|info| info.request == request)
}
