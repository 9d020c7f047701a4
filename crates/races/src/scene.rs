//! A scene: what is there, who does what, and what counts.

use seamlock_kvm::bug::{Bug, What};
use seamlock_tdx_abi::TdxStatus;

use crate::act::Act;
use crate::machine::Start;

/// One thread of a scene.
#[derive(Clone, Copy, Debug)]
pub struct Actor {
    /// Its name in schedules.
    pub name: &'static str,
    /// The CPU that it runs on.
    pub cpu: u32,
    /// What it does.
    pub act: Act,
    /// How often, one time after the other.
    pub times: u32,
}

/// What of all that can go wrong is what the scene is about. Everything else is left to the race that
/// it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// Every bug, and answers that belong to no serial order.
    AllBugs,
    /// Every bug, whatever the answers.
    OnlyBugs,
    /// Of the bugs, a SEAMCALL that found a lock word busy.
    Busy,
    /// Of the bugs, a SEAMCALL that found the TD in another state.
    WrongState,
    /// Only breaches of the lock order, by one thread or between several.
    LockOrder,
    /// Only answers to an ioctl with sound arguments that are no success.
    Refusals,
    /// All of it, and a state at the end that no serial order leaves.
    Everything,
}

impl Counts {
    /// Whether answers are compared with those of serial orders.
    pub fn compares(self) -> bool {
        !matches!(
            self,
            Counts::LockOrder | Counts::Refusals | Counts::OnlyBugs
        )
    }

    /// Whether the bug counts.
    pub fn counts(self, bug: &Bug) -> bool {
        match (self, &bug.what) {
            (Counts::AllBugs | Counts::OnlyBugs | Counts::Everything, _) => true,
            (Counts::LockOrder | Counts::Refusals, _) | (_, What::Condition(_)) => false,
            (Counts::Busy, What::Seamcall { status, .. }) => status.is(TdxStatus::OPERAND_BUSY),
            (Counts::WrongState, What::Seamcall { status, .. }) => {
                status.is(TdxStatus::OP_STATE_INCORRECT)
            }
        }
    }
}

/// A few threads on a TD that has got to some point of its launch.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    /// Tells the scenes of a race apart.
    pub name: &'static str,
    /// What is there.
    pub start: Start,
    /// Who does what.
    pub actors: &'static [Actor],
    /// What counts.
    pub counts: Counts,
}
