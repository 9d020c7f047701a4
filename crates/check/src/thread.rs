//! One thread of a scenario, and the operation that it has come to.

use std::panic::Location;

use seamlock_sync::Action;

use crate::access::{Accesses, NOTHING};
use crate::object::NONE;

/// An operation that was announced and not done yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    pub(crate) action: Action,
    pub(crate) accesses: Accesses,
    /// The turn that a waiter has seen, else the operation's argument.
    pub(crate) arg: u64,
    pub(crate) site: &'static Location<'static>,
}

/// One thread of the scenario.
#[derive(Debug)]
pub(crate) struct Thread {
    pub(crate) name: String,
    pub(crate) pending: Option<Pending>,
    /// Its last event.
    pub(crate) own: u32,
    pub(crate) signal: u32,
    // The object whose last attempt was refused, and the turn it had then.
    pub(crate) refused: (u32, u64),
    // Which objects it named in the execution before, operation by operation.
    pub(crate) guesses: Vec<u32>,
    pub(crate) announced: usize,
}

impl Thread {
    pub(crate) fn new(name: &str, signal: u32) -> Thread {
        Thread {
            name: name.to_owned(),
            pending: None,
            own: NONE,
            signal,
            refused: (NOTHING, 0),
            guesses: Vec::new(),
            announced: 0,
        }
    }

    pub(crate) fn restart(&mut self, signal: u32) {
        self.pending = None;
        self.own = NONE;
        self.signal = signal;
        self.refused = (NOTHING, 0);
        self.announced = 0;
    }

    /// The turn that an object had when it refused this thread. A thread that was not refused has
    /// nothing to wait for: no object ever has the turn that it is given.
    pub(crate) fn refused_at(&self, object: u32) -> u64 {
        if self.refused.0 == object {
            self.refused.1
        } else {
            u64::MAX
        }
    }
}
