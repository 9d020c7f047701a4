//! The checkers that are compared, each with its own objects.

mod loomed;
mod shuttled;

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use seamlock_check::programs::api::Wrong;
use seamlock_check::{
    Budget, Limit, Options, Setup, Verdict, Violation, WalkKind, check, programs::api::Ours,
};

use crate::programs::Program;

/// A checker and how it goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// Ours as it is used: walks, then the proof.
    Ours,
    /// Ours without the walks.
    Proof,
    /// Ours, uniform walks only.
    Walks,
    /// loom without a bound.
    Loom,
    /// loom with at most two preemptions.
    Loom2,
    /// shuttle's depth-first search.
    ShuttleDfs,
    /// shuttle's random walks.
    ShuttleRandom,
    /// shuttle's PCT of depth 3.
    ShuttlePct,
}

/// All of them, with their names.
pub const TOOLS: [(Tool, &str); 8] = [
    (Tool::Ours, "seamlock"),
    (Tool::Proof, "seamlock, proof only"),
    (Tool::Walks, "seamlock, random walks"),
    (Tool::Loom, "loom"),
    (Tool::Loom2, "loom, 2 preemptions"),
    (Tool::ShuttleDfs, "shuttle DFS"),
    (Tool::ShuttleRandom, "shuttle random"),
    (Tool::ShuttlePct, "shuttle PCT 3"),
];

impl Tool {
    /// The tool of this name.
    pub fn named(name: &str) -> Option<Tool> {
        TOOLS.iter().find(|tool| tool.1 == name).map(|tool| tool.0)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        TOOLS
            .iter()
            .find(|tool| tool.0 == self)
            .map_or("", |tool| tool.1)
    }
}

/// How a measurement ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Everything was explored.
    Explored,
    /// An error was found.
    Found,
    /// The time was over.
    Cut,
    /// The tool cannot run the program at all.
    Cannot,
}

const HOW: [(How, &str); 4] = [
    (How::Explored, "explored"),
    (How::Found, "error found"),
    (How::Cut, "cut"),
    (How::Cannot, "too many threads"),
];

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            HOW.iter()
                .find(|how| how.0 == *self)
                .map_or("", |how| how.1),
        )
    }
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// How it ended.
    pub how: How,
    /// Executions.
    pub executions: u64,
    /// Seconds on a CPU.
    pub seconds: f64,
    /// The most memory that was resident, in KiB.
    pub memory: u64,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Measured {
            how,
            executions,
            seconds,
            memory,
        } = self;
        write!(f, "{how};{executions};{seconds};{memory}")
    }
}

impl FromStr for Measured {
    type Err = ();

    fn from_str(text: &str) -> Result<Measured, ()> {
        let [how, executions, seconds, memory] = text.trim().split(';').collect::<Vec<_>>()[..]
        else {
            return Err(());
        };
        Ok(Measured {
            how: HOW.iter().find(|known| known.1 == how).ok_or(())?.0,
            executions: executions.parse().map_err(|_| ())?,
            seconds: seconds.parse().map_err(|_| ())?,
            memory: memory.parse().map_err(|_| ())?,
        })
    }
}

/// Runs a tool on a program for at most so many seconds.
pub fn measure(tool: Tool, program: &Program, seconds: u64) -> Measured {
    let limit = Duration::from_secs(seconds);
    let (started, worked) = (now(), on_cpu());
    let (how, executions) = match tool {
        Tool::Ours | Tool::Proof | Tool::Walks => ours(tool, program, limit),
        Tool::Loom => loomed::run(program, None, limit),
        Tool::Loom2 => loomed::run(program, Some(2), limit),
        Tool::ShuttleDfs | Tool::ShuttleRandom | Tool::ShuttlePct => {
            shuttled::run(tool, program, limit)
        }
    };
    let elapsed = started.elapsed();
    let how = if how == How::Explored && elapsed >= limit {
        How::Cut
    } else {
        how
    };
    // All tools run on one thread. Its own time does not count what else the machine does, but it is
    // only told when the scheduler looks, which is too seldom for what is short.
    let seconds = match (worked, on_cpu()) {
        (Some(before), Some(after)) if elapsed > SHORT => after.saturating_sub(before),
        _ => elapsed,
    }
    .as_secs_f64();
    Measured {
        how,
        executions,
        seconds,
        memory: peak(),
    }
}

fn ours(tool: Tool, program: &Program, limit: Duration) -> (How, u64) {
    let walks = match tool {
        Tool::Proof => Vec::new(),
        Tool::Walks => vec![(WalkKind::Uniform, u32::MAX)],
        _ => Options::default().walks,
    };
    let budget = Budget {
        executions: u64::MAX,
        time: Some(limit),
        ..Budget::default()
    };
    let options = Options {
        walks,
        budget,
        ..Options::default()
    };
    let scenario = |setup: &mut Setup| {
        let reporter = setup.reporter();
        let wrong: Wrong = std::sync::Arc::new(move |oracle, cause| {
            reporter.report(Violation::new(oracle, cause));
        });
        for (name, body) in program.threads::<Ours>(wrong) {
            setup.thread(name, body);
        }
    };
    match check(&scenario, &options) {
        Ok(report) => {
            let how = match report.verdict {
                Verdict::Proved { .. } => How::Explored,
                Verdict::Refuted(_) => How::Found,
                Verdict::NotExhausted {
                    why: Limit::Time, ..
                } => How::Cut,
                Verdict::NotExhausted { .. } => How::Cannot,
            };
            // The execution that shows the error counts too.
            let last = u64::from(how == How::Found);
            (how, report.effort.walks + report.effort.executions + last)
        }
        Err(_) => (How::Cannot, 0),
    }
}

/// Below this, time by the clock is better than time on a CPU.
const SHORT: Duration = Duration::from_millis(50);

#[expect(clippy::disallowed_methods, reason = "a measurement")]
fn now() -> Instant {
    Instant::now()
}

/// How long this thread has been on a CPU.
fn on_cpu() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    stat.split_whitespace()
        .next()?
        .parse()
        .ok()
        .map(Duration::from_nanos)
}

/// What other checkers are told of an error by.
fn panicking() -> Wrong {
    std::sync::Arc::new(|oracle, cause| std::panic::resume_unwind(Box::new((oracle, cause))))
}

/// The most memory that this process had, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok())
        .unwrap_or(0)
}
