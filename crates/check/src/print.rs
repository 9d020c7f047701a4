//! Counterexamples as text, every operation of them: one column per thread, time downwards.

use std::fmt::{self, Formatter};

use seamlock_sync::{Action, Outcome};

use crate::columns::{Line, columns};
use crate::counterexample::{Counterexample, Shown, Waiting};
use crate::scenario::Holder;

/// Writes what happens in a counterexample.
pub(crate) fn text(example: &Counterexample, f: &mut Formatter<'_>) -> fmt::Result {
    let steps = example.steps.iter().enumerate();
    let rows: Vec<Line> = steps
        .map(|(at, step)| (at, step.thread, line(example, step)))
        .collect();
    columns(example, &rows, f)?;
    for wait in &example.waiting {
        writeln!(f, "      {}", waits(example, wait))?;
    }
    for (name, holders) in &example.held {
        let name = example.object(name);
        writeln!(f, "      {name} is held by {}", list(example, holders))?;
    }
    Ok(())
}

/// One operation, as it stands in a column.
pub(crate) fn line(example: &Counterexample, step: &Shown) -> String {
    let verb = verb(step.action);
    let name = example.object(&step.name);
    if let Some(words) = &step.words {
        return words.clone();
    }
    match step.outcome {
        Outcome::Busy if !step.is_refused() => format!("{verb} {name}: it is another value"),
        Outcome::Busy => format!("{verb} {name} BUSY: {}", list(example, &step.busy_by)),
        Outcome::Interrupted => format!("{verb} {name} interrupted"),
        Outcome::Value(value) => match step.action {
            Action::Update => format!("{verb} {name} (was {value:#x})"),
            _ => format!("{verb} {name} = {value:#x}"),
        },
        Outcome::Done => match step.action {
            Action::Store => format!("{verb} {name} = {:#x}", step.arg),
            _ => format!("{verb} {name}"),
        },
    }
}

pub(crate) fn waits(example: &Counterexample, wait: &Waiting) -> String {
    let name = &example.threads[wait.thread];
    let object = example.object(&wait.name);
    if !wait.blocked {
        return format!("{name} is about to {} {object}", verb(wait.action));
    }
    if let Some(words) = &wait.words {
        return format!("{name} waits: {words}");
    }
    let shared = match wait.action {
        Action::LockShared => " (shared)",
        Action::AwaitChange => ", which nobody changes",
        Action::Wait | Action::WaitUninterruptible => ", which nobody wakes",
        _ => "",
    };
    let by = match wait.holders.is_empty() {
        true => String::new(),
        false => format!(", held by {}", list(example, &wait.holders)),
    };
    format!("{name} waits for {object}{shared}{by}")
}

pub(crate) fn list(example: &Counterexample, holders: &[Holder]) -> String {
    let one = |holder: &Holder| {
        let mode = if holder.alone { "" } else { " (shared)" };
        format!("{}{mode}", example.thread_name(*holder))
    };
    let all: Vec<String> = holders.iter().map(one).collect();
    if all.is_empty() {
        "nobody".to_owned()
    } else {
        all.join(", ")
    }
}

/// What an operation is called.
pub(crate) fn verb(action: Action) -> &'static str {
    match action {
        Action::Lock => "lock",
        Action::LockKillable => "lock (killable)",
        Action::TryLock => "try",
        Action::Unlock => "unlock",
        Action::LockShared => "lock shared",
        Action::UnlockShared => "unlock shared",
        Action::TryShared => "try shared",
        Action::TryExclusive => "try exclusive",
        Action::Promote => "promote",
        Action::Demote => "demote",
        Action::ReleaseShared => "release shared",
        Action::ReleaseExclusive => "release",
        Action::Load => "read",
        Action::Store => "write",
        Action::Update => "update",
        Action::Add => "add to",
        Action::Wait | Action::WaitUninterruptible => "wait on",
        Action::AwaitChange => "wait for a change of",
        Action::Notify => "notify",
        Action::AwaitRelease => "wait for release of",
        Action::Enter => "enter",
        Action::Leave => "leave",
        Action::Point => "may be preempted at",
    }
}
