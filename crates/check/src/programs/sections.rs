//! Threads that take one mutex again and again.

use std::sync::Arc;

use seamlock_sync::Class;

use crate::programs::api::{Api, Ours, Threads, add};
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
        add(setup, self.threads::<Ours>());
    }

    /// The threads.
    pub fn threads<A: Api>(&self) -> Threads {
        let lock = Arc::new(A::mutex(LOCK.only()));
        let sections = self.sections;
        let thread = |slot| {
            let lock = lock.clone();
            let body = move || (0..sections).for_each(|_| A::locked(&lock, || ()));
            (
                format!("t{slot}").into(),
                Box::new(body) as Box<dyn FnOnce() + Send>,
            )
        };
        (0..self.threads).map(thread).collect()
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
