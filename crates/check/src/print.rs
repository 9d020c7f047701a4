//! Counterexamples as text, every operation of them: one column per thread, time downwards.

use std::fmt::{self, Formatter};

use seamlock_sync::{Action, Outcome};

use crate::counterexample::{Counterexample, Shown, Waiting};
use crate::scenario::Holder;

/// Columns wider than this in all are folded into one.
const WIDEST: usize = 150;

/// Writes what happens in a counterexample.
pub(crate) fn text(example: &Counterexample, f: &mut Formatter<'_>) -> fmt::Result {
    let rows: Vec<(usize, String)> = example
        .steps
        .iter()
        .map(|step| (step.thread, line(example, step)))
        .collect();
    let widths: Vec<usize> = example
        .threads
        .iter()
        .enumerate()
        .map(|(slot, name)| width_of(slot, name, &rows))
        .collect();
    if widths.iter().sum::<usize>() + 2 * widths.len() > WIDEST {
        folded(example, &rows, f)?;
    } else {
        columns(example, &rows, &widths, f)?;
    }
    for wait in &example.waiting {
        writeln!(f, "      {}", waits(example, wait))?;
    }
    for (name, holders) in &example.held {
        let name = example.object(name);
        writeln!(f, "      {name} is held by {}", list(example, holders))?;
    }
    Ok(())
}

fn width_of(slot: usize, name: &str, rows: &[(usize, String)]) -> usize {
    let mine = rows
        .iter()
        .filter(|row| row.0 == slot)
        .map(|row| row.1.chars().count());
    let widest = mine.max();
    // A thread that does nothing needs no column.
    widest.map_or(0, |widest| widest.max(name.chars().count()))
}

fn columns(
    example: &Counterexample,
    rows: &[(usize, String)],
    widths: &[usize],
    f: &mut Formatter<'_>,
) -> fmt::Result {
    let mut head = String::from("      ");
    for (name, width) in example
        .threads
        .iter()
        .zip(widths)
        .filter(|pair| *pair.1 > 0)
    {
        head += &format!("{name:<width$}  ");
    }
    writeln!(f, "{}", head.trim_end())?;
    for (index, (thread, text)) in rows.iter().enumerate() {
        let used = widths[..*thread].iter().filter(|width| **width > 0);
        let indent: usize = used.map(|width| width + 2).sum();
        writeln!(f, "{index:>4}  {:indent$}{text}", "")?;
    }
    Ok(())
}

fn folded(
    example: &Counterexample,
    rows: &[(usize, String)],
    f: &mut Formatter<'_>,
) -> fmt::Result {
    let widest = example
        .threads
        .iter()
        .map(|name| name.chars().count())
        .max()
        .unwrap_or(0);
    for (index, (thread, text)) in rows.iter().enumerate() {
        writeln!(
            f,
            "{index:>4}  {:<widest$}  {text}",
            example.threads[*thread]
        )?;
    }
    Ok(())
}

/// One operation, as it stands in a column.
pub(crate) fn line(example: &Counterexample, step: &Shown) -> String {
    let verb = verb(step.action);
    let name = example.object(&step.name);
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
    if !wait.blocked {
        let object = example.object(&wait.name);
        return format!("{name} is about to {} {object}", verb(wait.action));
    }
    let by = list(example, &wait.holders);
    format!(
        "{name} waits to {} {} (held by {by})",
        verb(wait.action),
        example.object(&wait.name)
    )
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
