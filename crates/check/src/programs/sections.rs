//! Threads that take one mutex again and again.

use std::rc::Rc;

use seamlock_sync::{Class, Mutex};

use crate::scenario::Setup;

static LOCK: Class = Class::new("lock");

/// `threads` threads with `sections` critical sections each, all on one mutex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sections {
    /// How many threads.
    pub threads: u32,
    /// How many critical sections each has.
    pub sections: u32,
}

impl Sections {
    /// Builds the scenario.
    pub fn build(&self, setup: &mut Setup) {
        let lock = Rc::new(Mutex::new(LOCK.only(), 0u64));
        for thread in 0..self.threads {
            let (lock, sections) = (lock.clone(), self.sections);
            setup.thread(format!("t{thread}"), move || {
                for _ in 0..sections {
                    *lock.lock() += 1;
                }
            });
        }
    }

    /// The number of traces: orders of the sections that keep each thread's own.
    pub fn traces(&self) -> u64 {
        let all = u64::from(self.threads * self.sections);
        let mine = factorial(u64::from(self.sections));
        (0..self.threads).fold(factorial(all), |traces, _| traces / mine)
    }
}

pub(crate) fn factorial(n: u64) -> u64 {
    (1..=n).product()
}
