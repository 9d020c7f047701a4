//! Pages that a thread has blocked in the secure EPT, and why it did not track TLBs before it removed
//! them.

use std::cell::Cell;

use seamlock_kvm::locks::cells::TD_STATE;
use seamlock_kvm::observer::Seamcall;
use seamlock_kvm::tdx::TdState;
use seamlock_sync::{Op, Outcome, Word};
use seamlock_tdx_abi::{Leaf, TdxStatus};

/// What a thread has done since it blocked a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    /// Nothing that matters.
    Blocked,
    /// It found the TD not finalized, which needs no TDH.MEM.TRACK.
    SawItBuilt,
    /// It tracked, or should have.
    Other,
}

thread_local! {
    static SINCE: Cell<Since> = const { Cell::new(Since::Other) };
}

/// Notes a SEAMCALL of this thread that came back.
pub fn note(call: &Seamcall) {
    match call.leaf() {
        Leaf::MEM_RANGE_BLOCK if call.status() == TdxStatus::SUCCESS => SINCE.set(Since::Blocked),
        Leaf::MEM_RANGE_BLOCK | Leaf::MEM_TRACK => SINCE.set(Since::Other),
        _ => {}
    }
}

/// Notes what this thread has read.
pub fn note_load(op: &Op, outcome: Outcome) {
    if *op.name.class == TD_STATE && SINCE.get() == Since::Blocked {
        let runs = outcome == Outcome::Value(TdState::Runnable.to_word());
        SINCE.set(if runs {
            Since::Other
        } else {
            Since::SawItBuilt
        });
    }
}

/// Whether the thread left out TDH.MEM.TRACK because it found the TD not finalized after it had blocked
/// the page.
pub fn went_untracked() -> bool {
    SINCE.get() == Since::SawItBuilt
}
