//! Executions that violate something, in a form for people.

use std::fmt;
use std::panic::Location;

use seamlock_sync::{Action, Name, Outcome};

use crate::engine::Engine;
use crate::print;
use crate::scenario::{Holder, Violation};
use crate::schedule::Schedule;

/// An execution that violates something, re-ordered to few switches and run again to be sure.
#[derive(Clone, Debug)]
pub struct Counterexample {
    /// What was violated.
    pub violation: Violation,
    /// How to do it again.
    pub schedule: Schedule,
    /// The names of all threads.
    pub threads: Vec<String>,
    /// What was done up to the violation.
    pub steps: Vec<Shown>,
    /// What the threads that have not ended were about to do then.
    pub waiting: Vec<Waiting>,
    /// Who held what then.
    pub held: Vec<(Name, Vec<Holder>)>,
}

/// One operation of a counterexample.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The thread.
    pub thread: usize,
    /// What was done.
    pub action: Action,
    /// To which object.
    pub name: Name,
    /// With which argument.
    pub arg: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// Where in the source.
    pub site: &'static Location<'static>,
    /// Who held the object, if it was busy.
    pub busy_by: Vec<Holder>,
}

/// A thread that has not ended.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// The thread.
    pub thread: usize,
    /// What it is about to do.
    pub action: Action,
    /// To which object.
    pub name: Name,
    /// Whether it has to wait for that.
    pub blocked: bool,
    /// Who holds the object.
    pub holders: Vec<Holder>,
}

impl Counterexample {
    /// The name of a thread, or of the set-up.
    pub fn thread_name(&self, holder: Holder) -> &str {
        let name = holder.thread.and_then(|thread| self.threads.get(thread));
        name.map_or("set-up", String::as_str)
    }
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print::text(self, f)
    }
}

/// What the threads that have not ended are about to do.
pub(crate) fn waiting(engine: &Engine) -> Vec<Waiting> {
    let one = |(slot, thread): (usize, &crate::thread::Thread)| {
        let pending = thread.pending.as_ref()?;
        Some(Waiting {
            thread: slot,
            action: pending.action,
            name: engine.name_of(pending),
            blocked: !engine.ready(slot),
            holders: engine.holders(&engine.name_of(pending)),
        })
    };
    engine.threads.iter().enumerate().filter_map(one).collect()
}

/// The violation that a deadlock is. Where a thread would in truth try again and again, it is a livelock.
pub(crate) fn deadlock(engine: &Engine) -> Violation {
    let waits = waiting(engine);
    let mut classes: Vec<&str> = waits.iter().map(|wait| wait.name.class.name()).collect();
    classes.sort_unstable();
    classes.dedup();
    let name = |slot: usize| engine.threads[slot].name.as_str();
    let line = |wait: &Waiting| {
        let holder = |holder: &Holder| holder.thread.map_or("set-up", name);
        let holders: Vec<&str> = wait.holders.iter().map(holder).collect();
        let by = if holders.is_empty() {
            "nobody".to_owned()
        } else {
            holders.join(", ")
        };
        format!(
            "{} waits for {}, held by {by}",
            name(wait.thread),
            wait.name
        )
    };
    let detail = waits.iter().map(line).collect::<Vec<_>>().join("; ");
    let spins = |wait: &Waiting| matches!(wait.action, Action::AwaitChange | Action::AwaitRelease);
    let oracle = match waits.iter().any(spins) {
        true => "livelock",
        false => "deadlock",
    };
    Violation::new(oracle, format!("threads wait for {}", classes.join(", "))).with_detail(detail)
}
