//! Findings as Chrome trace events, which Perfetto opens: a process for each finding, a thread for each
//! of its threads and, below it, one for each lock that it takes. An operation takes a microsecond.
//!
//! Only complete events (`X`), instants (`i`) and metadata (`M`) are written. Within a thread they nest: a
//! call has its operations, and what a thread takes twice it gives back in the other order.

use std::collections::BTreeMap;

use seamlock_check::{Counterexample, Hold};
use seamlock_sync::Name;
use serde_json::{Value, json};

use super::Finding;

/// Numbers of threads that each thread of a finding has for itself and its locks.
const STRIDE: usize = 1000;

/// The events of all findings.
pub fn events(findings: &[Finding<'_>]) -> Value {
    let mut events = Vec::new();
    for (nth, finding) in findings.iter().enumerate() {
        let process = Process {
            pid: nth + 1,
            example: finding.example,
            locks: BTreeMap::new(),
            events: Vec::new(),
        };
        let first = finding.replays.first();
        let at = first.map_or("", |(place, _)| place.as_str());
        events.extend(process.write(&format!("{} {at}", finding.name)));
    }
    json!({ "traceEvents": events, "displayTimeUnit": "ns" })
}

struct Process<'a> {
    pid: usize,
    example: &'a Counterexample,
    // The thread that stands for a lock of a thread.
    locks: BTreeMap<(usize, Name), usize>,
    // With when each begins and how long it takes.
    events: Vec<(usize, usize, Value)>,
}

impl Process<'_> {
    /// The names, and then everything by time, what lasts longer first.
    fn write(mut self, name: &str) -> Vec<Value> {
        let order = json!({ "ph": "M", "name": "process_sort_index", "pid": self.pid,
            "args": { "sort_index": self.pid } });
        let mut names = vec![self.name("process_name", 0, name), order];
        for (thread, name) in self.example.threads.iter().enumerate() {
            names.extend(self.thread((thread + 1) * STRIDE, name));
        }
        self.spans();
        self.steps();
        for hold in self.example.holds() {
            names.extend(self.hold(&hold));
        }
        self.violation();
        self.events
            .sort_by_key(|&(from, lasts, _)| (from, std::cmp::Reverse(lasts)));
        let timed = self.events.into_iter().map(|(_, _, event)| event);
        names.into_iter().chain(timed).collect()
    }

    fn name(&self, what: &str, tid: usize, name: &str) -> Value {
        json!({ "ph": "M", "name": what, "pid": self.pid, "tid": tid, "args": { "name": name } })
    }

    fn thread(&self, tid: usize, name: &str) -> [Value; 2] {
        let order = json!({ "ph": "M", "name": "thread_sort_index", "pid": self.pid, "tid": tid,
            "args": { "sort_index": tid } });
        [self.name("thread_name", tid, name), order]
    }

    fn complete(&mut self, name: &str, tid: usize, from: usize, until: usize, args: Value) {
        let lasts = until.saturating_sub(from);
        let event = json!({ "ph": "X", "name": name, "cat": "check", "pid": self.pid, "tid": tid,
            "ts": from, "dur": lasts, "args": args });
        self.events.push((from, lasts, event));
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
            self.complete(&span.what, (span.thread + 1) * STRIDE, first, until, args);
        }
    }

    fn steps(&mut self) {
        let example = self.example;
        for (at, step) in example.steps.iter().enumerate() {
            let args = json!({ "outcome": format!("{:?}", step.outcome), "at": step.site.to_string(),
                "function": step.function });
            let tid = (step.thread + 1) * STRIDE;
            self.complete(&example.line(step), tid, at, at + 1, args);
        }
    }

    fn hold(&mut self, hold: &Hold) -> Vec<Value> {
        let example = self.example;
        let name = example.object(&hold.name);
        let tid = (hold.thread + 1) * STRIDE + 1 + self.locks.len();
        let mut names = Vec::new();
        let tid = *self
            .locks
            .entry((hold.thread, hold.name))
            .or_insert_with(|| {
                names.push((tid, format!("{}: {name}", example.threads[hold.thread])));
                tid
            });
        let until = hold.until.map_or(example.steps.len(), |until| until + 1);
        let mode = if hold.alone { "held" } else { "held shared" };
        self.complete(mode, tid, hold.from, until, json!({ "lock": name }));
        let names = names.iter();
        names
            .flat_map(|(tid, name)| self.thread(*tid, name))
            .collect()
    }

    fn violation(&mut self) {
        let example = self.example;
        let thread = example.steps.last().map_or(0, |step| step.thread);
        let at = example.steps.len();
        let event = json!({ "ph": "i", "s": "t", "name": example.violation.to_string(),
            "cat": "violation", "pid": self.pid, "tid": (thread + 1) * STRIDE, "ts": at });
        self.events.push((at, 0, event));
    }
}
