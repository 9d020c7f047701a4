//! vCPU structures: registers, MSRs, events, run state.
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
/// Bytes in `struct kvm_lapic_state`.
pub const KVM_APIC_REG_SIZE: usize = 0x400;
/// Bytes in `struct kvm_xsave`.
pub const KVM_XSAVE_BYTES: usize = 4096;

/// `struct kvm_regs`, 144 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmRegs {
    /// RAX.
    pub rax: u64,
    /// RBX.
    pub rbx: u64,
    /// RCX.
    pub rcx: u64,
    /// RDX.
    pub rdx: u64,
    /// RSI.
    pub rsi: u64,
    /// RDI.
    pub rdi: u64,
    /// RSP.
    pub rsp: u64,
    /// RBP.
    pub rbp: u64,
    /// R8.
    pub r8: u64,
    /// R9.
    pub r9: u64,
    /// R10.
    pub r10: u64,
    /// R11.
    pub r11: u64,
    /// R12.
    pub r12: u64,
    /// R13.
    pub r13: u64,
    /// R14.
    pub r14: u64,
    /// R15.
    pub r15: u64,
    /// RIP.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
}

/// `struct kvm_segment`, 24 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmSegment {
    /// Base.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u32,
    /// Selector.
    pub selector: u16,
    /// Type.
    pub r#type: u8,
    /// P.
    pub present: u8,
    /// DPL.
    pub dpl: u8,
    /// D/B.
    pub db: u8,
    /// S.
    pub s: u8,
    /// L.
    pub l: u8,
    /// G.
    pub g: u8,
    /// AVL.
    pub avl: u8,
    /// 1: unusable.
    pub unusable: u8,
    /// Zero.
    pub padding: u8,
}

/// `struct kvm_dtable`, 16 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmDtable {
    /// Base.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u16,
    /// Zero.
    pub padding: [u16; 3],
}

/// `struct kvm_sregs`, 312 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmSregs {
    /// CS.
    pub cs: KvmSegment,
    /// DS.
    pub ds: KvmSegment,
    /// ES.
    pub es: KvmSegment,
    /// FS.
    pub fs: KvmSegment,
    /// GS.
    pub gs: KvmSegment,
    /// SS.
    pub ss: KvmSegment,
    /// TR.
    pub tr: KvmSegment,
    /// LDT.
    pub ldt: KvmSegment,
    /// GDTR.
    pub gdt: KvmDtable,
    /// IDTR.
    pub idt: KvmDtable,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// CR8.
    pub cr8: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// IA32_APIC_BASE.
    pub apic_base: u64,
    /// Pending external interrupt, at most one bit.
    pub interrupt_bitmap: [u64; 4],
}

/// `struct kvm_sregs2`, 320 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmSregs2 {
    /// CS.
    pub cs: KvmSegment,
    /// DS.
    pub ds: KvmSegment,
    /// ES.
    pub es: KvmSegment,
    /// FS.
    pub fs: KvmSegment,
    /// GS.
    pub gs: KvmSegment,
    /// SS.
    pub ss: KvmSegment,
    /// TR.
    pub tr: KvmSegment,
    /// LDT.
    pub ldt: KvmSegment,
    /// GDTR.
    pub gdt: KvmDtable,
    /// IDTR.
    pub idt: KvmDtable,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// CR8.
    pub cr8: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// IA32_APIC_BASE.
    pub apic_base: u64,
    /// 1: `pdptrs` is valid.
    pub flags: u64,
    /// PAE page directory pointers.
    pub pdptrs: [u64; 4],
}

/// `struct kvm_fpu`, 416 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmFpu {
    /// x87 registers.
    pub fpr: [[u8; 16]; 8],
    /// Control word.
    pub fcw: u16,
    /// Status word.
    pub fsw: u16,
    /// Tag word, abridged.
    pub ftwx: u8,
    /// Zero.
    pub pad1: u8,
    /// Last opcode.
    pub last_opcode: u16,
    /// Last instruction.
    pub last_ip: u64,
    /// Last operand.
    pub last_dp: u64,
    /// SSE registers.
    pub xmm: [[u8; 16]; 16],
    /// MXCSR.
    pub mxcsr: u32,
    /// Zero.
    pub pad2: u32,
}

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

/// `struct kvm_debugregs`, 128 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmDebugregs {
    /// DR0 to DR3.
    pub db: [u64; 4],
    /// DR6.
    pub dr6: u64,
    /// DR7.
    pub dr7: u64,
    /// Must be zero.
    pub flags: u64,
    /// Zero.
    pub reserved: [u64; 9],
}

/// `struct kvm_xcr`, 16 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmXcr {
    /// Register.
    pub xcr: u32,
    /// Zero.
    pub reserved: u32,
    /// Value.
    pub value: u64,
}

/// `struct kvm_xcrs`, 392 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmXcrs {
    /// Number of registers.
    pub nr_xcrs: u32,
    /// Must be zero.
    pub flags: u32,
    /// Registers.
    pub xcrs: [KvmXcr; 16],
    /// Zero.
    pub padding: [u64; 16],
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

assert_layout!(KvmRegs, size 144, rax @ 0, rbx @ 8, rcx @ 16, rdx @ 24, rsi @ 32, rdi @ 40, rsp @ 48, rbp @ 56, r8 @ 64, r9 @ 72, r10 @ 80, r11 @ 88, r12 @ 96, r13 @ 104, r14 @ 112, r15 @ 120, rip @ 128, rflags @ 136);
assert_layout!(KvmSegment, size 24, base @ 0, limit @ 8, selector @ 12, r#type @ 14, present @ 15, dpl @ 16, db @ 17, s @ 18, l @ 19, g @ 20, avl @ 21, unusable @ 22, padding @ 23);
assert_layout!(KvmDtable, size 16, base @ 0, limit @ 8, padding @ 10);
assert_layout!(KvmSregs, size 312, cs @ 0, ds @ 24, es @ 48, fs @ 72, gs @ 96, ss @ 120, tr @ 144, ldt @ 168, gdt @ 192, idt @ 208, cr0 @ 224, cr2 @ 232, cr3 @ 240, cr4 @ 248, cr8 @ 256, efer @ 264, apic_base @ 272, interrupt_bitmap @ 280);
assert_layout!(KvmSregs2, size 320, cs @ 0, ds @ 24, es @ 48, fs @ 72, gs @ 96, ss @ 120, tr @ 144, ldt @ 168, gdt @ 192, idt @ 208, cr0 @ 224, cr2 @ 232, cr3 @ 240, cr4 @ 248, cr8 @ 256, efer @ 264, apic_base @ 272, flags @ 280, pdptrs @ 288);
assert_layout!(KvmFpu, size 416, fpr @ 0, fcw @ 128, fsw @ 130, ftwx @ 132, pad1 @ 133, last_opcode @ 134, last_ip @ 136, last_dp @ 144, xmm @ 152, mxcsr @ 408, pad2 @ 412);
assert_layout!(KvmMsrEntry, size 16, index @ 0, reserved @ 4, data @ 8);
assert_layout!(KvmMsrs, size 8, nmsrs @ 0, pad @ 4);
assert_layout!(KvmMsrList, size 4, nmsrs @ 0);
assert_layout!(KvmMpState, size 4, mp_state @ 0);
assert_layout!(KvmVcpuEvents, size 64, exception_injected @ 0, exception_nr @ 1, exception_has_error_code @ 2, exception_pending @ 3, exception_error_code @ 4, interrupt_injected @ 8, interrupt_nr @ 9, interrupt_soft @ 10, interrupt_shadow @ 11, nmi_injected @ 12, nmi_pending @ 13, nmi_masked @ 14, nmi_pad @ 15, sipi_vector @ 16, flags @ 20, smi_smm @ 24, smi_pending @ 25, smi_smm_inside_nmi @ 26, smi_latched_init @ 27, triple_fault_pending @ 28, reserved @ 29, exception_has_payload @ 55, exception_payload @ 56);
assert_layout!(KvmDebugregs, size 128, db @ 0, dr6 @ 32, dr7 @ 40, flags @ 48, reserved @ 56);
assert_layout!(KvmXcr, size 16, xcr @ 0, reserved @ 4, value @ 8);
assert_layout!(KvmXcrs, size 392, nr_xcrs @ 0, flags @ 4, xcrs @ 8, padding @ 264);
assert_layout!(KvmGuestDebug, size 72, control @ 0, pad @ 4, debugreg @ 8);
assert_layout!(KvmTranslation, size 24, linear_address @ 0, physical_address @ 8, valid @ 16, writeable @ 17, usermode @ 18, pad @ 19);
assert_layout!(KvmTprAccessCtl, size 40, enabled @ 0, flags @ 4, reserved @ 8);
assert_layout!(KvmVapicAddr, size 8, vapic_addr @ 0);
assert_layout!(KvmSignalMask, size 4, len @ 0);
assert_layout!(KvmOneReg, size 16, id @ 0, addr @ 8);
assert_layout!(KvmX86Mce, size 64, status @ 0, addr @ 8, misc @ 16, mcg_status @ 24, bank @ 32, pad1 @ 33, pad2 @ 40);
