//! Memory slots, attributes, guest_memfd and dirty logs.
//!
//! Source: Linux v7.3.4 `include/uapi/linux/kvm.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::assert_layout;

/// Log dirty pages.
pub const KVM_MEM_LOG_DIRTY_PAGES: u32 = 1;
/// Writes exit to user space.
pub const KVM_MEM_READONLY: u32 = 1 << 1;
/// The slot has private memory.
pub const KVM_MEM_GUEST_MEMFD: u32 = 1 << 2;
/// Page of a vCPU's mapping where its dirty ring starts, on x86.
pub const KVM_DIRTY_LOG_PAGE_OFFSET: usize = 64;
/// Most entries of a dirty ring.
pub const KVM_DIRTY_RING_MAX_ENTRIES: u32 = 65536;
/// Entries of a dirty ring that are not for pages the guest dirties.
pub const KVM_DIRTY_RING_RSVD_ENTRIES: u32 = 64;
/// Flag of an entry of a dirty ring: the page is dirty.
pub const KVM_DIRTY_GFN_F_DIRTY: u32 = 1;
/// Flag of an entry of a dirty ring: user space has taken note.
pub const KVM_DIRTY_GFN_F_RESET: u32 = 1 << 1;
/// KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: reading a log clears nothing.
pub const KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE: u64 = 1;
/// KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: a new log says that every page is dirty.
pub const KVM_DIRTY_LOG_INITIALLY_SET: u64 = 1 << 1;
/// The range is private.
pub const KVM_MEMORY_ATTRIBUTE_PRIVATE: u64 = 1 << 3;
/// The guest_memfd can be mapped.
pub const GUEST_MEMFD_FLAG_MMAP: u64 = 1;
/// The guest_memfd starts as shared.
pub const GUEST_MEMFD_FLAG_INIT_SHARED: u64 = 1 << 1;

/// `struct kvm_dirty_gfn`, 16 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmDirtyGfn {
    /// `KVM_DIRTY_GFN_F_*`.
    pub flags: u32,
    /// Slot in 15:0, address space in 31:16.
    pub slot: u32,
    /// Page of the slot.
    pub offset: u64,
}

/// `struct kvm_userspace_memory_region`, 32 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmUserspaceMemoryRegion {
    /// Slot in 15:0, address space in 31:16.
    pub slot: u32,
    /// `KVM_MEM_*`.
    pub flags: u32,
    /// First guest address.
    pub guest_phys_addr: u64,
    /// Size in bytes; 0 deletes the slot.
    pub memory_size: u64,
    /// First user address.
    pub userspace_addr: u64,
}

/// `struct kvm_userspace_memory_region2`, 160 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmUserspaceMemoryRegion2 {
    /// Slot in 15:0, address space in 31:16.
    pub slot: u32,
    /// `KVM_MEM_*`.
    pub flags: u32,
    /// First guest address.
    pub guest_phys_addr: u64,
    /// Size in bytes; 0 deletes the slot.
    pub memory_size: u64,
    /// First user address, of shared memory.
    pub userspace_addr: u64,
    /// Offset in bytes in the guest_memfd.
    pub guest_memfd_offset: u64,
    /// File descriptor of private memory.
    pub guest_memfd: u32,
    /// Zero.
    pub pad1: u32,
    /// Zero.
    pub pad2: [u64; 14],
}

/// `struct kvm_memory_attributes`, 32 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmMemoryAttributes {
    /// First guest address.
    pub address: u64,
    /// Size in bytes.
    pub size: u64,
    /// `KVM_MEMORY_ATTRIBUTE_*`.
    pub attributes: u64,
    /// Must be zero.
    pub flags: u64,
}

/// `struct kvm_create_guest_memfd`, 64 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmCreateGuestMemfd {
    /// Size in bytes.
    pub size: u64,
    /// `GUEST_MEMFD_FLAG_*`.
    pub flags: u64,
    /// Ignored.
    pub reserved: [u64; 6],
}

/// `struct kvm_pre_fault_memory`, 64 bytes. Advanced in place by what was done.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmPreFaultMemory {
    /// First guest address.
    pub gpa: u64,
    /// Size in bytes.
    pub size: u64,
    /// Must be zero.
    pub flags: u64,
    /// Zero.
    pub padding: [u64; 5],
}

/// `struct kvm_dirty_log`, 16 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmDirtyLog {
    /// Slot.
    pub slot: u32,
    /// Zero.
    pub padding1: u32,
    /// User address of one bit for each page.
    pub dirty_bitmap: u64,
}

/// `struct kvm_clear_dirty_log`, 24 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmClearDirtyLog {
    /// Slot.
    pub slot: u32,
    /// Pages.
    pub num_pages: u32,
    /// First page in the slot.
    pub first_page: u64,
    /// User address of one bit for each page.
    pub dirty_bitmap: u64,
}

/// `struct kvm_enc_region`, 16 bytes (SEV).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmEncRegion {
    /// First user address.
    pub addr: u64,
    /// Size in bytes.
    pub size: u64,
}

assert_layout!(KvmUserspaceMemoryRegion, size 32, slot @ 0, flags @ 4, guest_phys_addr @ 8, memory_size @ 16, userspace_addr @ 24);
assert_layout!(KvmUserspaceMemoryRegion2, size 160, slot @ 0, flags @ 4, guest_phys_addr @ 8, memory_size @ 16, userspace_addr @ 24, guest_memfd_offset @ 32, guest_memfd @ 40, pad1 @ 44, pad2 @ 48);
assert_layout!(KvmMemoryAttributes, size 32, address @ 0, size @ 8, attributes @ 16, flags @ 24);
assert_layout!(KvmCreateGuestMemfd, size 64, size @ 0, flags @ 8, reserved @ 16);
assert_layout!(KvmPreFaultMemory, size 64, gpa @ 0, size @ 8, flags @ 16, padding @ 24);
assert_layout!(KvmDirtyLog, size 16, slot @ 0, padding1 @ 4, dirty_bitmap @ 8);
assert_layout!(KvmClearDirtyLog, size 24, slot @ 0, num_pages @ 4, first_page @ 8, dirty_bitmap @ 16);
assert_layout!(KvmEncRegion, size 16, addr @ 0, size @ 8);
