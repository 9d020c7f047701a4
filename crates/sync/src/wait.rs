//! Sleeping until a condition holds.

use std::panic::Location;
use std::time::Duration;

use crate::hook::{self, Action, Op, Outcome, Verdict, hooked, watched};
use crate::mutex::Interrupted;
use crate::name::Name;

/// How often a sleeper looks for a signal that nobody notified it of.
const SIGNAL_POLL: Duration = Duration::from_millis(2);

/// A queue of sleepers: the kernel's `swait`/`wait_event`, a kicked vCPU, SRCU's grace period.
///
/// Whoever makes a condition true calls [`notify`](WaitQueue::notify) afterwards; whoever waits gives
/// the condition to [`wait_until`](WaitQueue::wait_until). An epoch counts the notifications, so that
/// one which comes between the test and the sleep is not lost.
#[derive(Debug)]
pub struct WaitQueue {
    name: Name,
    epoch: parking_lot::Mutex<u64>,
    changed: parking_lot::Condvar,
}

impl WaitQueue {
    /// Makes a queue of this name.
    pub const fn new(name: Name) -> WaitQueue {
        WaitQueue {
            name,
            epoch: parking_lot::Mutex::new(0),
            changed: parking_lot::Condvar::new(),
        }
    }

    /// Wakes every sleeper, to test its condition again.
    #[track_caller]
    pub fn notify(&self) {
        let op = hooked().then(|| self.op(Action::Notify, 0));
        if let Some(op) = &op {
            hook::before(op);
        }
        let now = {
            let mut epoch = self.epoch.lock();
            *epoch += 1;
            *epoch
        };
        self.changed.notify_all();
        if let Some(op) = &op {
            hook::after(op, Outcome::Value(now));
        }
    }

    /// Sleeps until `ready` says so, or until `killed` says that a signal is pending.
    #[track_caller]
    pub fn wait_until(
        &self,
        ready: impl FnMut() -> bool,
        killed: impl Fn() -> bool,
    ) -> Result<(), Interrupted> {
        self.sleep(Action::Wait, ready, killed)
    }

    /// Sleeps until `ready` says so, whatever signals come.
    #[track_caller]
    pub fn wait_uninterruptible(&self, ready: impl FnMut() -> bool) {
        // Nothing kills it.
        let _ = self.sleep(Action::WaitUninterruptible, ready, || false);
    }

    #[track_caller]
    fn sleep(
        &self,
        action: Action,
        mut ready: impl FnMut() -> bool,
        killed: impl Fn() -> bool,
    ) -> Result<(), Interrupted> {
        loop {
            let seen = self.seen();
            if ready() {
                return Ok(());
            }
            if hooked() {
                self.wait_hooked(action, seen, &killed)?;
                continue;
            }
            if killed() {
                return Err(Interrupted);
            }
            let mut epoch = self.epoch.lock();
            if *epoch == seen {
                self.changed.wait_for(&mut epoch, SIGNAL_POLL);
            }
        }
    }

    /// Which notification is the last that the test to come takes into account. A hook is told, for
    /// whether the sleep after the test returns depends on it.
    #[track_caller]
    fn seen(&self) -> u64 {
        watched(
            Action::Load,
            self.name,
            0,
            || *self.epoch.lock(),
            |&v| Outcome::Value(v),
        )
    }

    #[track_caller]
    fn wait_hooked(
        &self,
        action: Action,
        seen: u64,
        killed: impl Fn() -> bool,
    ) -> Result<(), Interrupted> {
        let op = self.op(action, seen);
        if hook::before(&op) == Verdict::Interrupted {
            hook::after(&op, Outcome::Interrupted);
            return Err(Interrupted);
        }
        // A listener does not wait for us; a scheduler already has, and knows of the signals.
        let mut epoch = self.epoch.lock();
        if *epoch == seen && killed() {
            drop(epoch);
            hook::after(&op, Outcome::Interrupted);
            return Err(Interrupted);
        }
        if *epoch == seen {
            self.changed.wait_for(&mut epoch, SIGNAL_POLL);
        }
        let now = *epoch;
        drop(epoch);
        hook::after(&op, Outcome::Value(now));
        Ok(())
    }

    #[track_caller]
    fn op(&self, action: Action, arg: u64) -> Op {
        Op {
            action,
            name: self.name,
            nest: None,
            arg,
            site: Location::caller(),
        }
    }
}
