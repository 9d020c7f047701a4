//! How much a check may cost. The clock is read here and nowhere else, and decides only when to end.

use std::time::{Duration, Instant};

use crate::verdict::Limit;

/// How much a check may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The most executions, walks included.
    pub executions: u64,
    /// The most time.
    pub time: Option<Duration>,
    /// The most operations of one execution; at most 65 534.
    pub steps: usize,
}

impl Default for Budget {
    /// Ten million executions of at most 20,000 operations each, without a limit of time.
    fn default() -> Budget {
        Budget {
            executions: 10_000_000,
            time: None,
            steps: 20_000,
        }
    }
}

/// What is left of a budget.
#[derive(Debug)]
pub(crate) struct Purse {
    budget: Budget,
    started: Option<Instant>,
    executions: u64,
}

impl Purse {
    pub(crate) fn new(budget: Budget) -> Purse {
        Purse {
            budget,
            started: budget.time.map(|_| now()),
            executions: 0,
        }
    }

    /// Pays for one execution.
    pub(crate) fn pay(&mut self) -> Result<(), Limit> {
        if self.executions >= self.budget.executions {
            return Err(Limit::Executions);
        }
        self.executions += 1;
        match (self.budget.time, self.started) {
            // A look at the clock costs as much as a hundredth of a short execution.
            (Some(time), Some(started)) if started.elapsed() > time => Err(Limit::Time),
            _ => Ok(()),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the budget of time")]
fn now() -> Instant {
    Instant::now()
}
