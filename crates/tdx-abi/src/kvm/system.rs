//! VM-wide and device structures: capabilities, clock, MSR filter, device attributes.
//!
//! Source: Linux v7.3.4 `include/uapi/linux/kvm.h` and `arch/x86/include/uapi/asm/kvm.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::assert_layout;

/// What `KVM_GET_API_VERSION` returns.
pub const KVM_API_VERSION: i32 = 12;
/// VM type: an ordinary VM.
pub const KVM_X86_DEFAULT_VM: u64 = 0;
/// VM type: private memory in software.
pub const KVM_X86_SW_PROTECTED_VM: u64 = 1;
/// VM type: SEV.
pub const KVM_X86_SEV_VM: u64 = 2;
/// VM type: SEV-ES.
pub const KVM_X86_SEV_ES_VM: u64 = 3;
/// VM type: SEV-SNP.
pub const KVM_X86_SNP_VM: u64 = 4;
/// VM type: TDX.
pub const KVM_X86_TDX_VM: u64 = 5;
/// `KVM_CAP_X2APIC_API` argument: APIC ids have 32 bits.
pub const KVM_X2APIC_API_USE_32BIT_IDS: u64 = 1;
/// `KVM_CAP_X2APIC_API` argument: id 0xff is no broadcast.
pub const KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK: u64 = 1 << 1;
/// Attribute group of `/dev/kvm`.
pub const KVM_X86_GRP_SYSTEM: u32 = 0;
/// Attribute: XCR0 and IA32_XSS bits a guest may use.
pub const KVM_X86_XCOMP_GUEST_SUPP: u64 = 0;
/// Attribute group of a vCPU: TSC.
pub const KVM_VCPU_TSC_CTRL: u32 = 0;
/// Attribute: TSC offset.
pub const KVM_VCPU_TSC_OFFSET: u64 = 0;
/// The range filters reads.
pub const KVM_MSR_FILTER_READ: u32 = 1;
/// The range filters writes.
pub const KVM_MSR_FILTER_WRITE: u32 = 1 << 1;
/// MSRs outside of ranges are refused.
pub const KVM_MSR_FILTER_DEFAULT_DENY: u32 = 1;
/// Most bytes in a bitmap.
pub const KVM_MSR_FILTER_MAX_BITMAP_SIZE: u32 = 0x600;
/// The clock is based on a stable TSC.
pub const KVM_CLOCK_TSC_STABLE: u32 = 2;
/// `realtime` is valid.
pub const KVM_CLOCK_REALTIME: u32 = 1 << 2;
/// `host_tsc` is valid.
pub const KVM_CLOCK_HOST_TSC: u32 = 1 << 3;
/// Only test whether the type is supported.
pub const KVM_CREATE_DEVICE_TEST: u32 = 1;
/// Device type: VFIO.
pub const KVM_DEV_TYPE_VFIO: u32 = 4;
/// `KVM_CAP_X86_BUS_LOCK_EXIT` argument: off.
pub const KVM_BUS_LOCK_DETECTION_OFF: u64 = 1;
/// `KVM_CAP_X86_BUS_LOCK_EXIT` argument: exit.
pub const KVM_BUS_LOCK_DETECTION_EXIT: u64 = 1 << 1;
/// `KVM_CAP_X86_NOTIFY_VMEXIT` argument: on.
pub const KVM_X86_NOTIFY_VMEXIT_ENABLED: u64 = 1;
/// `KVM_CAP_X86_NOTIFY_VMEXIT` argument: exit to user space.
pub const KVM_X86_NOTIFY_VMEXIT_USER: u64 = 1 << 1;
/// `KVM_CAP_PMU_CAPABILITY` argument: no PMU.
pub const KVM_PMU_CAP_DISABLE: u64 = 1;
/// KVM_CAP_DISABLE_QUIRKS2: writes of IA32_MISC_ENABLE need no MONITOR in the guest's CPUID.
pub const KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT: u64 = 1 << 4;
/// KVM_CAP_DISABLE_QUIRKS2: feature MSRs start as what KVM supports.
pub const KVM_X86_QUIRK_STUFF_FEATURE_MSRS: u64 = 1 << 8;
/// KVM_CAP_DISABLE_QUIRKS2: the guest's memory types do not count.
pub const KVM_X86_QUIRK_IGNORE_GUEST_PAT: u64 = 1 << 9;

/// `struct kvm_enable_cap`, 104 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct KvmEnableCap {
    /// `KVM_CAP_*`.
    pub cap: u32,
    /// Must be zero.
    pub flags: u32,
    /// Depend on the capability.
    pub args: [u64; 4],
    /// Zero.
    pub pad: [u8; 64],
}

/// `struct kvm_create_device`, 12 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmCreateDevice {
    /// `KVM_DEV_TYPE_*`.
    pub r#type: u32,
    /// Out: the device.
    pub fd: u32,
    /// `KVM_CREATE_DEVICE_TEST` or zero.
    pub flags: u32,
}

/// `struct kvm_device_attr`, 24 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmDeviceAttr {
    /// Must be zero.
    pub flags: u32,
    /// Group.
    pub group: u32,
    /// Attribute in the group.
    pub attr: u64,
    /// User address of the value.
    pub addr: u64,
}

/// `struct kvm_clock_data`, 48 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmClockData {
    /// kvmclock, in nanoseconds.
    pub clock: u64,
    /// `KVM_CLOCK_*`.
    pub flags: u32,
    /// Zero.
    pub pad0: u32,
    /// Host real time, in nanoseconds.
    pub realtime: u64,
    /// Host TSC.
    pub host_tsc: u64,
    /// Zero.
    pub pad: [u32; 4],
}

/// `struct kvm_msr_filter_range`, 24 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmMsrFilterRange {
    /// `KVM_MSR_FILTER_READ` and `_WRITE`.
    pub flags: u32,
    /// MSRs in the bitmap.
    pub nmsrs: u32,
    /// First MSR.
    pub base: u32,
    /// Zero.
    pub padding: u32,
    /// User address of one bit for each MSR; 1 allows.
    pub bitmap: u64,
}

/// `struct kvm_msr_filter`, 392 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmMsrFilter {
    /// `KVM_MSR_FILTER_DEFAULT_DENY` or zero.
    pub flags: u32,
    /// Zero.
    pub padding: u32,
    /// Ranges; empty ones are skipped.
    pub ranges: [KvmMsrFilterRange; 16],
}

/// `struct kvm_pmu_event_filter` up to its events, 32 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmPmuEventFilter {
    /// 0 allow, 1 deny.
    pub action: u32,
    /// Number of events.
    pub nevents: u32,
    /// Fixed counters.
    pub fixed_counter_bitmap: u32,
    /// 1: events are masked.
    pub flags: u32,
    /// Zero.
    pub pad: [u32; 4],
}

assert_layout!(KvmEnableCap, size 104, cap @ 0, flags @ 4, args @ 8, pad @ 40);
assert_layout!(KvmCreateDevice, size 12, r#type @ 0, fd @ 4, flags @ 8);
assert_layout!(KvmDeviceAttr, size 24, flags @ 0, group @ 4, attr @ 8, addr @ 16);
assert_layout!(KvmClockData, size 48, clock @ 0, flags @ 8, pad0 @ 12, realtime @ 16, host_tsc @ 24, pad @ 32);
assert_layout!(KvmMsrFilterRange, size 24, flags @ 0, nmsrs @ 4, base @ 8, padding @ 12, bitmap @ 16);
assert_layout!(KvmMsrFilter, size 392, flags @ 0, padding @ 4, ranges @ 8);
assert_layout!(KvmPmuEventFilter, size 32, action @ 0, nevents @ 4, fixed_counter_bitmap @ 8, flags @ 12, pad @ 16);
