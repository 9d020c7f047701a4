//! Lines of a trace, and the same as Perfetto shows them.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::summary::Summary;

/// One line of a trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// When it began, in nanoseconds of a clock that all processes of the run share.
    pub at_ns: u64,
    /// How long it took.
    pub took_ns: u64,
    /// The thread.
    pub thread: u64,
    /// The ioctl's number in its process, from 1; for anything else the ioctl that it was done for.
    pub call: Option<u64>,
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
        /// The file that it was made on: `/dev/kvm`, or what of which VM.
        file: String,
        /// Its argument, in hexadecimal.
        arg: String,
        /// The argument in words, of KVM_RUN what user space answers to the exit before.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        words: String,
        /// The beginning of what the argument points to, as it was at the start, in hexadecimal.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        bytes: String,
        /// The same at the end, if it changed.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        written: String,
        /// What it returned.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        value: Option<i64>,
        /// What it wrote in words, of KVM_RUN the exit.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        outcome: String,
        /// The errno that it returned.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        errno: Option<String>,
        /// The check that refused it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<String>,
    },
    /// A SEAMCALL.
    Seamcall {
        /// The leaf.
        leaf: String,
        /// The CPU.
        cpu: u32,
        /// RCX, RDX, R8, R9 before, in hexadecimal: they may be larger than what JSON's numbers hold.
        operands: [String; 4],
        /// The same registers after, if they changed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        results: Option<[String; 4]>,
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

/// Writes lines, in the order of time, in the JSON format of Chrome's tracing, which Perfetto opens. The
/// summary names the processes.
///
/// # Errors
/// When `out` can't be written.
pub fn write_perfetto(
    lines: &[(u32, Line)],
    summary: &Summary,
    out: &mut dyn Write,
) -> io::Result<()> {
    let names = summary.processes.iter().map(|process| {
        json!({
            "name": "process_name",
            "ph": "M",
            "pid": process.pid,
            "args": { "name": process.program },
        })
    });
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
    let events: Vec<_> = names.chain(lines.iter().map(event)).collect();
    serde_json::to_writer(out, &json!({ "traceEvents": events }))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::Process;

    #[test]
    fn a_line_is_read_as_it_was_written_and_shown_with_its_duration() {
        let line = Line {
            at_ns: 1500,
            took_ns: 250,
            thread: 7,
            call: Some(1),
            span: Span::Ioctl {
                name: "KVM_RUN".to_owned(),
                file: "VM 1, vCPU 0".to_owned(),
                arg: "0xffffffffffffffff".to_owned(),
                words: String::new(),
                bytes: String::new(),
                written: String::new(),
                value: None,
                outcome: String::new(),
                errno: Some("-EINTR".to_owned()),
                cause: None,
            },
        };
        let text = serde_json::to_string(&line).expect("serializable");
        assert_eq!(serde_json::from_str::<Line>(&text).expect("readable"), line);
        let mut out = Vec::new();
        let process = Process {
            pid: 3,
            program: "vmm".to_owned(),
            ..Process::default()
        };
        let summary = Summary {
            processes: vec![process],
        };
        write_perfetto(&[(3, line)], &summary, &mut out).expect("writable");
        let shown: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(shown["traceEvents"][0]["args"]["name"], "vmm");
        let event = &shown["traceEvents"][1];
        assert_eq!(
            (event["ts"].as_f64(), event["dur"].as_f64()),
            (Some(1.5), Some(0.25))
        );
        assert_eq!(event["args"]["errno"], "-EINTR");
    }
}
