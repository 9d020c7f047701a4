//! `struct kvm_run`, the page that a vCPU shares with user space.
//!
//! The header is at offset 0, what an exit carries at [`EXIT_DATA_OFFSET`]. One structure here stands
//! for one member of the union there
//!
//! Source: Linux v7.3.4 `include/uapi/linux/kvm.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::assert_layout;

/// Offset of the exit union in `struct kvm_run`.
pub const EXIT_DATA_OFFSET: usize = 32;
/// Size of the exit union.
pub const EXIT_DATA_BYTES: usize = 256;
/// Offset of `kvm_valid_regs`.
pub const KVM_VALID_REGS_OFFSET: usize = 288;
/// Offset of `kvm_dirty_regs`.
pub const KVM_DIRTY_REGS_OFFSET: usize = 296;
/// Offset of the synced registers.
pub const SYNC_REGS_OFFSET: usize = 304;
/// Size of the synced registers.
pub const SYNC_REGS_SIZE_BYTES: usize = 2048;
/// Size of `struct kvm_run`.
pub const KVM_RUN_BYTES: usize = 2352;
/// Bytes a vCPU maps on x86: `kvm_run`, port data, coalesced MMIO ring.
pub const KVM_VCPU_MMAP_BYTES: usize = 3 * 4096;
/// Page of the mapping that holds port data.
pub const KVM_PIO_PAGE_OFFSET: usize = 1;
/// Page of the mapping that holds the coalesced MMIO ring.
pub const KVM_COALESCED_MMIO_PAGE_OFFSET: usize = 2;
/// `kvm_run.flags`: the vCPU is in system management mode.
pub const KVM_RUN_X86_SMM: u16 = 1;
/// `kvm_run.flags`: a bus lock was detected.
pub const KVM_RUN_X86_BUS_LOCK: u16 = 1 << 1;
/// `kvm_run.flags`: the vCPU runs a nested guest.
pub const KVM_RUN_X86_GUEST_MODE: u16 = 1 << 2;

/// The fixed part of `struct kvm_run`, 32 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmRunHeader {
    /// In: exit when an interrupt can be injected.
    pub request_interrupt_window: u8,
    /// In: return -EINTR before entering the guest. Written by signal handlers.
    pub immediate_exit: u8,
    /// Zero.
    pub padding1: [u8; 6],
    /// Out: `KVM_EXIT_*`.
    pub exit_reason: u32,
    /// Out: an interrupt can be injected.
    pub ready_for_interrupt_injection: u8,
    /// Out: RFLAGS.IF.
    pub if_flag: u8,
    /// Out: `KVM_RUN_X86_*`.
    pub flags: u16,
    /// In and out: CR8.
    pub cr8: u64,
    /// In and out: IA32_APIC_BASE.
    pub apic_base: u64,
}

/// `KVM_EXIT_UNKNOWN`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmExitUnknown {
    /// VMX exit reason.
    pub hardware_exit_reason: u64,
}

/// `KVM_EXIT_FAIL_ENTRY`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmExitFailEntry {
    /// VMX exit reason, or a TDX status.
    pub hardware_entry_failure_reason: u64,
    /// CPU it happened on.
    pub cpu: u32,
    /// Zero.
    pub padding: u32,
}

/// `KVM_EXIT_EXCEPTION`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmExitException {
    /// Vector.
    pub exception: u32,
    /// Error code.
    pub error_code: u32,
}

/// `KVM_EXIT_IO`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmExitIo {
    /// `KVM_EXIT_IO_IN` or `_OUT`.
    pub direction: u8,
    /// Bytes in one access: 1, 2 or 4.
    pub size: u8,
    /// Port.
    pub port: u16,
    /// Number of accesses.
    pub count: u32,
    /// Where the data is, from the start of `kvm_run`.
    pub data_offset: u64,
}

/// `KVM_EXIT_DEBUG`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmExitDebug {
    /// Vector.
    pub exception: u32,
    /// Zero.
    pub pad: u32,
    /// RIP.
    pub pc: u64,
    /// DR6.
    pub dr6: u64,
    /// DR7.
    pub dr7: u64,
}

/// `KVM_EXIT_MMIO`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmExitMmio {
    /// Guest address, without the shared bit.
    pub phys_addr: u64,
    /// Data, in or out.
    pub data: [u8; 8],
    /// Bytes.
    pub len: u32,
    /// 1: the guest writes.
    pub is_write: u8,
    /// Zero.
    pub padding: [u8; 3],
}

/// `KVM_EXIT_HYPERCALL`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmExitHypercall {
    /// Number of the hypercall.
    pub nr: u64,
    /// Arguments.
    pub args: [u64; 6],
    /// In: result for the guest. QEMU leaves it as it is.
    pub ret: u64,
    /// `KVM_EXIT_HYPERCALL_*`.
    pub flags: u64,
}

/// `KVM_EXIT_TPR_ACCESS`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmExitTprAccess {
    /// RIP.
    pub rip: u64,
    /// 1: write.
    pub is_write: u32,
    /// Zero.
    pub pad: u32,
}

/// `KVM_EXIT_INTERNAL_ERROR`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmExitInternal {
    /// `KVM_INTERNAL_ERROR_*`.
    pub suberror: u32,
    /// Valid words in `data`.
    pub ndata: u32,
    /// Details.
    pub data: [u64; 16],
}

/// `KVM_EXIT_SYSTEM_EVENT`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmExitSystemEvent {
    /// `KVM_SYSTEM_EVENT_*`.
    pub r#type: u32,
    /// Valid words in `data`.
    pub ndata: u32,
    /// Details. For a TD: rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 to r15.
    pub data: [u64; 16],
}

/// `KVM_EXIT_IOAPIC_EOI`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmExitEoi {
    /// Vector.
    pub vector: u8,
}

/// `KVM_EXIT_X86_RDMSR` and `KVM_EXIT_X86_WRMSR`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmExitMsr {
    /// In: 1 raises #GP.
    pub error: u8,
    /// Zero.
    pub pad: [u8; 7],
    /// `KVM_MSR_EXIT_REASON_*`.
    pub reason: u32,
    /// MSR.
    pub index: u32,
    /// Value, in or out.
    pub data: u64,
}

/// `KVM_EXIT_NOTIFY`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmExitNotify {
    /// `KVM_NOTIFY_*`.
    pub flags: u32,
}

/// `KVM_EXIT_MEMORY_FAULT`; `KVM_RUN` returns -EFAULT or -EHWPOISON with it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmExitMemoryFault {
    /// `KVM_MEMORY_EXIT_FLAG_PRIVATE` or zero.
    pub flags: u64,
    /// Guest address.
    pub gpa: u64,
    /// Size in bytes.
    pub size: u64,
}

/// `KVM_EXIT_TDX`, whatever the number.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmExitTdx {
    /// Zero.
    pub flags: u64,
    /// `TDVMCALL_*`.
    pub nr: u64,
    /// In: `TDVMCALL_STATUS_*`.
    pub ret: u64,
    /// Depends on `nr`.
    pub data: [u64; 5],
}

/// `KVM_EXIT_TDX` with `TDVMCALL_GET_QUOTE`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmExitTdxGetQuote {
    /// Zero.
    pub flags: u64,
    /// `TDVMCALL_GET_QUOTE`.
    pub nr: u64,
    /// In: `TDVMCALL_STATUS_*`.
    pub ret: u64,
    /// Shared buffer, without the shared bit.
    pub gpa: u64,
    /// Bytes in the buffer.
    pub size: u64,
}

/// `KVM_EXIT_TDX` with `TDVMCALL_GET_TD_VM_CALL_INFO`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmExitTdxGetTdvmcallInfo {
    /// Zero.
    pub flags: u64,
    /// `TDVMCALL_GET_TD_VM_CALL_INFO`.
    pub nr: u64,
    /// In: `TDVMCALL_STATUS_*`.
    pub ret: u64,
    /// Leaf.
    pub leaf: u64,
    /// In: R11.
    pub r11: u64,
    /// In: R12.
    pub r12: u64,
    /// In: R13.
    pub r13: u64,
    /// In: R14.
    pub r14: u64,
}

/// `KVM_EXIT_TDX` with `TDVMCALL_SETUP_EVENT_NOTIFY_INTERRUPT`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmExitTdxSetupEventNotify {
    /// Zero.
    pub flags: u64,
    /// `TDVMCALL_SETUP_EVENT_NOTIFY_INTERRUPT`.
    pub nr: u64,
    /// In: `TDVMCALL_STATUS_*`.
    pub ret: u64,
    /// Vector, 32 to 255.
    pub vector: u64,
}

assert_layout!(KvmRunHeader, size 32, request_interrupt_window @ 0, immediate_exit @ 1, padding1 @ 2, exit_reason @ 8, ready_for_interrupt_injection @ 12, if_flag @ 13, flags @ 14, cr8 @ 16, apic_base @ 24);
assert_layout!(KvmExitUnknown, size 8, hardware_exit_reason @ 0);
assert_layout!(KvmExitFailEntry, size 16, hardware_entry_failure_reason @ 0, cpu @ 8, padding @ 12);
assert_layout!(KvmExitException, size 8, exception @ 0, error_code @ 4);
assert_layout!(KvmExitIo, size 16, direction @ 0, size @ 1, port @ 2, count @ 4, data_offset @ 8);
assert_layout!(KvmExitDebug, size 32, exception @ 0, pad @ 4, pc @ 8, dr6 @ 16, dr7 @ 24);
assert_layout!(KvmExitMmio, size 24, phys_addr @ 0, data @ 8, len @ 16, is_write @ 20, padding @ 21);
assert_layout!(KvmExitHypercall, size 72, nr @ 0, args @ 8, ret @ 56, flags @ 64);
assert_layout!(KvmExitTprAccess, size 16, rip @ 0, is_write @ 8, pad @ 12);
assert_layout!(KvmExitInternal, size 136, suberror @ 0, ndata @ 4, data @ 8);
assert_layout!(KvmExitSystemEvent, size 136, r#type @ 0, ndata @ 4, data @ 8);
assert_layout!(KvmExitEoi, size 1, vector @ 0);
assert_layout!(KvmExitMsr, size 24, error @ 0, pad @ 1, reason @ 8, index @ 12, data @ 16);
assert_layout!(KvmExitNotify, size 4, flags @ 0);
assert_layout!(KvmExitMemoryFault, size 24, flags @ 0, gpa @ 8, size @ 16);
assert_layout!(KvmExitTdx, size 64, flags @ 0, nr @ 8, ret @ 16, data @ 24);
assert_layout!(KvmExitTdxGetQuote, size 40, flags @ 0, nr @ 8, ret @ 16, gpa @ 24, size @ 32);
assert_layout!(KvmExitTdxGetTdvmcallInfo, size 64, flags @ 0, nr @ 8, ret @ 16, leaf @ 24, r11 @ 32, r12 @ 40, r13 @ 48, r14 @ 56);
assert_layout!(KvmExitTdxSetupEventNotify, size 32, flags @ 0, nr @ 8, ret @ 16, vector @ 24);
