//! What runs between TDH.VP.ENTER and the TD exit.

pub mod script;

use std::fmt;

use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_module::{Module, TdExit, TdExitKind};

/// VMX exit reason of an external interrupt.
pub const EXIT_REASON_EXTERNAL_INTERRUPT: u32 = 1;

/// How a guest's turn ended.
#[derive(Clone, Debug)]
pub struct Turn {
    /// The registers as TDH.VP.ENTER finally returns them.
    pub regs: Regs,
    /// The guest has nothing to do until an event comes.
    pub halted: bool,
}

/// A vCPU that was just entered.
pub struct Entered<'a> {
    /// The TDX module that it runs under.
    pub module: &'a Module,
    /// The CPU that it runs on.
    pub lp: u32,
    /// The VM's number.
    pub vm: u64,
    /// The vCPU's id.
    pub vcpu: u32,
    /// The bit that makes a guest address a shared one.
    pub shared_bit: u64,
    /// Whether the guest has to come out: an IPI or a signal waits. Looked at now and then.
    pub kicked: &'a dyn Fn() -> bool,
}

impl fmt::Debug for Entered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entered {{ lp: {} }}", self.lp)
    }
}

/// Somebody who is the guest's processor.
pub trait Guest: Send + Sync + fmt::Debug {
    /// Runs the vCPU until its TD exits.
    fn run(&self, entered: &Entered) -> Turn;
}

/// A guest that executes nothing: an interrupt takes it out at once, and it waits for events.
#[derive(Clone, Copy, Debug, Default)]
pub struct Halting;

impl Guest for Halting {
    fn run(&self, entered: &Entered) -> Turn {
        let exit = TdExit {
            reason: EXIT_REASON_EXTERNAL_INTERRUPT,
            qual: 0,
            gpa: 0,
            kind: TdExitKind::Async,
        };
        Turn {
            regs: entered.module.td_exit(entered.lp, exit),
            halted: true,
        }
    }
}
