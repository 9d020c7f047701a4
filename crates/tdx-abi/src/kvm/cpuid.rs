//! CPUID tables as ioctls take them.
//!
//! Source: Linux v7.3.4 `arch/x86/include/uapi/asm/kvm.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::assert_layout;

/// The subleaf matters (spelt as in the kernel).
pub const KVM_CPUID_FLAG_SIGNIFCANT_INDEX: u32 = 1;
/// Obsolete.
pub const KVM_CPUID_FLAG_STATEFUL_FUNC: u32 = 1 << 1;
/// Obsolete.
pub const KVM_CPUID_FLAG_STATE_READ_NEXT: u32 = 1 << 2;
/// Most entries KVM takes (`arch/x86/include/asm/kvm_host.h`).
pub const KVM_MAX_CPUID_ENTRIES: u32 = 256;

/// `struct kvm_cpuid_entry2`, 40 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmCpuidEntry2 {
    /// Leaf.
    pub function: u32,
    /// Subleaf.
    pub index: u32,
    /// `KVM_CPUID_FLAG_*`.
    pub flags: u32,
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
    /// Zero.
    pub padding: [u32; 3],
}

/// `struct kvm_cpuid2` up to its entries, 8 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmCpuid2 {
    /// Number of entries.
    pub nent: u32,
    /// Zero.
    pub padding: u32,
}

assert_layout!(KvmCpuidEntry2, size 40, function @ 0, index @ 4, flags @ 8, eax @ 12, ebx @ 16, ecx @ 20, edx @ 24, padding @ 28);
assert_layout!(KvmCpuid2, size 8, nent @ 0, padding @ 4);
