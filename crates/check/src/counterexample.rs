//! Executions that violate something, in a form for people.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::Location;

use seamlock_sync::{Action, Name, Outcome};

use crate::engine::Engine;
use crate::outline;
use crate::print;
use crate::scenario::{Holder, Violation};
use crate::schedule::Schedule;
use crate::shadow::acquires;
use crate::story::{Legend, Span, Telling, Told};

/// An execution that violates something, re-ordered to few switches and run again to be sure.
#[derive(Clone, Debug)]
pub struct Counterexample {
    /// What was violated.
    pub violation: Violation,
    /// How to do it again.
    pub schedule: Schedule,
    /// The names of all threads.
    pub threads: Vec<String>,
    /// What is to be known of each thread, such as where it runs; empty if nothing is.
    pub about: Vec<String>,
    /// What was done up to the violation.
    pub steps: Vec<Shown>,
    /// What the threads that have not ended were about to do then.
    pub waiting: Vec<Waiting>,
    /// Who held what then.
    pub held: Vec<(Name, Vec<Holder>)>,
    /// The calls that the threads were in.
    pub spans: Vec<Span>,
    /// What people call objects whose name says less.
    pub called: BTreeMap<Name, String>,
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
    /// The function that this is in, as people know it.
    pub function: Option<String>,
    /// What people call it, where that is not its action and object.
    pub words: Option<String>,
    /// Whether it is told in an outline.
    pub telling: Telling,
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
    /// What people call it, where that is not its action and object.
    pub words: Option<String>,
}

impl Shown {
    /// Whether it did not get a lock or a lock word. A cell that held another value refuses nothing.
    pub fn is_refused(&self) -> bool {
        self.outcome == Outcome::Busy && self.action != Action::Update
    }
}

impl Counterexample {
    /// What an object is called.
    pub fn object(&self, name: &Name) -> String {
        let known = self.called.get(name);
        known.map_or_else(|| name.to_string(), String::clone)
    }

    /// An operation in words.
    pub fn line(&self, step: &Shown) -> String {
        print::line(self, step)
    }

    /// The innermost call that a thread is in when it does operation number `index`.
    pub fn span_of(&self, thread: usize, index: usize) -> Option<&Span> {
        let has = |span: &&Span| span.has(thread, index);
        self.spans.iter().filter(has).max_by_key(|span| span.depth)
    }

    /// Its lines, with what does not matter folded away.
    pub fn outline(&self) -> Vec<outline::Row> {
        outline::outline(self)
    }

    /// Where each thread is at the end, what it holds and what it waits for.
    pub fn moment(&self) -> Vec<String> {
        let threads = 0..self.threads.len();
        threads
            .flat_map(|thread| outline::moment(self, thread))
            .collect()
    }

    /// How long each lock was held, in the order of acquisition.
    pub fn holds(&self) -> Vec<Hold> {
        let mut holds: Vec<Hold> = Vec::new();
        for (index, step) in self.steps.iter().enumerate() {
            let mine = |hold: &&mut Hold| {
                hold.until.is_none() && hold.name == step.name && hold.thread == step.thread
            };
            if gives_back(step)
                && let Some(hold) = holds.iter_mut().rev().find(mine)
            {
                hold.until = Some(index);
            }
            if acquires(step.action, step.outcome) {
                holds.push(Hold {
                    thread: step.thread,
                    name: step.name,
                    alone: alone(step.action),
                    from: index,
                    until: None,
                });
            }
        }
        holds
    }

    pub(crate) fn explain_names(&mut self, legend: &dyn Legend) {
        let about = |name: &String| legend.thread(name).unwrap_or_default();
        self.about = self.threads.iter().map(about).collect();
        let mut written: BTreeMap<Name, u64> = BTreeMap::new();
        for step in &mut self.steps {
            step.function = legend.function(step.site);
            step.telling = legend.telling(step.action, &step.name);
            let arg = match step.action {
                Action::Point => written.remove(&step.name).unwrap_or(step.arg),
                Action::Store => *written.entry(step.name).insert_entry(step.arg).get(),
                _ => step.arg,
            };
            step.words = legend.operation(Told {
                action: step.action,
                name: &step.name,
                arg,
                outcome: Some(step.outcome),
            });
        }
        for wait in &mut self.waiting {
            wait.words = legend.operation(Told {
                action: wait.action,
                name: &wait.name,
                arg: 0,
                outcome: None,
            });
        }
        let steps = self.steps.iter().map(|step| step.name);
        let waits = self.waiting.iter().map(|wait| wait.name);
        let held = self.held.iter().map(|held| held.0);
        let all = steps.chain(waits).chain(held);
        self.called = all
            .filter_map(|name| Some((name, legend.object(&name)?)))
            .collect();
    }

    /// The name of a thread, or of the set-up.
    pub fn thread_name(&self, holder: Holder) -> &str {
        let name = holder.thread.and_then(|thread| self.threads.get(thread));
        name.map_or("set-up", String::as_str)
    }
}

/// What happens in a counterexample, without what is violated and the schedule. `{:#}` lists every
/// operation.
#[derive(Clone, Copy, Debug)]
pub struct Story<'a>(pub &'a Counterexample);

impl fmt::Display for Story<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() {
            print::text(self.0, f)
        } else {
            outline::text(self.0, f)
        }
    }
}

/// A lock that a thread held for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The thread.
    pub thread: usize,
    /// The lock.
    pub name: Name,
    /// Whether it held it alone.
    pub alone: bool,
    /// The operation that took it.
    pub from: usize,
    /// The operation that gave it back, if that was before the violation.
    pub until: Option<usize>,
}

fn alone(action: Action) -> bool {
    let shared = [Action::LockShared, Action::TryShared, Action::Demote];
    !shared.contains(&action)
}

fn gives_back(step: &Shown) -> bool {
    use Action::{Demote, Promote, ReleaseExclusive, ReleaseShared, Unlock, UnlockShared};
    match step.action {
        Unlock | UnlockShared | ReleaseExclusive | ReleaseShared | Demote => true,
        Promote => step.outcome != Outcome::Busy,
        _ => false,
    }
}

/// In columns, with calls folded; `{:#}` lists every operation.
impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "refuted: {}", self.violation)?;
        writeln!(f, "replay: {}", self.schedule)?;
        if f.alternate() {
            write!(f, "{:#}", Story(self))
        } else {
            write!(f, "{}", Story(self))
        }
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
            words: None,
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
        let by = match holders.is_empty() {
            true => String::new(),
            false => format!(", held by {}", holders.join(", ")),
        };
        format!(
            "{} waits for {}{by}",
            name(wait.thread),
            wait.name.class.name()
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
