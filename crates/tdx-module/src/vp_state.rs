//! What a vCPU keeps while it does not run.

use std::collections::BTreeMap;

use seamlock_tdx_abi::lifecycle::LastTdExit;

use crate::guest::{CpuState, Exception, StepFilter, VeInfo};

/// Indices of the general-purpose registers, as in metadata field codes and in instruction
/// encodings.
pub(crate) mod gpr {
    pub(crate) const RAX: usize = 0;
    pub(crate) const RCX: usize = 1;
    pub(crate) const RDX: usize = 2;
    pub(crate) const RBX: usize = 3;
    pub(crate) const RSP: usize = 4;
    pub(crate) const RBP: usize = 5;
    pub(crate) const RSI: usize = 6;
    pub(crate) const R8: usize = 8;
}

/// Guest registers, VMCS fields that the host may see, and what the module remembers of the guest.
#[derive(Debug)]
pub(crate) struct VpState {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15: the order of the metadata field codes.
    pub(crate) gprs: [u64; 16],
    /// The rest of the guest's architectural state.
    pub(crate) cpu: CpuState,
    /// VMCS fields by encoding, with the L2 VM in 31:16; what is not there has its initial value.
    pub(crate) vmcs: BTreeMap<u32, u64>,
    /// Other metadata that is only written and read back, by class in 31:24 and code.
    pub(crate) fields: BTreeMap<u32, u64>,
    /// The x2APIC id that VP.INIT version 1 gave.
    pub(crate) x2apic_id: u32,
    /// The time-stamp counter at the last exit; the next entry must not be before it.
    pub(crate) last_exit_tsc: u64,
    /// How the last TD exit came about.
    pub(crate) last_td_exit: LastTdExit,
    /// The VM exit that led to the last TD exit.
    pub(crate) last_exit: VmExit,
    /// Not zero: a non-maskable interrupt that the host injects at the next entry.
    pub(crate) pend_nmi: u8,
    /// What #VE is about, until TDG.VP.VEINFO.GET reads it.
    pub(crate) ve_info: VeInfo,
    /// An exception that the guest takes first when it runs again.
    pub(crate) inject: Option<Exception>,
    /// Suspected zero-step attacks.
    pub(crate) steps: StepFilter,
    /// The time-stamp counter when a guest call first yielded to the host, and all since did.
    pub(crate) hp_busy_since: Option<u64>,
    /// CPUID raises #VE in the guest's kernel mode.
    pub(crate) cpuid_supervisor_ve: bool,
    /// CPUID raises #VE in the guest's user mode.
    pub(crate) cpuid_user_ve: bool,
    /// The same for single leaves, in the order of CPUID_VALUES: bit 0 supervisor, bit 1 user.
    pub(crate) cpuid_control: [u8; 128],
}

/// What the processor reported about a VM exit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct VmExit {
    /// VMX exit reason.
    pub(crate) reason: u32,
    /// Exit qualification.
    pub(crate) qual: u64,
    /// Guest physical address.
    pub(crate) gpa: u64,
}

impl Default for VpState {
    fn default() -> VpState {
        VpState {
            gprs: [0; 16],
            cpu: CpuState::default(),
            vmcs: BTreeMap::new(),
            fields: BTreeMap::new(),
            x2apic_id: 0,
            last_exit_tsc: 0,
            last_td_exit: LastTdExit::ASYNC_FAULT,
            last_exit: VmExit::default(),
            pend_nmi: 0,
            ve_info: VeInfo::default(),
            inject: None,
            steps: StepFilter::default(),
            hp_busy_since: None,
            cpuid_supervisor_ve: false,
            cpuid_user_ve: false,
            cpuid_control: [0; 128],
        }
    }
}
