//! Interrupts, routing, event fds and coalesced MMIO.
//!
//! Source: Linux v7.3.4 `include/uapi/linux/kvm.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::assert_layout;

/// Routes to a pin of an interrupt controller.
pub const KVM_IRQ_ROUTING_IRQCHIP: u32 = 1;
/// Routes to an MSI.
pub const KVM_IRQ_ROUTING_MSI: u32 = 2;
/// Routes to a Hyper-V synthetic interrupt.
pub const KVM_IRQ_ROUTING_HV_SINT: u32 = 4;
/// Routes to a Xen event channel.
pub const KVM_IRQ_ROUTING_XEN_EVTCHN: u32 = 5;
/// Removes the irqfd.
pub const KVM_IRQFD_FLAG_DEASSIGN: u32 = 1;
/// `resamplefd` is valid.
pub const KVM_IRQFD_FLAG_RESAMPLE: u32 = 1 << 1;
/// `datamatch` is valid.
pub const KVM_IOEVENTFD_FLAG_DATAMATCH: u32 = 1;
/// `addr` is a port.
pub const KVM_IOEVENTFD_FLAG_PIO: u32 = 1 << 1;
/// Removes the ioeventfd.
pub const KVM_IOEVENTFD_FLAG_DEASSIGN: u32 = 1 << 2;
/// `KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY`: the address is a subchannel of s390's.
pub const KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY: u32 = 1 << 3;
/// `devid` is valid.
pub const KVM_MSI_VALID_DEVID: u32 = 1;

/// `struct kvm_irq_level`, 8 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmIrqLevel {
    /// GSI; out, for `KVM_IRQ_LINE_STATUS`, the status as a signed number.
    pub irq: u32,
    /// 0 or 1.
    pub level: u32,
}

/// `struct kvm_irq_routing` up to its entries, 8 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmIrqRouting {
    /// Number of entries.
    pub nr: u32,
    /// Must be zero.
    pub flags: u32,
}

/// `struct kvm_irq_routing_entry`, 48 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmIrqRoutingEntry {
    /// GSI.
    pub gsi: u32,
    /// `KVM_IRQ_ROUTING_*`.
    pub r#type: u32,
    /// `KVM_MSI_VALID_DEVID` or zero.
    pub flags: u32,
    /// Zero.
    pub pad: u32,
    /// Depends on the type. MSI: address low, address high, data, device id.
    pub u: [u32; 8],
}

/// `struct kvm_irqfd`, 32 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmIrqfd {
    /// Event fd.
    pub fd: u32,
    /// GSI.
    pub gsi: u32,
    /// `KVM_IRQFD_FLAG_*`.
    pub flags: u32,
    /// Event fd for level-triggered interrupts.
    pub resamplefd: u32,
    /// Zero.
    pub pad: [u8; 16],
}

/// `struct kvm_ioeventfd`, 64 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct KvmIoeventfd {
    /// Value that fires.
    pub datamatch: u64,
    /// Port or guest address.
    pub addr: u64,
    /// Bytes: 0, 1, 2, 4 or 8.
    pub len: u32,
    /// Event fd.
    pub fd: i32,
    /// `KVM_IOEVENTFD_FLAG_*`.
    pub flags: u32,
    /// Zero.
    pub pad: [u8; 36],
}

/// Takes the eventfd away again.
pub const KVM_HYPERV_EVENTFD_DEASSIGN: u32 = 1;

/// `struct kvm_hyperv_eventfd`, 24 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmHypervEventfd {
    /// Connection that a guest's HvSignalEvent names, below 2^24.
    pub conn_id: u32,
    /// Event fd.
    pub fd: i32,
    /// [`KVM_HYPERV_EVENTFD_DEASSIGN`] or zero.
    pub flags: u32,
    /// Not looked at.
    pub padding: [u32; 3],
}

/// `struct kvm_msi`, 32 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmMsi {
    /// Address, low half.
    pub address_lo: u32,
    /// Address, high half.
    pub address_hi: u32,
    /// Data.
    pub data: u32,
    /// `KVM_MSI_VALID_DEVID` or zero.
    pub flags: u32,
    /// Device id.
    pub devid: u32,
    /// Zero.
    pub pad: [u8; 12],
}

/// `struct kvm_interrupt`, 4 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmInterrupt {
    /// Vector.
    pub irq: u32,
}

/// `struct kvm_coalesced_mmio_zone`, 16 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmCoalescedMmioZone {
    /// First address or port.
    pub addr: u64,
    /// Bytes.
    pub size: u32,
    /// 1: ports.
    pub pio: u32,
}

/// `struct kvm_coalesced_mmio`, 24 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmCoalescedMmio {
    /// Address or port.
    pub phys_addr: u64,
    /// Bytes.
    pub len: u32,
    /// 1: port.
    pub pio: u32,
    /// Data.
    pub data: [u8; 8],
}

/// `struct kvm_coalesced_mmio_ring` up to its entries, 8 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmCoalescedMmioRing {
    /// Next to be read by user space.
    pub first: u32,
    /// Next to be written by the kernel.
    pub last: u32,
}

/// `struct kvm_pit_config`, 64 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmPitConfig {
    /// `KVM_PIT_SPEAKER_DUMMY` or zero.
    pub flags: u32,
    /// Zero.
    pub pad: [u32; 15],
}

assert_layout!(KvmIrqLevel, size 8, irq @ 0, level @ 4);
assert_layout!(KvmIrqRouting, size 8, nr @ 0, flags @ 4);
assert_layout!(KvmIrqRoutingEntry, size 48, gsi @ 0, r#type @ 4, flags @ 8, pad @ 12, u @ 16);
assert_layout!(KvmIrqfd, size 32, fd @ 0, gsi @ 4, flags @ 8, resamplefd @ 12, pad @ 16);
assert_layout!(KvmIoeventfd, size 64, datamatch @ 0, addr @ 8, len @ 16, fd @ 20, flags @ 24, pad @ 28);
assert_layout!(KvmMsi, size 32, address_lo @ 0, address_hi @ 4, data @ 8, flags @ 12, devid @ 16, pad @ 20);
assert_layout!(KvmInterrupt, size 4, irq @ 0);
assert_layout!(KvmCoalescedMmioZone, size 16, addr @ 0, size @ 8, pio @ 12);
assert_layout!(KvmCoalescedMmio, size 24, phys_addr @ 0, len @ 8, pio @ 12, data @ 16);
assert_layout!(KvmCoalescedMmioRing, size 8, first @ 0, last @ 4);
assert_layout!(KvmPitConfig, size 64, flags @ 0, pad @ 4);
assert_layout!(KvmHypervEventfd, size 24, conn_id @ 0, fd @ 4, flags @ 8, padding @ 12);
