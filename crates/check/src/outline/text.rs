//! An outline as text: one column per thread, time downwards.

use std::fmt::{self, Formatter};

use seamlock_sync::Action;

use super::rows::{Row, outline};
use crate::counterexample::{Counterexample, Hold};
use crate::print::waits;
use crate::story::Span;

/// Columns wider than this in all are folded into one.
const WIDEST: usize = 150;

/// Writes what happens in a counterexample.
pub(crate) fn text(example: &Counterexample, f: &mut Formatter<'_>) -> fmt::Result {
    let rows = outline(example);
    let widths: Vec<usize> = (0..example.threads.len())
        .map(|thread| width_of(example, thread, &rows))
        .collect();
    let side_by_side = widths.iter().sum::<usize>() + 2 * widths.len() <= WIDEST;
    if side_by_side {
        head(example, &widths, f)?;
    }
    let names = example.threads.iter().map(|name| name.chars().count());
    let widest = names.max().unwrap_or(0);
    for row in &rows {
        write!(f, "{:>4}  ", row.first)?;
        if side_by_side {
            let before = widths[..row.thread].iter().filter(|width| **width > 0);
            let indent: usize = before.map(|width| width + 2).sum();
            write!(f, "{:indent$}", "")?;
        } else {
            write!(f, "{:<widest$}  ", example.threads[row.thread])?;
        }
        writeln!(f, "{}", words(row))?;
    }
    let shown: usize = rows.iter().map(|row| row.last + 1 - row.first).sum();
    writeln!(
        f,
        "      ✗ after {} operations, {shown} of them above: {}",
        example.steps.len(),
        example.violation.cause
    )?;
    let mut lines = example.moment().into_iter();
    lines.try_for_each(|line| writeln!(f, "      {line}"))
}

fn words(row: &Row) -> String {
    match &row.function {
        Some(function) => format!("{}  [{function}]", row.text),
        None => row.text.clone(),
    }
}

fn width_of(example: &Counterexample, thread: usize, rows: &[Row]) -> usize {
    let mine = rows.iter().filter(|row| row.thread == thread);
    let widest = mine.map(|row| words(row).chars().count()).max();
    // A thread that does nothing needs no column.
    widest.map_or(0, |widest| {
        widest.max(example.threads[thread].chars().count())
    })
}

fn head(example: &Counterexample, widths: &[usize], f: &mut Formatter<'_>) -> fmt::Result {
    let columns = example.threads.iter().zip(widths);
    let mut head = String::from("      ");
    for (name, width) in columns.filter(|column| *column.1 > 0) {
        head += &format!("{name:<width$}  ");
    }
    writeln!(f, "{}", head.trim_end())
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
        lines.push(format!("{name} has the lock words {}", words.join(", ")));
    }
    let mine = example.waiting.iter().filter(|wait| wait.thread == thread);
    let told = mine.filter(|wait| wait.blocked || inside.is_empty());
    lines.extend(told.map(|wait| waits(example, wait)));
    lines
}

/// The locks and the lock words that a thread holds at the end.
fn held(example: &Counterexample, thread: usize) -> (Vec<String>, Vec<String>) {
    let holds = example.holds();
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
    let all = |holds: Vec<&Hold>| holds.into_iter().map(shown).collect();
    (all(locks), all(words))
}
