//! The sweep: every pair, or triple, of operations from every state of a VM.
//!
//! Nothing is expected of it. A [`Cell`] is checked like a scene of the catalogue, with every oracle.

mod matrix;
mod operations;
mod sample;
mod states;
mod suspects;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use seamlock_check::{CheckError, Counterexample, Limit, Options, Setup, WalkKind, survey};
use seamlock_kvm::Discipline;
use seamlock_kvm::error::{Error, Result};
use seamlock_tdx_abi::kvm::Errno;

pub use matrix::{Cause, Key, Letter, Matrix, Pair, Tally};
pub use operations::{By, OPERATIONS, Operation, operation};
pub use sample::{Company, spread};
pub use states::{STATES, State, state};
pub use suspects::Suspects;

use crate::act::Act;
use crate::faults::Fault;
use crate::oracle::LOCK_ORDER;
use crate::scene::{Actor, Counts};
use crate::setting::{Setting, Size};
use crate::staged::Staged;

/// Causes that are looked for in one cell.
const CAUSES: usize = 8;

/// A few operations at the same time, from one state.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The state.
    pub state: &'static State,
    /// The operations, in the order of their table.
    pub operations: Vec<&'static Operation>,
    /// What is not of the state's own size, as [`Setting::with_size`] reads it.
    pub size: String,
}

/// Something wrong in a cell.
#[derive(Clone, Debug)]
pub struct Found {
    /// A schedule of it.
    pub example: Counterexample,
    /// The faults of docs/findings.md that it is the doing of, as [`Suspects::name`] finds; none if nobody
    /// knows it.
    pub faults: Vec<&'static Fault>,
}

/// What a cell came to.
#[derive(Clone, Debug)]
pub struct Swept {
    /// What is wrong, the first schedule of each cause.
    pub findings: Vec<Found>,
    /// The number of traces if all were run.
    pub explored: std::result::Result<u64, Limit>,
    /// Executions that it took.
    pub executions: u64,
}

/// Every cell of `size` operations: each set of operations, and each with itself, where all of them have
/// something to be done to.
pub fn cells(size: usize) -> Vec<Cell> {
    let mut cells = Vec::new();
    for state in STATES {
        let applies = |operation: &&Operation| operation.act.applies(&state.start);
        let applicable: Vec<&Operation> = OPERATIONS.iter().filter(applies).collect();
        choose(&applicable, size, &mut Vec::new(), &mut |operations| {
            // Tasks are moved off a CPU before it goes.
            let gone = |cpu: u32| operations.iter().any(|o| o.act == Act::Offline(cpu));
            if operations.iter().any(|o| gone(o.cpu)) {
                return;
            }
            let about_threads = operations.iter().filter(|o| o.act.is_about_threads());
            if about_threads.count() < operations.len().min(2) {
                cells.push(Cell {
                    state,
                    operations: operations.to_vec(),
                    size: String::new(),
                });
            }
        });
    }
    cells
}

fn choose(
    from: &[&'static Operation],
    size: usize,
    chosen: &mut Vec<&'static Operation>,
    found: &mut impl FnMut(&[&'static Operation]),
) {
    if size == 0 {
        return found(chosen);
    }
    for at in 0..from.len() {
        chosen.push(from[at]);
        choose(&from[at..], size - 1, chosen, found);
        chosen.pop();
    }
}

impl Cell {
    fn actors(&self) -> Vec<Actor> {
        let numbered = self.operations.iter().enumerate();
        let actor = |(at, operation): (usize, &&'static Operation)| {
            let before = &self.operations[..at];
            let twins = before.iter().filter(|o| o.name() == operation.name());
            Actor {
                name: operation.names[twins.count().min(2)],
                cpu: operation.cpu,
                act: operation.act,
                times: 1,
            }
        };
        numbered.map(actor).collect()
    }

    /// The cell with its numbers.
    ///
    /// # Errors
    /// When it can't be of its size.
    pub fn setting(&self) -> std::result::Result<Setting, String> {
        self.own_setting().with_size(&self.size)
    }

    /// The same at the state's own size.
    pub(crate) fn own_setting(&self) -> Setting {
        Setting {
            start: self.state.start,
            actors: self.actors(),
            counts: Counts::Everything,
        }
    }

    /// The same at another size, without the operations that nobody does. Where one operation is there
    /// twice its threads keep their names, and so nothing goes.
    pub(crate) fn at(&self, size: &Size) -> Cell {
        let mut cell = Cell {
            size: String::new(),
            ..self.clone()
        };
        let mut size = size.clone();
        let names = self.operations.iter().map(|operation| operation.name());
        if names.collect::<BTreeSet<_>>().len() == self.operations.len() {
            let mut times = size.times.iter();
            cell.operations
                .retain(|_| times.next().is_none_or(|times| *times > 0));
            size.times.retain(|times| *times > 0);
        }
        cell.size = cell.own_setting().text_of(&size);
        cell
    }

    /// How much there is to understand of it: things beside the TD that it needs, then its size.
    fn weight(&self) -> (usize, u64) {
        let setting = self.setting().unwrap_or_else(|_| self.own_setting());
        (setting.whole_start().extras.count(), setting.size().total())
    }

    /// The cell under a discipline.
    ///
    /// # Errors
    /// When no TD can be built under the discipline, or the cell can't be of its size.
    pub fn stage(&self, discipline: &'static Discipline) -> Result<Staged> {
        let impossible = |why| Error::with(Errno::EINVAL, "cell", why);
        Staged::new(self.setting().map_err(impossible)?, discipline)
    }

    /// Runs a few walks, and then at most `budget` executions of a proof.
    ///
    /// # Errors
    /// When no TD can be built under the discipline, or the check itself failed.
    pub fn check(
        &self,
        discipline: &'static Discipline,
        budget: u64,
        seed: u64,
    ) -> std::result::Result<Swept, CheckError> {
        let staged = self
            .stage(discipline)
            .map_err(|why| CheckError::Setup(why.to_string()))?;
        let options = options(budget, seed);
        let scenario = |setup: &mut Setup| staged.build(setup);
        let survey = survey(&scenario, &options, CAUSES)?;
        let mut findings = survey.findings;
        findings.extend(staged.lock_order()?);
        let nameless = |example| Found {
            example,
            faults: Vec::new(),
        };
        Ok(Swept {
            findings: findings.into_iter().map(nameless).collect(),
            explored: survey.explored,
            executions: survey.effort.walks + survey.effort.executions,
        })
    }
}

/// How a cell is checked.
fn options(budget: u64, seed: u64) -> Options {
    let mut options = Options {
        seed,
        walks: vec![(WalkKind::Uniform, 4)],
        ..Options::default()
    };
    options.budget.executions = budget;
    options
}

impl Swept {
    /// What stands in the matrix.
    pub fn letter(&self) -> Letter {
        match (self.findings.is_empty(), self.explored) {
            (false, _) => Letter::Refuted,
            (true, Ok(_)) => Letter::Proved,
            (true, Err(_)) => Letter::NotExhausted,
        }
    }
}

/// Whether a replay of this finding needs the threads in their order: lockdep saw it, not an
/// interleaving.
pub fn is_lock_order(example: &Counterexample) -> bool {
    example.violation.oracle == LOCK_ORDER
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.operations.iter().map(|o| o.name()).collect();
        write!(f, "{}/{}", self.state.name, names.join("+"))?;
        if self.size.is_empty() {
            return Ok(());
        }
        write!(f, ":{}", self.size)
    }
}

impl FromStr for Cell {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Cell, String> {
        let (cell, size) = text.split_once(':').unwrap_or((text, ""));
        let (name, operations) = cell
            .split_once('/')
            .ok_or_else(|| format!("{text:?} is not STATE/OPERATION+OPERATION"))?;
        let states = || names(STATES.iter().map(|state| state.name));
        let unknown = || format!("no state is named {name:?}; there are {}", states());
        let state = state(name).ok_or_else(unknown)?;
        let all = || names(OPERATIONS.iter().map(Operation::name));
        let known = |name| {
            let unknown = || format!("no operation is named {name:?}; there are {}", all());
            operation(name).ok_or_else(unknown)
        };
        let operations: std::result::Result<Vec<_>, _> = operations.split('+').map(known).collect();
        let often = |one: &&'static Operation, all: &[&'static Operation]| {
            all.iter()
                .filter(|other| other.name() == one.name())
                .count()
                > one.names.len()
        };
        let cell = Cell {
            state,
            operations: operations?,
            size: size.to_owned(),
        };
        if let Some(one) = cell
            .operations
            .iter()
            .find(|one| often(one, &cell.operations))
        {
            let (name, most) = (one.name(), one.names.len());
            return Err(format!("{name} can be in a cell {most} times at most"));
        }
        cell.setting()?;
        Ok(cell)
    }
}

fn names<'a>(all: impl Iterator<Item = &'a str>) -> String {
    all.collect::<Vec<_>>().join(", ")
}
