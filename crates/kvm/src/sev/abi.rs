//! KVM_MEMORY_ENCRYPT_OP of SEV (arch/x86/include/uapi/asm/kvm.h).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct kvm_sev_cmd`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SevCmd {
    /// The command.
    pub id: u32,
    /// Unused.
    pub pad0: u32,
    /// User address of the command's own structure.
    pub data: u64,
    /// What the firmware answered.
    pub error: u32,
    /// `/dev/sev`. Not looked at: the firmware here has no file.
    pub sev_fd: u32,
}

/// `struct kvm_sev_init`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SevInit {
    /// Features of the VMSA.
    pub vmsa_features: u64,
    /// Must be 0.
    pub flags: u32,
    /// Version of the GHCB protocol; 0 for KVM's choice.
    pub ghcb_version: u16,
    /// Unused.
    pub pad1: u16,
    /// Unused.
    pub pad2: [u32; 8],
}

/// `KVM_SEV_INIT`.
pub const KVM_SEV_INIT: u32 = 0;
/// `KVM_SEV_ES_INIT`.
pub const KVM_SEV_ES_INIT: u32 = 1;
/// `KVM_SEV_LAUNCH_START`.
pub const KVM_SEV_LAUNCH_START: u32 = 2;
/// `KVM_SEV_LAUNCH_UPDATE_VMSA`.
pub const KVM_SEV_LAUNCH_UPDATE_VMSA: u32 = 4;
/// `KVM_SEV_INIT2`.
pub const KVM_SEV_INIT2: u32 = 22;

/// Highest version of the GHCB protocol (`GHCB_VERSION_MAX`).
pub(super) const GHCB_VERSION_MAX: u16 = 2;
/// `SEV_RET_INVALID_GUEST`: the firmware has no such guest.
pub(super) const SEV_RET_INVALID_GUEST: u32 = 16;

const _: () = assert!(size_of::<SevCmd>() == 24 && size_of::<SevInit>() == 48);
