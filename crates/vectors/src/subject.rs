//! What sequences are replayed on.

use seamlock_sync::{Busy, Mode, WordView};
use seamlock_tdx_abi::addr::Hpa;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_module::{After, LockAt, Module, TdExit};

/// A TDX module and its machine, as far as a recording touches them.
pub trait Subject {
    /// One SEAMCALL on `lp`.
    fn seamcall(&self, lp: u32, regs: &mut Regs) -> After;

    /// The guest on `lp` exits; what TDH.VP.ENTER returns. Only called when a guest runs there.
    fn guest_exit(&self, lp: u32, exit: &TdExit) -> Regs;

    /// Takes one lock word as a host call would, without its parents.
    ///
    /// # Errors
    /// When the word is busy.
    fn hold(&self, at: LockAt, mode: Mode) -> Result<(), Busy>;

    /// Gives back what [`hold`](Subject::hold) or [`guest_try`](Subject::guest_try) took.
    fn release(&self, at: LockAt, mode: Mode);

    /// The content of a lock word; `None` when there is no such word now.
    fn peek(&self, at: LockAt) -> Option<WordView>;

    /// One attempt to take the word by the rules of the guest side.
    ///
    /// # Errors
    /// When the word is busy, or reserved for the host.
    fn guest_try(&self, at: LockAt, mode: Mode) -> Result<(), Busy>;

    /// The host writes memory; false when there is none at `pa`.
    fn write(&self, pa: Hpa, bytes: &[u8]) -> bool;
}

impl Subject for Module {
    fn seamcall(&self, lp: u32, regs: &mut Regs) -> After {
        Module::seamcall(self, lp, regs)
    }

    fn guest_exit(&self, lp: u32, exit: &TdExit) -> Regs {
        Module::td_exit(self, lp, *exit)
    }

    fn hold(&self, at: LockAt, mode: Mode) -> Result<(), Busy> {
        Module::hold(self, at, mode)
    }

    fn release(&self, at: LockAt, mode: Mode) {
        Module::release(self, at, mode);
    }

    fn peek(&self, at: LockAt) -> Option<WordView> {
        Module::peek(self, at)
    }

    fn guest_try(&self, at: LockAt, mode: Mode) -> Result<(), Busy> {
        Module::guest_try(self, at, mode)
    }

    fn write(&self, pa: Hpa, bytes: &[u8]) -> bool {
        // Every HKID alias of an address is the same bytes.
        let pa = self.platform().without_hkid(pa.0);
        self.memory().write(pa, bytes).is_ok()
    }
}
