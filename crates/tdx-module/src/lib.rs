//! The software TDX module, version 1.5.06: `seamcall(lp, regs)`.
//!
//! The module knows nothing of KVM, of threads or of clocks. Its locks are the real ones, in the real
//! words, and none else: what is not locked in Intel's module is not locked here.

#![forbid(unsafe_code)]

pub mod memory;
pub mod platform;

mod words;

use seamlock_tdx_abi::regs::Regs;

pub use memory::Memory;
pub use platform::Platform;
pub use words::LockAt;

/// The TDX module of one machine.
#[derive(Debug)]
pub struct Module {
    platform: Platform,
    memory: Memory,
}

/// Where a logical processor is after a SEAMCALL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum After {
    /// Back in the host; the registers hold the result.
    Host,
    /// In the guest: TDH.VP.ENTER passed all its checks and the vCPU runs on this LP until
    /// `Module::td_exit`.
    Guest,
}

impl Module {
    /// A module just loaded (SEAMLDR done): SYS.INIT is the first call that makes sense.
    pub fn new(platform: Platform) -> Module {
        let memory = Memory::new(platform.ram_bytes);
        Module { platform, memory }
    }

    /// The machine's memory: the host writes its pages here.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The machine.
    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    /// One SEAMCALL on logical processor `lp`. RAX has the leaf in 15:0 and the version in 23:16, and
    /// receives the status; registers that the leaf does not return keep their values.
    pub fn seamcall(&self, lp: u32, regs: &mut Regs) -> After {
        let _ = (lp, regs);
        After::Host
    }
}
