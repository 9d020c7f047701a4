//! Register files of a vCPU. A TD has none: its ioctls answer -EINVAL.
//!
//! Source: Linux v7.3.4 `arch/x86/include/uapi/asm/kvm.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::assert_layout;

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

assert_layout!(KvmRegs, size 144, rax @ 0, rbx @ 8, rcx @ 16, rdx @ 24, rsi @ 32, rdi @ 40, rsp @ 48, rbp @ 56, r8 @ 64, r9 @ 72, r10 @ 80, r11 @ 88, r12 @ 96, r13 @ 104, r14 @ 112, r15 @ 120, rip @ 128, rflags @ 136);
assert_layout!(KvmSegment, size 24, base @ 0, limit @ 8, selector @ 12, r#type @ 14, present @ 15, dpl @ 16, db @ 17, s @ 18, l @ 19, g @ 20, avl @ 21, unusable @ 22, padding @ 23);
assert_layout!(KvmDtable, size 16, base @ 0, limit @ 8, padding @ 10);
assert_layout!(KvmSregs, size 312, cs @ 0, ds @ 24, es @ 48, fs @ 72, gs @ 96, ss @ 120, tr @ 144, ldt @ 168, gdt @ 192, idt @ 208, cr0 @ 224, cr2 @ 232, cr3 @ 240, cr4 @ 248, cr8 @ 256, efer @ 264, apic_base @ 272, interrupt_bitmap @ 280);
assert_layout!(KvmSregs2, size 320, cs @ 0, ds @ 24, es @ 48, fs @ 72, gs @ 96, ss @ 120, tr @ 144, ldt @ 168, gdt @ 192, idt @ 208, cr0 @ 224, cr2 @ 232, cr3 @ 240, cr4 @ 248, cr8 @ 256, efer @ 264, apic_base @ 272, flags @ 280, pdptrs @ 288);
assert_layout!(KvmFpu, size 416, fpr @ 0, fcw @ 128, fsw @ 130, ftwx @ 132, pad1 @ 133, last_opcode @ 134, last_ip @ 136, last_dp @ 144, xmm @ 152, mxcsr @ 408, pad2 @ 412);
assert_layout!(KvmDebugregs, size 128, db @ 0, dr6 @ 32, dr7 @ 40, flags @ 48, reserved @ 56);
assert_layout!(KvmXcr, size 16, xcr @ 0, reserved @ 4, value @ 8);
assert_layout!(KvmXcrs, size 392, nr_xcrs @ 0, flags @ 4, xcrs @ 8, padding @ 264);
