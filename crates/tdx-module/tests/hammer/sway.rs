//! A hook that takes the processor away from threads in the middle of things.

#![allow(clippy::disallowed_types, clippy::disallowed_methods)] // threads are the point here

use std::cell::Cell;
use std::sync::Arc;

use seamlock_sync::{Hook, Op, Outcome, Verdict};

use super::dice::Dice;

/// Lets another thread run at one in so many operations on locks and cells.
#[derive(Clone, Copy, Debug)]
pub struct Sway {
    /// One in so many.
    pub one_in: usize,
}

thread_local! {
    static OPERATIONS: Cell<u64> = const { Cell::new(0) };
}

impl Sway {
    /// Begins, for all threads, until [`Sway::end`].
    pub fn begin(self) {
        seamlock_sync::install_global(Some(Arc::new(self)));
    }

    /// Ends.
    pub fn end() {
        seamlock_sync::install_global(None);
    }

    fn maybe_yield(self) {
        let n = OPERATIONS.with(|n| n.replace(n.get().wrapping_add(1)));
        let thread = std::ptr::from_ref(&n) as u64;
        if Dice::new(n ^ thread.rotate_left(32)).one_in(self.one_in) {
            std::thread::yield_now();
        }
    }
}

impl Hook for Sway {
    fn before(&self, _: &Op) -> Verdict {
        self.maybe_yield();
        Verdict::Go
    }

    fn after(&self, _: &Op, _: Outcome) {
        self.maybe_yield();
    }
}
