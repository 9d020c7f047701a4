//! Findings as Chrome trace events, which Perfetto opens: a process for each finding, a thread for each
//! of its threads, and a track for each lock that one of them holds. An operation takes a microsecond.

use seamlock_check::{Counterexample, Hold};
use serde_json::{Value, json};

use super::Finding;

/// The events of all findings.
pub fn events(findings: &[Finding<'_>]) -> Value {
    let mut events = Vec::new();
    for (nth, finding) in findings.iter().enumerate() {
        let mut process = Process {
            pid: nth + 1,
            example: finding.example,
            events: &mut events,
        };
        let first = finding.replays.first();
        let at = first.map_or("", |(place, _)| place.as_str());
        process.write(&format!("{} {at}", finding.name));
    }
    json!({ "traceEvents": events, "displayTimeUnit": "ns" })
}

struct Process<'a> {
    pid: usize,
    example: &'a Counterexample,
    events: &'a mut Vec<Value>,
}

impl Process<'_> {
    fn write(&mut self, name: &str) {
        self.name("process_name", 0, name);
        for (tid, thread) in self.example.threads.iter().enumerate() {
            self.name("thread_name", tid + 1, thread);
        }
        self.spans();
        self.steps();
        for hold in self.example.holds() {
            self.hold(&hold);
        }
        self.violation();
    }

    fn name(&mut self, what: &str, tid: usize, name: &str) {
        let pid = self.pid;
        let event = json!({ "ph": "M", "name": what, "pid": pid, "tid": tid,
            "args": { "name": name } });
        self.events.push(event);
    }

    fn complete(&mut self, name: &str, tid: usize, from: usize, until: usize, args: Value) {
        let (pid, dur) = (self.pid, until.saturating_sub(from));
        let event = json!({ "ph": "X", "name": name, "cat": "check", "pid": pid, "tid": tid,
            "ts": from, "dur": dur, "args": args });
        self.events.push(event);
    }

    /// Calls, from the first operation of each to its last.
    fn spans(&mut self) {
        let example = self.example;
        let end = example.steps.len();
        for span in &example.spans {
            let steps = example.steps.iter().enumerate();
            let mut mine = steps.filter(|(at, step)| span.has(step.thread, *at));
            let Some((first, _)) = mine.next() else {
                continue;
            };
            let last = mine.next_back().map_or(first, |(at, _)| at);
            let until = if span.until.is_some() { last + 1 } else { end };
            let args = json!({ "result": span.how });
            self.complete(&span.what, span.thread + 1, first, until, args);
        }
    }

    fn steps(&mut self) {
        let example = self.example;
        for (at, step) in example.steps.iter().enumerate() {
            let name = format!("{:?} {}", step.action, example.object(&step.name));
            let args = json!({ "outcome": format!("{:?}", step.outcome), "at": step.site.to_string(),
                "function": step.function });
            self.complete(&name, step.thread + 1, at, at + 1, args);
        }
    }

    /// A lock on a track of its own: several threads may share it at once, so its spans need not nest.
    fn hold(&mut self, hold: &Hold) {
        let example = self.example;
        let mode = if hold.alone { "" } else { " (shared)" };
        let (lock, thread) = (example.object(&hold.name), &example.threads[hold.thread]);
        let name = format!("{lock}: {thread}{mode}");
        let (pid, tid) = (self.pid, hold.thread + 1);
        let id = format!("{pid}-{}", hold.from);
        let until = hold.until.unwrap_or(example.steps.len());
        for (phase, ts) in [("b", hold.from), ("e", until)] {
            let event = json!({ "ph": phase, "name": name, "cat": "lock", "id": id, "pid": pid,
                "tid": tid, "ts": ts });
            self.events.push(event);
        }
    }

    fn violation(&mut self) {
        let example = self.example;
        let thread = example.steps.last().map_or(0, |step| step.thread);
        let event = json!({ "ph": "i", "s": "p", "name": example.violation.to_string(),
            "cat": "violation", "pid": self.pid, "tid": thread + 1, "ts": example.steps.len() });
        self.events.push(event);
    }
}
