//! The order of KVM's blocking locks, by lockdep: one thread is enough to see a breach.

use std::collections::BTreeMap;
use std::sync::Arc;

use seamlock_check::{Oracle, Step, View, Violation};
use seamlock_kvm::kernel_function;
use seamlock_kvm::lockdep::{Acquisition, Held, Lockdep};

/// The name of the oracle.
pub const LOCK_ORDER: &str = "lock order";

/// Shows every operation to a lockdep.
#[derive(Debug, Default)]
pub struct LockOrder {
    lockdep: Arc<Lockdep>,
    held: BTreeMap<usize, Held>,
    told: usize,
}

impl Oracle for LockOrder {
    fn step(&mut self, _view: &View<'_>, step: &Step<'_>) -> Option<Violation> {
        let held = self.held.entry(step.thread).or_default();
        self.lockdep.before(held, step.op);
        self.lockdep.after(held, step.op, step.outcome);
        let breaches = self.lockdep.breaches();
        if breaches.len() <= self.told {
            return None;
        }
        self.told = breaches.len();
        // They come in the order of their rules; any one of them stands for the acquisition.
        let breach = breaches.first()?;
        let cause = format!(
            "{}: {} under {}",
            breach.rule.title(),
            breach.acquired.title(),
            breach.against.title()
        );
        let place = |of: &Acquisition| match kernel_function(of.site) {
            Some(function) => format!("{} in {function}", of.title()),
            None => of.title(),
        };
        let detail = format!(
            "{}, under {}",
            place(&breach.acquired),
            place(&breach.against)
        );
        Some(Violation::new(LOCK_ORDER, cause).with_detail(detail))
    }
}
