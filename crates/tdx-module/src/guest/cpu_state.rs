//! The state in which a guest starts, and in which it waits between exits.
//!
//! Source: TDX module base specification, "Initial State of Guest VCPU"; TDX module 1.5,
//! `td_vmcs_init.c`.

use crate::guest::Exception;

/// A segment register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// First byte.
    pub base: u64,
    /// Last byte, as an offset.
    pub limit: u32,
    /// Access rights in the layout of the VMCS.
    pub access: u32,
}

/// A descriptor table register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// First byte.
    pub base: u64,
    /// Last byte, as an offset.
    pub limit: u16,
}

/// The guest's architectural state without its general-purpose registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // named as in the manuals
pub struct CpuState {
    pub rip: u64,
    pub rflags: u64,
    pub cs: Segment,
    pub ds: Segment,
    pub es: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub ss: Segment,
    pub ldtr: Segment,
    pub tr: Segment,
    pub gdtr: Table,
    pub idtr: Table,
    /// As the guest reads it: PE and NE are set and stay so.
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    /// As the guest reads it: MCE is set and stays so, VMXE reads as 0.
    pub cr4: u64,
    pub dr: [u64; 4],
    pub dr6: u64,
    pub dr7: u64,
    pub xcr0: u64,
    pub efer: u64,
    pub pat: u64,
    pub fmask: u64,
    pub star: u64,
    pub lstar: u64,
    pub kernel_gs_base: u64,
    pub tsc_aux: u64,
    pub xss: u64,
}

impl Default for CpuState {
    /// The state after TDH.VP.INIT: flat 32-bit protected mode without paging, at the reset vector.
    fn default() -> CpuState {
        let flat = |access| Segment {
            selector: 0,
            base: 0,
            limit: u32::MAX,
            access,
        };
        let system = |access| Segment {
            limit: 0xffff,
            ..flat(access)
        };
        CpuState {
            rip: 0xffff_fff0,
            rflags: 2,
            cs: flat(0xc09b),
            ds: flat(0xc093),
            es: flat(0xc093),
            fs: flat(0xc093),
            gs: flat(0xc093),
            ss: flat(0xc093),
            ldtr: system(0x1_0082),
            tr: system(0x8b),
            gdtr: Table {
                base: 0,
                limit: 0xffff,
            },
            idtr: Table { base: 0, limit: 0 },
            cr0: 0x21,
            cr2: 0,
            cr3: 0,
            cr4: 0x40,
            dr: [0; 4],
            dr6: 0xffff_0ff0,
            dr7: 0x400,
            xcr0: 1,
            efer: 0x901,
            pat: 0x0007_0406_0007_0406,
            fmask: 0x2_0200,
            star: 0,
            lstar: 0,
            kernel_gs_base: 0,
            tsc_aux: 0,
            xss: 0,
        }
    }
}

impl CpuState {
    /// Current privilege level.
    pub const fn cpl(&self) -> u8 {
        (self.ss.access >> 5 & 3) as u8
    }

    /// Whether the processor runs 64-bit code: EFER.LMA and CS.L.
    pub const fn is_64_bit(&self) -> bool {
        self.efer >> 10 & 1 != 0 && self.cs.access >> 13 & 1 != 0
    }
}

/// What a processor loads to run a guest, and hands back when the guest exits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestState {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub gprs: [u64; 16],
    /// Everything else.
    pub cpu: CpuState,
    /// An exception to take before the first instruction.
    pub inject: Option<Exception>,
}
