//! SEAMCALLs that fail because somebody wants them to.

use std::fmt;

use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::{Leaf, TdxStatus};

/// A SEAMCALL that is about to be made.
#[derive(Clone, Copy, Debug)]
pub struct Upcoming<'a> {
    /// The CPU.
    pub cpu: u32,
    /// The registers.
    pub regs: &'a Regs,
    /// How many calls of this leaf KVM has made since boot, this one counted.
    pub nth: u64,
}

/// Somebody who makes SEAMCALLs fail. Asked before each one, on the thread that makes it, with
/// whatever locks it holds; may neither wait nor call KVM.
pub trait Inject: Send + Sync + fmt::Debug {
    /// The status that is answered in the module's place; None to make the call.
    fn status(&self, call: &Upcoming) -> Option<TdxStatus>;
}

/// One call that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Of which leaf.
    pub leaf: Leaf,
    /// Which one since boot, from 1.
    pub nth: u64,
    /// How it ends.
    pub status: TdxStatus,
}

impl Inject for Vec<Fault> {
    fn status(&self, call: &Upcoming) -> Option<TdxStatus> {
        let leaf = call.regs.leaf();
        let fault = self.iter().find(|f| f.leaf == leaf && f.nth == call.nth);
        fault.map(|fault| fault.status)
    }
}
