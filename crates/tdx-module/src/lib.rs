//! The software TDX module, version 1.5.06: `seamcall(lp, regs)`.
//!
//! The module knows nothing of KVM, of threads or of clocks. Its locks are the real ones, in the real
//! words, and none else: what is not locked in Intel's module is not locked here. See [`locks`].
//!
//! Each host leaf is a file of [`tdh`], named as the leaf is: TDH.MEM.PAGE.ADD is
//! `tdh/mem_page_add.rs`. What is a table in the specification is a table in [`tables`].

#![forbid(unsafe_code)]

pub mod audit;
pub mod cpuid;
pub mod guest;
pub mod locks;
pub mod measure;
pub mod memory;
pub mod metadata;
pub mod platform;
pub mod report;
pub mod tables;
pub mod tdg;
pub mod tdh;

mod bring_up;
mod call;
mod msr;
mod operand;
mod pamt;
mod sept;
mod sys;
mod td;
mod td_exit;
mod tdmr;
mod tsc;
mod vp;
mod vp_state;
mod words;

use seamlock_tdx_abi::regs::Regs;

pub use measure::Digest;
pub use memory::Memory;
pub use platform::Platform;
pub use td_exit::{TdExit, TdExitKind};
pub use words::LockAt;

/// The TDX module of one machine.
#[derive(Debug)]
pub struct Module {
    platform: Platform,
    memory: Memory,
    pamt: pamt::Pamt,
    sys: sys::Sys,
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
        let pamt = pamt::Pamt::new(platform.ram_bytes);
        let sys = sys::Sys::new(&platform);
        Module {
            platform,
            memory,
            pamt,
            sys,
        }
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
    ///
    /// `lp` is one of the platform's; a call from an LP that does not exist is our caller's bug and is
    /// answered as if from LP 0.
    #[inline]
    pub fn seamcall(&self, lp: u32, regs: &mut Regs) -> After {
        let lp = if lp < self.platform.lps { lp } else { 0 };
        self.sys.lps[lp as usize].busy.store(true);
        let after = self.dispatch(lp, regs);
        // An LP in a guest is inside the module until its TD exits.
        self.sys.lps[lp as usize].busy.store(after == After::Guest);
        after
    }
}
