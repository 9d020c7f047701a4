//! What a scenario tells of itself while one of its executions is shown to people: which call a thread
//! is in, what its objects are called, which function a place in the source belongs to.
//!
//! Nothing is asked for while executions are explored, so telling costs nothing there.

use std::panic::Location;

use seamlock_sync::{Action, Name, Outcome};

/// Which operations on an object are told in an outline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Telling {
    /// Those whose order another thread can tell.
    #[default]
    Usual,
    /// All of them.
    Always,
    /// None.
    Never,
}

/// An operation that words are wanted for.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// What is done.
    pub action: Action,
    /// To which object.
    pub name: &'a Name,
    /// With which argument. Of a [`Point`](Action::Point) it is the argument of the last write.
    pub arg: u64,
    /// How it ended, if it did.
    pub outcome: Option<Outcome>,
}

/// The words of a scenario.
pub trait Legend {
    /// What people call an object, where that is not its name.
    fn object(&self, name: &Name) -> Option<String> {
        let _ = name;
        None
    }

    /// What people call an operation, where its action and object say less.
    fn operation(&self, told: Told<'_>) -> Option<String> {
        let _ = told;
        None
    }

    /// Which operations like this one are told in an outline.
    fn telling(&self, action: Action, name: &Name) -> Telling {
        let _ = (action, name);
        Telling::Usual
    }

    /// What is to be known of the thread of a name, such as where it runs.
    fn thread(&self, name: &str) -> Option<String> {
        let _ = name;
        None
    }

    /// The function that a place in the source belongs to, as people know it.
    fn function(&self, site: &'static Location<'static>) -> Option<String> {
        let _ = site;
        None
    }
}

/// No words but the names.
#[derive(Debug)]
pub(crate) struct Plain;

impl Legend for Plain {}

/// Something that a thread does over several operations, such as a system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The thread.
    pub thread: usize,
    /// In how many other spans of its thread it is.
    pub depth: usize,
    /// What is done.
    pub what: String,
    /// How it ended, if it did before the violation.
    pub how: Option<String>,
    /// The number of operations that all threads had done when it began.
    pub from: usize,
    /// That number when it ended.
    pub until: Option<usize>,
}

impl Span {
    /// Whether operation number `index`, done by `thread`, is a part of it.
    pub fn has(&self, thread: usize, index: usize) -> bool {
        self.thread == thread && self.from <= index && self.until.is_none_or(|until| index < until)
    }
}

/// A span begins, or the innermost of its thread ends.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    pub(crate) thread: usize,
    pub(crate) after: usize,
    pub(crate) begins: bool,
    pub(crate) text: String,
}

/// The spans of an execution, as far as its first `steps` operations.
pub(crate) fn spans(marks: &[Mark], steps: usize) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let mut open: Vec<Vec<usize>> = Vec::new();
    for mark in marks {
        if open.len() <= mark.thread {
            open.resize(mark.thread + 1, Vec::new());
        }
        let mine = &mut open[mark.thread];
        if mark.begins {
            spans.push(Span {
                thread: mark.thread,
                depth: mine.len(),
                what: mark.text.clone(),
                how: None,
                from: mark.after,
                until: None,
            });
            mine.push(spans.len() - 1);
        } else if let Some(at) = mine.pop()
            && mark.after <= steps
        {
            (spans[at].until, spans[at].how) = (Some(mark.after), Some(mark.text.clone()));
        }
    }
    spans.retain(|span| span.from < steps && span.until != Some(span.from));
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(thread: usize, after: usize, text: &str) -> Mark {
        Mark {
            thread,
            after,
            begins: !text.starts_with('='),
            text: text.to_owned(),
        }
    }

    #[test]
    fn spans_nest_within_their_thread_and_end_before_the_violation_or_not_at_all() {
        let marks = [
            mark(1, 0, "ioctl"),
            mark(0, 2, "other"),
            mark(1, 3, "call"),
            mark(1, 6, "=busy"),
            mark(0, 7, "=0"),
            mark(1, 8, "=-5"),
            mark(1, 9, "late"),
        ];
        let spans = spans(&marks, 7);
        let seen: Vec<_> = spans
            .iter()
            .map(|s| (s.what.as_str(), s.thread, s.depth, s.from, s.until))
            .collect();
        assert_eq!(
            seen,
            [
                ("ioctl", 1, 0, 0, None),
                ("other", 0, 0, 2, Some(7)),
                ("call", 1, 1, 3, Some(6)),
            ]
        );
        assert!(spans[2].has(1, 5) && !spans[2].has(0, 5) && !spans[2].has(1, 6));
        assert_eq!(spans[2].how.as_deref(), Some("=busy"));
    }
}
