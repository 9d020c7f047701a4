//! Lockdep: every acquisition of a lock, checked against all that the thread holds.
//!
//! A [`Lockdep`] knows the declared order ([`locks::ORDER`](crate::locks::ORDER)) and learns the one it
//! sees, as the kernel's does: an order between two classes has to be seen once, by one thread, for its
//! opposite to be found later. What breaks a rule is reported as a [`Breach`], once for its two classes,
//! and nothing is stopped: a wrong discipline has to be runnable.
//!
//! A [`Host`](crate::Host) of a debug build has one; elsewhere [`Options`](crate::Options) says so. It
//! listens to every thread that has no hook of its own. A hook of one's own, such as a checker's, hands
//! the operations on, with a [`Held`] for each of its threads.
//!
//! # Locking
//! One host-only lock around what was learned and found.

mod breach;
mod held;
mod listen;
mod observed;
mod rules;
pub mod survey;
#[cfg(test)]
mod tests;
pub mod trace;

use std::collections::BTreeMap;
use std::sync::Arc;

use seamlock_sync::{Action, Op, Outcome, Private};

pub use breach::{Breach, Rule};
pub use held::{Acquisition, Held, Mode, Node};
pub use listen::{Inside, after, before};
pub use observed::{Observed, Step};

use crate::locks::cells;

/// `Op::arg` of the [`Action::Point`] that a wait for a grace period is.
pub(crate) const GRACE_PERIOD: u64 = 1;

#[derive(Debug, Default)]
struct State {
    observed: Observed,
    breaches: BTreeMap<(Rule, String, String), Breach>,
    unreported: Vec<Breach>,
}

/// What watches the locks of a machine.
#[derive(Debug, Default)]
pub struct Lockdep(Private<State>);

impl Lockdep {
    /// One that has seen nothing.
    pub fn new() -> Arc<Lockdep> {
        Arc::default()
    }

    /// The one that a machine has if nothing is said: in debug builds one, in others none.
    pub fn of_build() -> Option<Arc<Lockdep>> {
        cfg!(debug_assertions).then(Lockdep::new)
    }

    /// A thread that holds `held` is about to do `op`. Before and not after, so that what deadlocks is
    /// reported first.
    pub fn before(&self, held: &Held, op: &Op) {
        if let Some(wanted) = Acquisition::of(op) {
            self.acquire(held, &wanted);
        } else if op.action == Action::Point {
            self.point(held, op);
        }
    }

    /// A thread that holds `held` has done `op`.
    pub fn after(&self, held: &mut Held, op: &Op, outcome: Outcome) {
        if matches!(outcome, Outcome::Busy | Outcome::Interrupted) {
            return;
        }
        match op.action {
            Action::Unlock | Action::UnlockShared | Action::Leave => {
                held.remove(op.name);
            }
            _ => {
                if let Some(taken) = Acquisition::of(op) {
                    held.push(taken);
                }
            }
        }
    }

    /// A thread returns to user space with `held`, which it must not.
    pub fn leave(&self, held: &mut Held) {
        for left in held.clear() {
            self.report(Breach {
                rule: Rule::HeldAtReturn,
                acquired: left,
                against: left,
                held: Vec::new(),
                declared: Vec::new(),
                circle: Vec::new(),
            });
        }
    }

    fn acquire(&self, held: &Held, wanted: &Acquisition) {
        for breach in rules::check(held.stack(), wanted) {
            self.report(breach);
        }
        // Who only tries waits for nobody, so the order up to it is no dependency.
        if !wanted.tried {
            self.learn(held, wanted);
        }
    }

    fn learn(&self, held: &Held, wanted: &Acquisition) {
        if !wanted.class.kind.is_ordered() {
            return;
        }
        for outer in held
            .stack()
            .iter()
            .filter(|outer| outer.class.kind.is_ordered())
        {
            if outer.node() == wanted.node() {
                continue;
            }
            let step = Step {
                outer: *outer,
                inner: *wanted,
            };
            let circle = self.0.with(|state| state.observed.learn(step));
            if !circle.is_empty() {
                self.report(Breach {
                    rule: Rule::Cycle,
                    acquired: *wanted,
                    against: *outer,
                    held: held.stack().to_vec(),
                    declared: Vec::new(),
                    circle,
                });
            }
        }
    }

    /// A point where the thread may sleep: a wait for a grace period, or for the scheduler.
    fn point(&self, held: &Held, op: &Op) {
        if op.name.class == &cells::RESCHED {
            let breach = rules::check_sleep(held.stack(), op);
            breach.into_iter().for_each(|breach| self.report(breach));
        } else if op.arg == GRACE_PERIOD
            && let Some(wanted) = Acquisition::new(op, Mode::Wait)
        {
            self.acquire(held, &wanted);
        }
    }

    fn report(&self, breach: Breach) {
        self.0.with(|state| {
            let key = breach.key();
            if !state.breaches.contains_key(&key) {
                state.unreported.push(breach.clone());
                state.breaches.insert(key, breach);
            }
        });
    }

    /// All breaches so far, by rule and classes.
    pub fn breaches(&self) -> Vec<Breach> {
        self.0
            .with(|state| state.breaches.values().cloned().collect())
    }

    /// Breaches since this was asked last.
    pub(crate) fn unreported(&self) -> Vec<Breach> {
        self.0.with(|state| std::mem::take(&mut state.unreported))
    }

    /// The orders that were seen.
    pub fn observed(&self) -> Observed {
        self.0.with(|state| state.observed.clone())
    }
}
