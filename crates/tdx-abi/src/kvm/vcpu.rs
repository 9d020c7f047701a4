//! vCPU structures other than register files: MSRs, events, run state.
//!
//! Source: Linux v7.3.4 `arch/x86/include/uapi/asm/kvm.h` and
//! `include/uapi/linux/kvm.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::assert_layout;

/// Runs.
pub const KVM_MP_STATE_RUNNABLE: u32 = 0;
/// An application processor before INIT.
pub const KVM_MP_STATE_UNINITIALIZED: u32 = 1;
/// Waits for SIPI.
pub const KVM_MP_STATE_INIT_RECEIVED: u32 = 2;
/// Halted.
pub const KVM_MP_STATE_HALTED: u32 = 3;
/// Got SIPI.
pub const KVM_MP_STATE_SIPI_RECEIVED: u32 = 4;
/// Held after reset (SEV-ES).
pub const KVM_MP_STATE_AP_RESET_HOLD: u32 = 9;

/// `struct kvm_msr_entry`, 16 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmMsrEntry {
    /// MSR.
    pub index: u32,
    /// Zero.
    pub reserved: u32,
    /// Value.
    pub data: u64,
}

/// `struct kvm_msrs` up to its entries, 8 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmMsrs {
    /// Number of entries.
    pub nmsrs: u32,
    /// Zero.
    pub pad: u32,
}

/// `struct kvm_msr_list` up to its indices, 4 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmMsrList {
    /// Number of indices.
    pub nmsrs: u32,
}

/// `struct kvm_mp_state`, 4 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmMpState {
    /// `KVM_MP_STATE_*`.
    pub mp_state: u32,
}

/// `struct kvm_vcpu_events`, 64 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmVcpuEvents {
    /// An exception was injected.
    pub exception_injected: u8,
    /// Its vector.
    pub exception_nr: u8,
    /// It has an error code.
    pub exception_has_error_code: u8,
    /// An exception is pending.
    pub exception_pending: u8,
    /// The error code.
    pub exception_error_code: u32,
    /// An interrupt was injected.
    pub interrupt_injected: u8,
    /// Its vector.
    pub interrupt_nr: u8,
    /// It is a software interrupt.
    pub interrupt_soft: u8,
    /// Interrupts are in a shadow.
    pub interrupt_shadow: u8,
    /// An NMI was injected.
    pub nmi_injected: u8,
    /// An NMI is pending.
    pub nmi_pending: u8,
    /// NMIs are masked.
    pub nmi_masked: u8,
    /// Zero.
    pub nmi_pad: u8,
    /// SIPI vector.
    pub sipi_vector: u32,
    /// `KVM_VCPUEVENT_VALID_*`.
    pub flags: u32,
    /// In system management mode.
    pub smi_smm: u8,
    /// An SMI is pending.
    pub smi_pending: u8,
    /// The SMI came inside an NMI.
    pub smi_smm_inside_nmi: u8,
    /// An INIT is latched.
    pub smi_latched_init: u8,
    /// A triple fault is pending.
    pub triple_fault_pending: u8,
    /// Zero.
    pub reserved: [u8; 26],
    /// The exception has a payload.
    pub exception_has_payload: u8,
    /// The payload.
    pub exception_payload: u64,
}

/// `struct kvm_guest_debug`, 72 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmGuestDebug {
    /// `KVM_GUESTDBG_*`.
    pub control: u32,
    /// Zero.
    pub pad: u32,
    /// DR0 to DR7.
    pub debugreg: [u64; 8],
}

/// `struct kvm_translation`, 24 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmTranslation {
    /// In: address.
    pub linear_address: u64,
    /// Out: address.
    pub physical_address: u64,
    /// Out: 1 if mapped.
    pub valid: u8,
    /// Out: always 1.
    pub writeable: u8,
    /// Out: always 0.
    pub usermode: u8,
    /// Zero.
    pub pad: [u8; 5],
}

/// `struct kvm_tpr_access_ctl`, 40 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmTprAccessCtl {
    /// 1: report.
    pub enabled: u32,
    /// Zero.
    pub flags: u32,
    /// Zero.
    pub reserved: [u32; 8],
}

/// `struct kvm_vapic_addr`, 8 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmVapicAddr {
    /// Guest address.
    pub vapic_addr: u64,
}

/// `struct kvm_signal_mask` up to its set, 4 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmSignalMask {
    /// Bytes in the set.
    pub len: u32,
}

/// `struct kvm_one_reg`, 16 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmOneReg {
    /// Register id.
    pub id: u64,
    /// User address of the value.
    pub addr: u64,
}

/// `struct kvm_x86_mce`, 64 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmX86Mce {
    /// MCi_STATUS.
    pub status: u64,
    /// MCi_ADDR.
    pub addr: u64,
    /// MCi_MISC.
    pub misc: u64,
    /// MCG_STATUS.
    pub mcg_status: u64,
    /// Bank.
    pub bank: u8,
    /// Zero.
    pub pad1: [u8; 7],
    /// Zero.
    pub pad2: [u64; 3],
}

assert_layout!(KvmMsrEntry, size 16, index @ 0, reserved @ 4, data @ 8);
assert_layout!(KvmMsrs, size 8, nmsrs @ 0, pad @ 4);
assert_layout!(KvmMsrList, size 4, nmsrs @ 0);
assert_layout!(KvmMpState, size 4, mp_state @ 0);
assert_layout!(KvmVcpuEvents, size 64, exception_injected @ 0, exception_nr @ 1, exception_has_error_code @ 2, exception_pending @ 3, exception_error_code @ 4, interrupt_injected @ 8, interrupt_nr @ 9, interrupt_soft @ 10, interrupt_shadow @ 11, nmi_injected @ 12, nmi_pending @ 13, nmi_masked @ 14, nmi_pad @ 15, sipi_vector @ 16, flags @ 20, smi_smm @ 24, smi_pending @ 25, smi_smm_inside_nmi @ 26, smi_latched_init @ 27, triple_fault_pending @ 28, reserved @ 29, exception_has_payload @ 55, exception_payload @ 56);
assert_layout!(KvmGuestDebug, size 72, control @ 0, pad @ 4, debugreg @ 8);
assert_layout!(KvmTranslation, size 24, linear_address @ 0, physical_address @ 8, valid @ 16, writeable @ 17, usermode @ 18, pad @ 19);
assert_layout!(KvmTprAccessCtl, size 40, enabled @ 0, flags @ 4, reserved @ 8);
assert_layout!(KvmVapicAddr, size 8, vapic_addr @ 0);
assert_layout!(KvmSignalMask, size 4, len @ 0);
assert_layout!(KvmOneReg, size 16, id @ 0, addr @ 8);
assert_layout!(KvmX86Mce, size 64, status @ 0, addr @ 8, misc @ 16, mcg_status @ 24, bank @ 32, pad1 @ 33, pad2 @ 40);
