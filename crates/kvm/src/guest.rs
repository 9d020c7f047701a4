//! What runs between TDH.VP.ENTER and the TD exit.

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

/// Somebody who is the guest's processor.
pub trait Guest: Send + Sync + fmt::Debug {
    /// Runs the vCPU that was entered on `lp` until its TD exits.
    fn run(&self, module: &Module, lp: u32) -> Turn;
}

/// A guest that executes nothing: an interrupt takes it out at once, and it waits for events.
#[derive(Clone, Copy, Debug, Default)]
pub struct Halting;

impl Guest for Halting {
    fn run(&self, module: &Module, lp: u32) -> Turn {
        let exit = TdExit {
            reason: EXIT_REASON_EXTERNAL_INTERRUPT,
            qual: 0,
            gpa: 0,
            kind: TdExitKind::Async,
        };
        Turn {
            regs: module.td_exit(lp, exit),
            halted: true,
        }
    }
}
