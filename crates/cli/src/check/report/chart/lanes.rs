//! Which lanes a chart has: for each thread its calls, the calls within them, the state that it looks at
//! or changes, and each lock that matters.

use seamlock_check::{Counterexample, Hold, Row, What};
use seamlock_sync::Name;

/// One lane.
#[derive(Clone, Debug)]
pub struct Lane {
    /// Whose.
    pub thread: usize,
    /// Whether it is the lane of state that threads share.
    pub state: bool,
    /// Calls at this depth, if it is a lane of calls.
    pub depth: Option<usize>,
    /// The lock, if it is one.
    pub lock: Option<Name>,
    /// What stands beside it.
    pub label: String,
}

impl Lane {
    /// The style of its label.
    pub fn class(&self) -> &'static str {
        match (self.depth, self.lock) {
            (Some(0), _) => "name thread",
            (Some(_), _) => "name",
            _ => "name of-lock",
        }
    }
}

/// The lanes of a counterexample, thread by thread. A thread that does nothing has none.
pub fn lanes(example: &Counterexample, rows: &[Row]) -> Vec<Lane> {
    let acts = |thread: &usize| rows.iter().any(|row| row.thread == *thread);
    let threads = (0..example.threads.len()).filter(acts);
    threads
        .flat_map(|thread| lanes_of(example, rows, thread))
        .collect()
}

fn lanes_of(example: &Counterexample, rows: &[Row], thread: usize) -> Vec<Lane> {
    let lane = |depth, lock, label| Lane {
        thread,
        state: false,
        depth,
        lock,
        label,
    };
    let mut lanes = vec![lane(Some(0), None, thread_name(example, thread))];
    if example
        .spans
        .iter()
        .any(|span| span.thread == thread && span.depth > 0)
    {
        lanes.push(lane(Some(1), None, "SEAMCALL TDH.".to_owned()));
    }
    if rows
        .iter()
        .any(|row| row.thread == thread && row.what == What::Other)
    {
        let state = lane(None, None, "state".to_owned());
        lanes.push(Lane {
            state: true,
            ..state
        });
    }
    let mut locks: Vec<Name> = Vec::new();
    let missed = missed(example);
    let shown = |hold: &&Hold| {
        let row = |row: &Row| row.what == What::Lock && row.first == hold.from;
        hold.thread == thread && (missed.contains(&hold.name) || rows.iter().any(row))
    };
    let held = example.holds();
    let held = held.iter().filter(shown).map(|hold| hold.name);
    let wanted = example
        .steps
        .iter()
        .filter(|s| s.thread == thread && s.is_refused());
    let waits = example
        .waiting
        .iter()
        .filter(|w| w.thread == thread && w.blocked);
    for name in held
        .chain(wanted.map(|s| s.name))
        .chain(waits.map(|w| w.name))
    {
        if !locks.contains(&name) {
            locks.push(name);
        }
    }
    lanes.extend(
        locks
            .into_iter()
            .map(|name| lane(None, Some(name), example.object(&name))),
    );
    lanes
}

/// What somebody did not get.
fn missed(example: &Counterexample) -> Vec<Name> {
    let refused = example.steps.iter().filter(|step| step.is_refused());
    let waits = example.waiting.iter().filter(|wait| wait.blocked);
    refused
        .map(|step| step.name)
        .chain(waits.map(|wait| wait.name))
        .collect()
}

fn thread_name(example: &Counterexample, thread: usize) -> String {
    let about = example.about.get(thread).map_or("", String::as_str);
    format!("{} {about}", example.threads[thread])
}
