//! What a vCPU keeps while it does not run.

use std::collections::BTreeMap;

/// Indices of the general-purpose registers, as in metadata field codes and in instruction encodings.
pub(crate) mod gpr {
    pub(crate) const RAX: usize = 0;
    pub(crate) const RCX: usize = 1;
    pub(crate) const RDX: usize = 2;
    pub(crate) const RBX: usize = 3;
    pub(crate) const RBP: usize = 5;
    pub(crate) const RSI: usize = 6;
    pub(crate) const RDI: usize = 7;
    pub(crate) const R8: usize = 8;
}

/// Guest registers, VMCS fields that the host may see, and #VE information.
#[derive(Debug, Default)]
pub(crate) struct VpState {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15: the order of the metadata field codes.
    pub(crate) gprs: [u64; 16],
    /// VMCS fields by encoding; what is not there has its initial value.
    pub(crate) vmcs: BTreeMap<u32, u64>,
    /// The x2APIC id that VP.INIT version 1 gave.
    pub(crate) x2apic_id: u32,
    /// The time-stamp counter at the last exit; the next entry must not be before it.
    pub(crate) last_exit_tsc: u64,
    /// How the last TD exit came about: 0 async fault, 1 async trap, 2 TDG.VP.VMCALL.
    pub(crate) last_td_exit: u8,
    /// A non-maskable interrupt that the host injects at the next entry.
    pub(crate) pend_nmi: bool,
}
