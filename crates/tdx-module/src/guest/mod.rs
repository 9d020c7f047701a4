//! What the module decides while a guest runs: exceptions, exits, and what the guest sees of CPUID.
//!
//! There is no processor here. Whoever runs guest code loads [`GuestState`] when TDH.VP.ENTER
//! answers [`After::Guest`](crate::After::Guest), reports what the guest does, and obeys
//! [`GuestAfter`].

mod control;
mod cpu_state;
mod cpuid;
mod ept_violation;
mod exception;
mod msr;
mod msr_table;
mod run;
mod steps;
mod translate;
mod vm_exit;

pub use cpu_state::{CpuState, GuestState, Segment, Table};
pub use ept_violation::{EptViolation, qualification};
pub use exception::{Exception, VeInfo};
pub use msr::MsrAnswer;
pub use msr_table::{Feature, MSRS, MsrAccess, MsrRule, msr_rule};
pub(crate) use steps::StepFilter;
pub(crate) use translate::Reach;
pub use vm_exit::{Decision, EXITS, VmExitReport, decision};

use seamlock_tdx_abi::regs::Regs;

/// What a guest does after the module has looked at what it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum GuestAfter {
    /// It goes on after the instruction; registers hold the result.
    Continue,
    /// An interrupt cut the call: registers and RIP are as before, and when the guest runs again it
    /// executes the instruction again. The processor takes the interrupt first.
    Again,
    /// It takes this exception at the instruction.
    Inject(Exception),
    /// The TD has exited; TDH.VP.ENTER returns these registers to the host.
    TdExit(Regs),
}
