//! Xen's guest interface (KVM_XEN_*).
//!
//! Source: Linux v7.3.4 `arch/x86/include/uapi/asm/kvm.h`, `include/uapi/linux/kvm.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::assert_layout;

/// The kernel takes the guest's hypercalls.
pub const KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL: u32 = 1 << 1;
/// The guest can send events without user space.
pub const KVM_XEN_HVM_CONFIG_EVTCHN_SEND: u32 = 1 << 5;
/// The guest's clocks are not told to be stable.
pub const KVM_XEN_HVM_CONFIG_PVCLOCK_TSC_UNSTABLE: u32 = 1 << 7;
/// The only priority of an event channel: two levels.
pub const KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL: u32 = u32::MAX;
/// No frame, and no address.
pub const KVM_XEN_INVALID_GPA: u64 = u64::MAX;

/// `struct kvm_xen_hvm_config`, 56 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmXenHvmConfig {
    /// `KVM_XEN_HVM_CONFIG_*`.
    pub flags: u32,
    /// MSR whose write asks for the hypercall page.
    pub msr: u32,
    /// That page for 32-bit guests, by user address.
    pub blob_addr_32: u64,
    /// The same for 64-bit guests.
    pub blob_addr_64: u64,
    /// Pages of it.
    pub blob_size_32: u8,
    /// The same for 64-bit guests.
    pub blob_size_64: u8,
    /// Not looked at.
    pub pad2: [u8; 30],
}

/// `struct kvm_xen_hvm_attr` and `struct kvm_xen_vcpu_attr`, 72 bytes each: a type, and a union.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmXenAttr {
    /// `KVM_XEN_ATTR_TYPE_*` or `KVM_XEN_VCPU_ATTR_TYPE_*`.
    pub r#type: u16,
    /// Not looked at.
    pub pad: [u16; 3],
    /// What the type says.
    pub u: [u64; 8],
}

/// `struct kvm_irq_routing_xen_evtchn`, 12 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmIrqRoutingXenEvtchn {
    /// Event channel.
    pub port: u32,
    /// The vCPU that takes it, by id.
    pub vcpu: u32,
    /// [`KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL`].
    pub priority: u32,
}

assert_layout!(KvmXenHvmConfig, size 56, flags @ 0, msr @ 4, blob_addr_32 @ 8, blob_addr_64 @ 16, blob_size_32 @ 24, blob_size_64 @ 25, pad2 @ 26);
assert_layout!(KvmXenAttr, size 72, r#type @ 0, pad @ 2, u @ 8);
assert_layout!(KvmIrqRoutingXenEvtchn, size 12, port @ 0, vcpu @ 4, priority @ 8);
