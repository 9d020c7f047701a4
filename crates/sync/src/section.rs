//! Sections that have no lock of their own, and the polite way to retry.

use crate::hook::{Action, announce, hooked};
use crate::name::Name;

/// A stretch of code that other code must know of though no lock marks it: an SRCU read side,
/// interrupts off, a loaded vCPU. Left when dropped.
#[derive(Debug)]
pub struct Section {
    name: Name,
}

impl Section {
    /// Enters the section.
    #[track_caller]
    pub fn enter(name: Name) -> Section {
        announce(Action::Enter, name, 0);
        Section { name }
    }

    /// The section's name.
    pub fn name(&self) -> Name {
        self.name
    }
}

impl Drop for Section {
    fn drop(&mut self) {
        announce(Action::Leave, self.name, 0);
    }
}

/// What a loop does before it tries again because `busy` was held: it lets the holder go on. Under a
/// scheduler the thread runs again only after the word was given back, so that a retry loop is finite.
#[track_caller]
pub fn relax(busy: Name) {
    if hooked() {
        announce(Action::AwaitRelease, busy, 0);
    } else {
        std::thread::yield_now();
    }
}

/// What a loop does before it looks at `cell` again: it lets others change it. Under a scheduler the
/// thread runs again only after somebody wrote to the cell, or when a signal came.
#[track_caller]
pub fn relax_until_changed(cell: Name) {
    if hooked() {
        let _ = announce(Action::AwaitChange, cell, 0);
    } else {
        std::thread::yield_now();
    }
}
