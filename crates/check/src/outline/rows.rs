//! The lines of an outline.

use std::collections::{BTreeMap, BTreeSet};

use seamlock_sync::{Action, Name};

use crate::counterexample::{Counterexample, Hold, Shown};
use crate::print::{line, list, verb};
use crate::story::Telling;

/// What a line of an outline is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A thread begins a call.
    Begins,
    /// A call has ended.
    Ends,
    /// A call within a call, or a part of it.
    Inner,
    /// A lock or lock word was not to be had.
    Busy,
    /// A lock is taken or given back.
    Lock,
    /// Anything else.
    Other,
}

/// One line of an outline: some operations of one thread, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The thread.
    pub thread: usize,
    /// What it is.
    pub what: What,
    /// Its words.
    pub text: String,
    /// The function that it is in, where that is known and not the one of the thread's line before.
    pub function: Option<String>,
    /// The first operation of it.
    pub first: usize,
    /// The last.
    pub last: usize,
    // Which span it belongs to.
    span: Option<usize>,
}

/// The lines of a counterexample.
pub(crate) fn outline(example: &Counterexample) -> Vec<Row> {
    let mut outliner = Outliner {
        example,
        contested: contested(&example.steps),
        clashes: clashes(example),
        holds: example.holds(),
        rows: Vec::new(),
        functions: BTreeMap::new(),
    };
    for (index, step) in example.steps.iter().enumerate() {
        outliner.step(index, step);
    }
    repeats(outliner.rows, example)
}

/// Folds calls that a thread makes again and again into one line. What such a call answers is told only
/// where it was kept out.
fn repeats(rows: Vec<Row>, example: &Counterexample) -> Vec<Row> {
    let mut folded: Vec<(Row, usize)> = Vec::new();
    let mut rows = rows.into_iter().peekable();
    while let Some(mut row) = rows.next() {
        let whole =
            row.what == What::Inner && row.span.is_some_and(|at| is_whole(example, at, &row));
        if !whole {
            folded.push((row, 1));
            continue;
        }
        if let Some(end) = rows.next_if(|next| next.what == What::Ends && next.span == row.span) {
            row.last = end.last;
            row.text = end.text;
        }
        let called = |row: &Row| row.span.map(|at| example.spans[at].what.as_str());
        match folded.last_mut() {
            Some((before, times))
                if before.what == What::Inner
                    && before.thread == row.thread
                    && called(before) == called(&row)
                    && before.span.is_some_and(|at| is_whole(example, at, before)) =>
            {
                (before.last, *times) = (row.last, *times + 1);
                before.text = format!("{} × {times}", called(&row).unwrap_or_default());
            }
            _ => folded.push((row, 1)),
        }
    }
    folded.into_iter().map(|(row, _)| row).collect()
}

/// Whether a line has its call from the beginning to the end.
fn is_whole(example: &Counterexample, span: usize, row: &Row) -> bool {
    let span = &example.spans[span];
    let before = example.steps[..row.first].iter().enumerate();
    let begun = before
        .skip(span.from)
        .any(|(at, step)| span.has(step.thread, at));
    span.until.is_some() && !begun && !row.text.ends_with('…')
}

/// Objects whose order of use between threads can be told.
fn contested(steps: &[Shown]) -> BTreeSet<Name> {
    let mut users: BTreeMap<Name, (BTreeSet<usize>, bool)> = BTreeMap::new();
    for step in steps {
        let (threads, changes) = users.entry(step.name).or_default();
        threads.insert(step.thread);
        *changes |= !only_looks(step.action);
    }
    let contested = users
        .into_iter()
        .filter(|(_, (threads, changes))| threads.len() > 1 && *changes);
    contested.map(|(name, _)| name).collect()
}

fn only_looks(action: Action) -> bool {
    use Action::*;
    matches!(
        action,
        Load | LockShared
            | UnlockShared
            | TryShared
            | ReleaseShared
            | Enter
            | Leave
            | Point
            | Wait
            | WaitUninterruptible
            | AwaitChange
    )
}

/// Objects that somebody did not get.
pub(crate) fn clashes(example: &Counterexample) -> BTreeSet<Name> {
    let refused = example.steps.iter().filter(|step| step.is_refused());
    let refused = refused.map(|step| step.name);
    let waits = example.waiting.iter().filter(|wait| wait.blocked);
    refused.chain(waits.map(|wait| wait.name)).collect()
}

struct Outliner<'a> {
    example: &'a Counterexample,
    contested: BTreeSet<Name>,
    clashes: BTreeSet<Name>,
    holds: Vec<Hold>,
    rows: Vec<Row>,
    // The function of each thread's last line.
    functions: BTreeMap<usize, String>,
}

impl Outliner<'_> {
    fn step(&mut self, index: usize, step: &Shown) {
        self.leave_inner(index, step);
        let inside = |(_, span): &(usize, &crate::story::Span)| span.has(step.thread, index);
        let spans: Vec<(usize, usize)> = self
            .example
            .spans
            .iter()
            .enumerate()
            .filter(inside)
            .map(|(at, span)| (at, span.depth))
            .collect();
        for &(at, depth) in &spans {
            if depth == 0 && self.first_of(at) == Some(index) {
                let what = self.example.spans[at].what.clone();
                self.push(index, step, What::Begins, what, Some(at));
            }
        }
        match spans.iter().find(|span| span.1 > 0) {
            Some(&(at, _)) => self.inner(index, step, at),
            None => self.outer(index, step),
        }
        for (at, depth) in spans {
            let span = &self.example.spans[at];
            if depth == 0
                && self.last_of(at) == Some(index)
                && let Some(how) = &span.how
            {
                let text = format!("{} returns {how}", span.what);
                self.push(index, step, What::Ends, text, Some(at));
            }
        }
    }

    fn steps_of(&self, span: usize) -> impl DoubleEndedIterator<Item = usize> {
        let span = &self.example.spans[span];
        let steps = self.example.steps.iter().enumerate();
        steps
            .filter(move |(index, step)| span.has(step.thread, *index))
            .map(|(index, _)| index)
    }

    fn first_of(&self, span: usize) -> Option<usize> {
        self.steps_of(span).next()
    }

    /// The last operation of a span that has ended.
    fn last_of(&self, span: usize) -> Option<usize> {
        self.example.spans[span].until?;
        self.steps_of(span).next_back()
    }

    /// An operation of a call within a call.
    fn inner(&mut self, index: usize, step: &Shown, span: usize) {
        let what = &self.example.spans[span].what;
        let goes_on = self.rows.last().is_some_and(|row| row.span == Some(span));
        if !goes_on {
            let begun = self.first_of(span) != Some(index);
            let text = if begun {
                format!("… {what} goes on")
            } else {
                what.clone()
            };
            self.push(index, step, What::Inner, text, Some(span));
        }
        if step.is_refused() {
            let text = self.refusal(index, step);
            self.push(index, step, What::Busy, text, Some(span));
        }
        let ended = self.last_of(span) == Some(index);
        let how = self.example.spans[span].how.clone().unwrap_or_default();
        if let Some(row) = self.rows.last_mut() {
            row.last = index;
        }
        if ended && !how.is_empty() {
            let text = format!("{} → {how}", self.example.spans[span].what);
            self.push(index, step, What::Ends, text, Some(span));
        }
    }

    /// Who has what this operation did not get, and which call that is a part of.
    fn refusal(&self, index: usize, step: &Shown) -> String {
        let by = |holder: &crate::Holder| {
            let thread = holder.thread?;
            let span = self
                .example
                .span_of(thread, self.last_before(thread, index)?)?;
            (span.depth > 0).then(|| format!(" in {}", span.what))
        };
        let calls: BTreeSet<String> = step.busy_by.iter().filter_map(by).collect();
        format!(
            "BUSY: {} {}, held by {}{}",
            verb(step.action),
            self.example.object(&step.name),
            list(self.example, &step.busy_by),
            calls.into_iter().collect::<Vec<_>>().join(","),
        )
    }

    fn last_before(&self, thread: usize, index: usize) -> Option<usize> {
        let steps = &self.example.steps[..index];
        steps.iter().rposition(|step| step.thread == thread)
    }

    /// Another thread comes in between: says what the one that stops has that somebody will miss.
    fn leave_inner(&mut self, index: usize, step: &Shown) {
        let example = self.example;
        let Some(row) = self.rows.last_mut() else {
            return;
        };
        let Some(span) = row.span.map(|span| &example.spans[span]) else {
            return;
        };
        let over = span.until.is_some_and(|until| until <= index);
        if row.what != What::Inner || row.thread == step.thread || over {
            return;
        }
        let at = row.last;
        let held = self.holds.iter().filter(|hold| {
            let now = hold.from <= at && hold.until.is_none_or(|until| until > at);
            now && hold.thread == row.thread && self.clashes.contains(&hold.name)
        });
        let shown = |hold: &Hold| {
            let mode = if hold.alone { "exclusive" } else { "shared" };
            format!("{} {mode}", example.object(&hold.name))
        };
        let held: Vec<String> = held.map(shown).collect();
        if !held.is_empty() {
            row.text += &format!(", has {}", held.join(", "));
        }
        row.text += " …";
    }

    /// An operation that is in no inner call.
    fn outer(&mut self, index: usize, step: &Shown) {
        use Action::*;
        let what = match step.action {
            _ if step.is_refused() => What::Busy,
            _ if step.telling == Telling::Never => return,
            Point if !self.is_followed(index, step) => return,
            Lock | LockKillable | TryLock | Unlock | LockShared | UnlockShared | TryShared
            | TryExclusive | Promote | Demote | ReleaseShared | ReleaseExclusive => What::Lock,
            AwaitRelease | AwaitChange => What::Other,
            _ if step.telling == Telling::Always => What::Other,
            _ if self.contested.contains(&step.name) => What::Other,
            _ => return,
        };
        let known = self.given_back_at_once(index, step)
            || self.read_before(index, step)
            || self.seen_before(index, step);
        if known {
            return;
        }
        let text = match what {
            What::Busy => self.refusal(index, step),
            _ => line(self.example, step),
        };
        self.push(index, step, what, text, None);
    }

    /// Whether something was asked of a thread that it may do here, and not before.
    fn is_followed(&self, index: usize, step: &Shown) -> bool {
        let before = self.example.steps[..index].iter().rev();
        let mut on_it = before.filter(|other| other.name == step.name);
        on_it
            .next()
            .is_some_and(|last| last.action == Action::Store)
    }

    /// Folds the release of a lock that nobody else wants into the line of its acquisition.
    fn given_back_at_once(&mut self, index: usize, step: &Shown) -> bool {
        use Action::{Lock, LockKillable, LockShared, Unlock, UnlockShared};
        let Some(row) = self.rows.last_mut() else {
            return false;
        };
        let taken = &self.example.steps[row.first];
        let pair = matches!(step.action, Unlock | UnlockShared)
            && matches!(taken.action, Lock | LockKillable | LockShared)
            && (taken.name, row.thread, row.what) == (step.name, step.thread, What::Lock)
            && !self.contested.contains(&step.name);
        if pair {
            row.last = index;
            let name = self.example.object(&step.name);
            row.text = format!("{} and unlock {name}", verb(taken.action));
        }
        pair
    }

    /// Folds the read that an update begins with into the line of the update.
    fn read_before(&mut self, index: usize, step: &Shown) -> bool {
        let Some(row) = self.rows.last_mut() else {
            return false;
        };
        let read = &self.example.steps[row.first];
        let pair = (read.action, step.action) == (Action::Load, Action::Update)
            && (read.name, row.thread, row.what) == (step.name, step.thread, What::Other);
        if pair {
            (row.last, row.text) = (index, line(self.example, step));
        }
        pair
    }

    /// Whether the thread has read the same of the cell already, and nobody else did anything since.
    fn seen_before(&self, index: usize, step: &Shown) -> bool {
        let before = self.example.steps[..index].iter().rev();
        let mut own = before.take_while(|other| other.thread == step.thread);
        let read = |other: &Shown| (other.action, other.name) == (Action::Load, step.name);
        step.action == Action::Load && own.any(|other| read(other) && other.outcome == step.outcome)
    }

    fn push(&mut self, index: usize, step: &Shown, what: What, text: String, span: Option<usize>) {
        let known = self.functions.get(&step.thread);
        let begins = matches!(what, What::Begins | What::Ends);
        let function = step
            .function
            .clone()
            .filter(|function| !begins && what != What::Inner && known != Some(function));
        if let Some(function) = &function {
            self.functions.insert(step.thread, function.clone());
        }
        self.rows.push(Row {
            thread: step.thread,
            what,
            text,
            function,
            first: index,
            last: index,
            span,
        });
    }
}
