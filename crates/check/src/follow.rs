//! Replays a schedule and sees where the code leaves it.

use std::fmt;

use crate::engine::End;
use crate::print::verb;
use crate::schedule::{Schedule, clean, digest_of};
use crate::strategy::{Moment, Pick};

/// Where a replay left its schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// The step, from 0.
    pub step: usize,
    /// The thread that was to go on; empty when the schedule was over.
    pub thread: String,
    /// What was there instead.
    pub found: String,
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.thread.as_str() {
            "" => f.write_str(&self.found),
            thread => write!(f, "operation {}, of {thread}: {}", self.step, self.found),
        }
    }
}

const WHOLE: &str = "every operation has the digit of the schedule, and all together not its hash: one \
                     is another that happens to have the same digit, or the line was changed";

/// Goes on as a schedule says, and after its end with few switches.
#[derive(Debug)]
pub(crate) struct Follow {
    schedule: Schedule,
    // Whether what is done must be what the schedule says.
    strict: bool,
    digest: u64,
    diverged: Option<Divergence>,
}

impl Follow {
    /// Follows a schedule; strictly, or only in who goes on.
    pub(crate) fn new(schedule: Schedule, strict: bool) -> Follow {
        Follow {
            schedule,
            strict,
            digest: 0,
            diverged: None,
        }
    }

    pub(crate) fn pick(&mut self, moment: &Moment<'_>) -> Pick {
        let Some(name) = self.schedule.thread(moment.depth) else {
            return self.go_on(moment);
        };
        let slot = moment
            .threads
            .iter()
            .position(|thread| clean(&thread.name) == name);
        let Some(slot) = slot else {
            return self.leave(moment.depth, "there is no thread of this name".to_owned());
        };
        let Some(pending) = &moment.threads[slot].pending else {
            return self.leave(moment.depth, "it has ended".to_owned());
        };
        let object = moment.objects.at(pending.accesses.first.object).name;
        let what = format!("{} {object}", verb(pending.action));
        if moment.enabled & (1 << slot) == 0 {
            return self.leave(
                moment.depth,
                format!("it has to wait to {what}, at {}", pending.site),
            );
        }
        let name = &moment.threads[slot].name;
        let digest = digest_of(name, pending.action, &object, pending.arg);
        if self.strict && !self.schedule.fits(moment.depth, digest) {
            let found = format!("it is another, {what}, at {}", pending.site);
            return self.leave(moment.depth, found);
        }
        self.digest = crate::clock::mix(self.digest ^ digest);
        Pick::Run(slot as u8)
    }

    fn go_on(&mut self, moment: &Moment<'_>) -> Pick {
        let whole = self.digest == self.schedule.digest();
        if self.strict && !whole && moment.depth == self.schedule.len() {
            return self.leave(moment.depth, WHOLE.to_owned());
        }
        Pick::Run(moment.stay(moment.enabled))
    }

    fn leave(&mut self, step: usize, found: String) -> Pick {
        let thread = self.schedule.thread(step).unwrap_or_default().to_owned();
        self.diverged.get_or_insert(Divergence {
            step,
            thread,
            found,
        });
        Pick::Stop(End::Diverged)
    }

    /// The execution has ended after so many steps.
    pub(crate) fn finish(&mut self, steps: usize) {
        if self.diverged.is_some() || !self.strict {
            return;
        }
        if steps < self.schedule.len() {
            self.leave(steps, "the execution has ended".to_owned());
        } else if self.digest != self.schedule.digest() {
            self.leave(steps, WHOLE.to_owned());
        }
    }

    /// Where the execution left the schedule.
    pub(crate) fn diverged(&self) -> Option<&Divergence> {
        self.diverged.as_ref()
    }
}
