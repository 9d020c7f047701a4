//! One SEAMCALL: the checks before any leaf, and the way to it.

use seamlock_tdx_abi::leaf::{Leaf, RaxIn};
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::status::TdxStatus;

use crate::sys::SysState;
use crate::tables::{BEFORE_READY, VERSIONED};
use crate::{After, Module, tdh};

/// A SEAMCALL under way.
#[derive(Debug)]
pub(crate) struct Call<'m, 'r> {
    /// The module.
    pub(crate) m: &'m Module,
    /// The logical processor that makes the call.
    pub(crate) lp: u32,
    /// The leaf.
    pub(crate) leaf: Leaf,
    /// Its version.
    pub(crate) version: u8,
    /// The registers: operands on the way in, results on the way out. RAX is set by the dispatcher.
    pub(crate) r: &'r mut Regs,
    /// Set by VP.ENTER when the guest runs.
    pub(crate) after: After,
}

/// What a leaf says: nothing went wrong, or this status. A status may also be of the success class.
pub(crate) type Done = Result<(), TdxStatus>;

/// The status that an error of an operand gives.
pub(crate) fn invalid(operand: OperandId) -> TdxStatus {
    TdxStatus::OPERAND_INVALID.with(operand)
}

impl Module {
    pub(crate) fn dispatch(&self, lp: u32, regs: &mut Regs) -> After {
        let rax = RaxIn::from_rax(regs.rax);
        let leaf = rax.leaf;
        let mut call = Call {
            m: self,
            lp,
            leaf,
            version: rax.version,
            r: regs,
            after: After::Host,
        };
        let done = check_dispatch(self, rax).and_then(|()| {
            let run = tdh::entry(leaf).ok_or(invalid(OperandId::RAX))?;
            run(&mut call)
        });
        let after = call.after;
        if after == After::Host {
            regs.rax = match done {
                Ok(()) => TdxStatus::SUCCESS.0,
                Err(status) => status.0,
            };
        }
        after
    }
}

/// The checks before any leaf, in the dispatcher's order (TDX module 1.5, `tdx_vmm_dispatcher.c`).
#[inline]
fn check_dispatch(m: &Module, rax: RaxIn) -> Done {
    let leaf = rax.leaf;
    if rax.reserved != 0 {
        return Err(invalid(OperandId::RAX));
    }
    if rax.version > 0 && !VERSIONED.contains(&leaf) {
        return Err(invalid(OperandId::RAX));
    }
    let state = m.sys.state.load();
    if state == SysState::Ready {
        return Ok(());
    }
    if state == SysState::Shutdown && leaf != Leaf::SYS_LP_SHUTDOWN {
        return Err(TdxStatus::SYS_SHUTDOWN);
    }
    if !BEFORE_READY.contains(&leaf) {
        return Err(TdxStatus::SYS_NOT_READY);
    }
    Ok(())
}
