//! What a check says.

use std::fmt;

use crate::counterexample::Counterexample;

/// The answer of a check.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// Every interleaving that can differ was run, and no oracle objected.
    Proved {
        /// The number of Mazurkiewicz traces, and of executions that it took.
        traces: u64,
    },
    /// An oracle objects to an execution that can be replayed.
    Refuted(Box<Counterexample>),
    /// No oracle objected to what was run, and not everything was.
    NotExhausted {
        /// How many executions were run.
        executions: u64,
        /// Why the check ended.
        why: Limit,
    },
}

impl Verdict {
    /// The exit code of the command line: 0 proved, 1 refuted, 3 not exhausted.
    pub fn exit_code(&self) -> u8 {
        match self {
            Verdict::Proved { .. } => 0,
            Verdict::Refuted(_) => 1,
            Verdict::NotExhausted { .. } => 3,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Proved { traces } => write!(f, "proved ({traces} traces)"),
            Verdict::Refuted(example) => write!(f, "refuted: {}", example.violation),
            Verdict::NotExhausted { executions, why } => {
                write!(f, "not exhausted ({executions} executions, {why})")
            }
        }
    }
}

/// Why a check ended before everything was explored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// As many executions were run as the budget allows.
    Executions,
    /// The time of the budget was over.
    Time,
    /// An execution had more operations than the budget allows: it may not end at all.
    Steps,
    /// Only random walks were asked for.
    WalksOnly,
    /// As many findings were made as were asked for.
    Findings,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Limit::Executions => "the budget of executions is used up",
            Limit::Time => "the budget of time is used up",
            Limit::Steps => "an execution does not end",
            Limit::Findings => "enough was found",
            Limit::WalksOnly => "only random walks were made",
        })
    }
}

/// The check itself failed: it says nothing about the scenario.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// The scenario did not do the same again after the same choices: a thread sees something that
    /// another changes, and no operation announces it.
    #[error(
        "the scenario is not deterministic: at step {step} thread {thread} was to do {expected} and \
         came with {found}"
    )]
    Nondeterministic {
        /// The number of operations that were done before.
        step: usize,
        /// The thread.
        thread: String,
        /// What it did the last time.
        expected: String,
        /// What it came with now.
        found: String,
    },
    /// Executions and distinct traces differ, or a planned execution was not possible. A fault of the
    /// checker.
    #[error("the checker is wrong: {0}")]
    Engine(String),
    /// More threads than the checker can take.
    #[error("{0} threads are more than the {max} that a scenario may have", max = crate::MAX_THREADS)]
    TooManyThreads(usize),
    /// The scenario can't be set up.
    #[error("the scenario can't be set up: {0}")]
    Setup(String),
    /// There was no memory for the threads' stacks.
    #[error("no memory for the stacks of the threads: {0}")]
    Stacks(String),
    /// A schedule that cannot be read.
    #[error("not a schedule: {0}")]
    Schedule(String),
}
