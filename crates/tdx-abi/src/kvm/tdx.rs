//! The sub-commands of `KVM_MEMORY_ENCRYPT_OP` for a TD.
//!
//! Source: Linux v7.3.4 `arch/x86/include/uapi/asm/kvm.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::cpuid::{KvmCpuid2, KvmCpuidEntry2};
use crate::layout::{assert_layout, open_number};

/// Id of a TDX sub-command, `enum kvm_tdx_cmd_id`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct TdxCmdId(pub u32);

open_number!(TdxCmdId(u32) {
    /// VM: what the platform supports; data points to [`KvmTdxCapabilities`].
    KVM_TDX_CAPABILITIES = 0;
    /// VM: creates the TD; data points to [`KvmTdxInitVm`].
    KVM_TDX_INIT_VM = 1;
    /// vCPU: creates the vCPU; data is the guest's initial RCX.
    KVM_TDX_INIT_VCPU = 2;
    /// vCPU: adds initial memory; data points to [`KvmTdxInitMemRegion`].
    KVM_TDX_INIT_MEM_REGION = 3;
    /// VM: completes the measurement.
    KVM_TDX_FINALIZE_VM = 4;
    /// vCPU: the CPUID the module shows; data points to [`KvmCpuid2`].
    KVM_TDX_GET_CPUID = 5;
});

/// Number of sub-commands.
pub const KVM_TDX_CMD_NR_MAX: u32 = 6;
/// Flag of `KVM_TDX_INIT_MEM_REGION`: extend MRTD with the contents.
pub const KVM_TDX_MEASURE_MEMORY_REGION: u32 = 1;

/// `struct kvm_tdx_cmd`, 24 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmTdxCmd {
    /// A [`TdxCmdId`].
    pub id: u32,
    /// Flags of the sub-command.
    pub flags: u32,
    /// A number or a user address, depending on the sub-command.
    pub data: u64,
    /// Zero on input; a TDX status on output of some sub-commands.
    pub hw_error: u64,
}

/// `struct kvm_tdx_capabilities` up to its CPUID entries, 2056 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct KvmTdxCapabilities {
    /// ATTRIBUTES bits a TD may set.
    pub supported_attrs: u64,
    /// XFAM bits a TD may set.
    pub supported_xfam: u64,
    /// R11 of GetTdVmCallInfo leaf 1: what the kernel handles.
    pub kernel_tdvmcallinfo_1_r11: u64,
    /// R11 of GetTdVmCallInfo leaf 1: what user space has to handle.
    pub user_tdvmcallinfo_1_r11: u64,
    /// R12, as R11.
    pub kernel_tdvmcallinfo_1_r12: u64,
    /// R12, as R11.
    pub user_tdvmcallinfo_1_r12: u64,
    /// Zero.
    pub reserved: [u64; 250],
    /// Configurable CPUID bits; entries follow.
    pub cpuid: KvmCpuid2,
}

/// `struct kvm_tdx_init_vm` up to its CPUID entries, 264 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmTdxInitVm {
    /// TD attributes.
    pub attributes: u64,
    /// Extended features mask.
    pub xfam: u64,
    /// SHA-384 value, only reported.
    pub mrconfigid: [u64; 6],
    /// SHA-384 value, only reported.
    pub mrowner: [u64; 6],
    /// SHA-384 value, only reported.
    pub mrownerconfig: [u64; 6],
    /// Must be zero.
    pub reserved: [u64; 12],
    /// CPUID of the TD; entries follow.
    pub cpuid: KvmCpuid2,
}

/// `struct kvm_tdx_init_vm` with one CPUID entry, 304 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmTdxInitVmOneLeaf {
    /// All but the entry; its `cpuid.nent` is 1.
    pub init: KvmTdxInitVm,
    /// The entry.
    pub entry: KvmCpuidEntry2,
}

impl KvmTdxInitVmOneLeaf {
    /// The least that makes a TD: x87 and SSE, SEPT_VE_DISABLE, and the CPUID leaf of the address widths,
    /// without which KVM makes none, with 48 bits.
    pub fn smallest() -> KvmTdxInitVmOneLeaf {
        KvmTdxInitVmOneLeaf {
            init: KvmTdxInitVm {
                attributes: 1 << 28,
                xfam: 3,
                cpuid: KvmCpuid2 {
                    nent: 1,
                    padding: 0,
                },
                ..KvmTdxInitVm::default()
            },
            entry: KvmCpuidEntry2 {
                function: 0x8000_0008,
                eax: 48 << 16,
                ..KvmCpuidEntry2::default()
            },
        }
    }
}

/// `struct kvm_tdx_init_mem_region`, 24 bytes. Advanced in place by what was done.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmTdxInitMemRegion {
    /// User address of the contents, page aligned.
    pub source_addr: u64,
    /// Private guest address, page aligned.
    pub gpa: u64,
    /// Pages of 4 KiB.
    pub nr_pages: u64,
}

assert_layout!(KvmTdxCmd, size 24, id @ 0, flags @ 4, data @ 8, hw_error @ 16);
assert_layout!(
    KvmTdxCapabilities, size 2056, supported_attrs @ 0, supported_xfam @ 8,
    kernel_tdvmcallinfo_1_r11 @ 16, user_tdvmcallinfo_1_r11 @ 24, kernel_tdvmcallinfo_1_r12 @ 32,
    user_tdvmcallinfo_1_r12 @ 40, reserved @ 48, cpuid @ 2048,
);
assert_layout!(
    KvmTdxInitVm, size 264, attributes @ 0, xfam @ 8, mrconfigid @ 16, mrowner @ 64,
    mrownerconfig @ 112, reserved @ 160, cpuid @ 256,
);
assert_layout!(KvmTdxInitVmOneLeaf, size 304, init @ 0, entry @ 264);
assert_layout!(KvmTdxInitMemRegion, size 24, source_addr @ 0, gpa @ 8, nr_pages @ 16);
