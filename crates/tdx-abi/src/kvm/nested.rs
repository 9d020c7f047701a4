//! Nested virtualization (KVM_GET_NESTED_STATE, KVM_SET_NESTED_STATE), as VMX has it.
//!
//! Source: Linux v7.3.4 `arch/x86/include/uapi/asm/kvm.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::assert_layout;

/// The state is VMX's.
pub const KVM_STATE_NESTED_FORMAT_VMX: u16 = 0;
/// The vCPU runs its own guest.
pub const KVM_STATE_NESTED_GUEST_MODE: u16 = 1;
/// That guest's entry is not done.
pub const KVM_STATE_NESTED_RUN_PENDING: u16 = 1 << 1;
/// An enlightened VMCS.
pub const KVM_STATE_NESTED_EVMCS: u16 = 1 << 2;
/// A monitor trap is pending.
pub const KVM_STATE_NESTED_MTF_PENDING: u16 = 1 << 3;
/// Global interrupts are on (SVM).
pub const KVM_STATE_NESTED_GIF_SET: u16 = 1 << 8;
/// It ran its guest when the SMI came.
pub const KVM_STATE_NESTED_SMM_GUEST_MODE: u16 = 1;
/// It was in VMX operation when the SMI came.
pub const KVM_STATE_NESTED_SMM_VMXON: u16 = 1 << 1;
/// `preemption_timer_deadline` is there.
pub const KVM_STATE_VMX_PREEMPTION_TIMER_DEADLINE: u32 = 1;
/// Bytes of a VMCS after the header; a shadow VMCS of the same size follows.
pub const KVM_STATE_NESTED_VMX_VMCS_SIZE: usize = 0x1000;

/// `struct kvm_nested_state` with VMX's header, up to its data, 128 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct KvmNestedState {
    /// `KVM_STATE_NESTED_*`.
    pub flags: u16,
    /// `KVM_STATE_NESTED_FORMAT_*`.
    pub format: u16,
    /// Bytes, this header included.
    pub size: u32,
    /// Guest address of the VMXON region; all ones for none.
    pub vmxon_pa: u64,
    /// Guest address of the current VMCS; all ones for none.
    pub vmcs12_pa: u64,
    /// `KVM_STATE_NESTED_SMM_*`.
    pub smm_flags: u16,
    /// Not looked at.
    pub pad: u16,
    /// `KVM_STATE_VMX_*`.
    pub vmx_flags: u32,
    /// VMX-preemption timer, in nanoseconds of the guest's TSC.
    pub preemption_timer_deadline: u64,
    /// Fills the header up to 128 bytes.
    pub rest: [u8; 88],
}

assert_layout!(KvmNestedState, size 128, flags @ 0, format @ 2, size @ 4, vmxon_pa @ 8, vmcs12_pa @ 16, smm_flags @ 24, pad @ 26, vmx_flags @ 28, preemption_timer_deadline @ 32, rest @ 40);
