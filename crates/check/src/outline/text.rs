//! An outline as text: one column per thread, time downwards.

use std::fmt::{self, Formatter};

use seamlock_sync::Action;

use super::rows::{Row, clashes, outline};
use crate::columns::{Line, columns, remarks};
use crate::counterexample::{Counterexample, Hold};
use crate::print::waits;
use crate::story::Span;

/// Writes what happens in a counterexample.
pub(crate) fn text(example: &Counterexample, f: &mut Formatter<'_>) -> fmt::Result {
    let rows = outline(example);
    let lines: Vec<Line> = rows
        .iter()
        .map(|row| (row.first, row.thread, words(row)))
        .collect();
    columns(example, &lines, f)?;
    let shown: usize = rows.iter().map(|row| row.last + 1 - row.first).sum();
    let violation = &example.violation;
    writeln!(f, "   ✗  {}: {}", violation.oracle, violation.cause)?;
    // Who waits for whom is told below.
    let stuck = example.waiting.iter().any(|wait| wait.blocked);
    let detail = match stuck {
        true => "",
        false => violation.detail.as_str(),
    };
    remarks(detail, f)?;
    for line in example.moment() {
        remarks(&line, f)?;
    }
    let all = example.steps.len();
    writeln!(
        f,
        "      ({all} operations, {shown} of them in the lines above)"
    )
}

fn words(row: &Row) -> String {
    match &row.function {
        Some(function) => format!("{}  [{function}]", row.text),
        None => row.text.clone(),
    }
}

/// Where a thread is at the end, what it holds and what it waits for.
pub(crate) fn moment(example: &Counterexample, thread: usize) -> Vec<String> {
    let name = &example.threads[thread];
    let mut lines = Vec::new();
    let open = |span: &&Span| span.thread == thread && span.until.is_none();
    let inside: Vec<&str> = example
        .spans
        .iter()
        .filter(open)
        .map(|span| span.what.as_str())
        .collect();
    if !inside.is_empty() {
        lines.push(format!("{name} is in {}", inside.join(", ")));
    }
    let (locks, words) = held(example, thread);
    if !locks.is_empty() {
        lines.push(format!("{name} holds {}", locks.join(", ")));
    }
    if !words.is_empty() {
        lines.push(format!(
            "{name} has locked in the TDX module: {}",
            words.join(", ")
        ));
    }
    let mine = example.waiting.iter().filter(|wait| wait.thread == thread);
    let told = mine.filter(|wait| wait.blocked || inside.is_empty());
    lines.extend(told.map(|wait| waits(example, wait)));
    lines
}

/// The locks and the lock words that a thread holds at the end.
fn held(example: &Counterexample, thread: usize) -> (Vec<String>, Vec<String>) {
    let (holds, clashes) = (example.holds(), clashes(example));
    let mine = holds
        .iter()
        .filter(|hold| hold.thread == thread && hold.until.is_none());
    let tried = |hold: &&Hold| {
        let words = [Action::TryShared, Action::TryExclusive, Action::Promote];
        words.contains(&example.steps[hold.from].action)
    };
    let (words, locks): (Vec<&Hold>, Vec<&Hold>) = mine.partition(tried);
    let shown = |hold: &Hold| {
        let mode = if hold.alone { "" } else { " (shared)" };
        format!("{}{mode}", example.object(&hold.name))
    };
    // Every SEAMCALL shares the words of what its pages are in. That hinders nobody.
    let matters = |hold: &&Hold| hold.alone || clashes.contains(&hold.name);
    let words = words.into_iter().filter(matters).map(shown).collect();
    (locks.into_iter().map(shown).collect(), words)
}
