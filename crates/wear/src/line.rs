//! Lines of a trace, and the same as Perfetto shows them.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};
use serde_json::json;

/// One line of a trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// When it began, in nanoseconds since the machine was booted.
    pub at_ns: u64,
    /// How long it took.
    pub took_ns: u64,
    /// The thread.
    pub thread: u64,
    /// What it was.
    #[serde(flatten)]
    pub span: Span,
}

/// What a line is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Span {
    /// An ioctl.
    Ioctl {
        /// Its name.
        name: String,
        /// Its argument.
        arg: u64,
        /// What the argument points to, as it was at the start, in hexadecimal.
        bytes: String,
        /// What it returned.
        value: Option<i64>,
        /// The errno that it returned.
        errno: Option<String>,
        /// The check that refused it, or the exit that KVM_RUN gave.
        cause: Option<String>,
    },
    /// A SEAMCALL.
    Seamcall {
        /// The leaf.
        leaf: String,
        /// The CPU.
        cpu: u32,
        /// RCX, RDX, R8, R9 before.
        operands: [u64; 4],
        /// How it ended.
        status: String,
    },
    /// An operation on a lock.
    Lock {
        /// What was done.
        action: String,
        /// The lock.
        name: String,
        /// How it ended.
        outcome: String,
        /// Where in the source.
        site: String,
    },
}

impl Line {
    fn title(&self) -> &str {
        match &self.span {
            Span::Ioctl { name, .. } => name,
            Span::Seamcall { leaf, .. } => leaf,
            Span::Lock { name, .. } => name,
        }
    }
}

/// Writes lines of one process in the JSON format of Chrome's tracing, which Perfetto opens.
///
/// # Errors
/// When `out` can't be written.
pub fn write_perfetto(lines: &[(u32, Line)], out: &mut dyn Write) -> io::Result<()> {
    let event = |(pid, line): &(u32, Line)| {
        let instant = line.took_ns == 0;
        let mut event = json!({
            "name": line.title(),
            "ph": if instant { "i" } else { "X" },
            "ts": line.at_ns as f64 / 1000.0,
            "pid": pid,
            "tid": line.thread,
            "args": line.span,
        });
        if let Some(fields) = event.as_object_mut() {
            match instant {
                true => fields.insert("s".to_owned(), json!("t")),
                false => fields.insert("dur".to_owned(), json!(line.took_ns as f64 / 1000.0)),
            };
        }
        event
    };
    // What is written at its end comes by its beginning here, and what it is in before it.
    let mut lines: Vec<&(u32, Line)> = lines.iter().collect();
    lines.sort_by_key(|(_, line)| (line.at_ns, std::cmp::Reverse(line.took_ns)));
    let events: Vec<_> = lines.into_iter().map(event).collect();
    serde_json::to_writer(out, &json!({ "traceEvents": events }))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written_and_shown_with_its_duration() {
        let line = Line {
            at_ns: 1500,
            took_ns: 250,
            thread: 7,
            span: Span::Ioctl {
                name: "KVM_RUN".to_owned(),
                arg: u64::MAX,
                bytes: String::new(),
                value: None,
                errno: Some("-EINTR".to_owned()),
                cause: None,
            },
        };
        let text = serde_json::to_string(&line).expect("serializable");
        assert_eq!(serde_json::from_str::<Line>(&text).expect("readable"), line);
        let mut out = Vec::new();
        write_perfetto(&[(3, line)], &mut out).expect("writable");
        let shown: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
        let event = &shown["traceEvents"][0];
        assert_eq!(
            (event["ts"].as_f64(), event["dur"].as_f64()),
            (Some(1.5), Some(0.25))
        );
        assert_eq!(event["args"]["errno"], "-EINTR");
    }
}
