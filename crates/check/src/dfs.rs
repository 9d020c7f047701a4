//! Plain depth-first search over all schedules. Only good for comparing with something better.

use crate::strategy::{Moment, Pick};

/// Where the search is.
#[derive(Debug, Default)]
pub(crate) struct Dfs {
    // The thread that was chosen at each depth, and those that are still to be.
    chosen: Vec<(u8, u16)>,
}

impl Dfs {
    pub(crate) fn known(&self) -> usize {
        self.chosen.len().saturating_sub(1)
    }

    pub(crate) fn forced(&self, depth: usize) -> Option<u8> {
        self.chosen.get(depth).map(|choice| choice.0)
    }

    pub(crate) fn pick(&mut self, moment: &Moment<'_>) -> Pick {
        let thread = moment.enabled.trailing_zeros() as u8;
        self.chosen.push((thread, moment.enabled & !(1 << thread)));
        Pick::Run(thread)
    }

    /// Moves on to the next schedule; `false` when there is none.
    pub(crate) fn advance(&mut self) -> bool {
        while let Some(choice) = self.chosen.last_mut() {
            if choice.1 != 0 {
                choice.0 = choice.1.trailing_zeros() as u8;
                choice.1 &= choice.1 - 1;
                return true;
            }
            self.chosen.pop();
        }
        false
    }
}
