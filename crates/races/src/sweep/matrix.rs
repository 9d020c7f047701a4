//! What a sweep comes to: one letter for each pair of operations, and its findings by cause.

use std::collections::{BTreeMap, BTreeSet};

use seamlock_check::{CheckError, Counterexample, Limit};

use super::{Cell, Company, Found, OPERATIONS, Suspects, Swept};
use crate::faults::{FAULTS, Fault};
use crate::shrink::{Shrunk, shrink};

/// The worst that was found of a pair, in any state and in whatever company.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Letter {
    /// All interleavings were run.
    Proved,
    /// Not all of them were.
    NotExhausted,
    /// Something is wrong.
    Refuted,
}

impl Letter {
    /// As it is printed.
    pub const fn symbol(self) -> char {
        match self {
            Letter::Proved => '.',
            Letter::NotExhausted => '?',
            Letter::Refuted => 'X',
        }
    }
}

/// What tells findings apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The number that docs/findings.md has for the fault; None if it does not describe it.
    pub finding: Option<u32>,
    /// The oracle that objected.
    pub oracle: String,
    /// To what.
    pub cause: String,
}

impl Key {
    /// The fault that it is the doing of.
    pub fn fault(&self) -> Option<&'static Fault> {
        let number = self.finding?;
        FAULTS.iter().find(|fault| fault.number == number)
    }

    /// The findings that this one is: one for each fault that it is the doing of.
    fn all(found: &Found) -> Vec<Key> {
        let violation = &found.example.violation;
        let key = |finding| Key {
            finding,
            oracle: violation.oracle.to_string(),
            cause: violation.cause.clone(),
        };
        match found.faults.as_slice() {
            [] => vec![key(None)],
            faults => faults.iter().map(|fault| key(Some(fault.number))).collect(),
        }
    }
}

/// Cells of one cause that are kept to be shrunk.
const KEPT: usize = 4;

/// Everything that is wrong for one reason.
#[derive(Clone, Debug)]
pub struct Cause {
    /// The cell that shows it, as small as it was shrunk.
    pub cell: Cell,
    /// The schedule there.
    pub example: Counterexample,
    /// What that cell was shrunk from and to, if it was.
    pub shrunk: Option<Shrunk>,
    /// All cells in which it was seen.
    pub cells: Vec<String>,
    // The simplest of those, those that have no other fault first.
    kept: Vec<(Cell, Found)>,
}

impl Cause {
    /// Whether one operation alone is enough for it, so that it is no race.
    pub fn is_solo(&self) -> bool {
        let operations = |shrunk: &Shrunk| shrunk.to.operations();
        self.shrunk
            .as_ref()
            .is_some_and(|shrunk| operations(shrunk) == 1)
    }

    fn new(cell: &Cell, found: &Found) -> Cause {
        Cause {
            cell: cell.clone(),
            example: found.example.clone(),
            shrunk: None,
            cells: vec![cell.to_string()],
            kept: vec![(cell.clone(), found.clone())],
        }
    }

    fn add(&mut self, cell: &Cell, found: &Found) {
        self.cells.push(cell.to_string());
        let weight = |cell: &Cell, found: &Found| (found.faults.len(), cell.weight());
        let new = weight(cell, found);
        let at = self
            .kept
            .partition_point(|(cell, found)| weight(cell, found) <= new);
        self.kept.insert(at, (cell.clone(), found.clone()));
        self.kept.truncate(KEPT);
    }

    /// Shrinks the simplest cells in which it was seen, and shows the smallest that has this fault and no
    /// other, if there is one.
    ///
    /// # Errors
    /// When the check itself failed.
    pub fn shrink(
        &mut self,
        key: &Key,
        suspects: &Suspects,
        budget: u64,
        seed: u64,
    ) -> Result<(), CheckError> {
        let options = super::options(budget, seed);
        let mut least = None;
        for (cell, found) in std::mem::take(&mut self.kept) {
            let from = cell.setting().map_err(CheckError::Setup)?.size();
            let own = cell.own_setting();
            let discipline = suspects.discipline();
            let (example, shrunk) = shrink(&own, from, discipline, found.example, &options)?;
            let cell = cell.at(&shrunk.to);
            let mut again = [Found {
                example,
                faults: Vec::new(),
            }];
            suspects.name(&cell, &mut again, budget, seed);
            let [found] = again;
            let weight = (Key::all(&found) != [key.clone()], cell.weight());
            if least.is_none_or(|least| weight < least) {
                least = Some(weight);
                (self.cell, self.example, self.shrunk) = (cell, found.example, Some(shrunk));
            }
        }
        Ok(())
    }
}

/// What became of some cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// All interleavings were run, and nothing is wrong.
    pub proved: u64,
    /// Something is wrong.
    pub refuted: u64,
    /// Nothing wrong was found, and not all interleavings were run.
    pub not_exhausted: u64,
    /// The checker gave up by a fault of its own.
    pub failed: u64,
    /// Nobody got to it.
    pub not_run: u64,
}

impl Tally {
    /// How many cells there are.
    pub fn cells(&self) -> u64 {
        self.run() + self.not_run
    }

    /// How many of them were run.
    pub fn run(&self) -> u64 {
        self.proved + self.refuted + self.not_exhausted + self.failed
    }
}

/// What was found of a pair of operations, in all states and in whatever company.
#[derive(Clone, Debug, Default)]
pub struct Pair {
    /// Cells that were proved.
    pub proved: u64,
    /// The traces of those.
    pub traces: u64,
    /// In how many cells something is wrong, by their states.
    pub refuted: BTreeMap<&'static str, u64>,
    /// How many cells were not exhausted, or the checker failed on.
    pub open: BTreeMap<&'static str, u64>,
    /// What is wrong: keys of [`Matrix::causes`].
    pub causes: BTreeSet<Key>,
}

impl Pair {
    /// The worst of it.
    pub fn letter(&self) -> Letter {
        match (self.refuted.is_empty(), self.open.is_empty()) {
            (false, _) => Letter::Refuted,
            (true, false) => Letter::NotExhausted,
            (true, true) => Letter::Proved,
        }
    }

    fn open(&mut self, cell: &Cell) {
        *self.open.entry(cell.state.name).or_default() += 1;
    }

    fn add(&mut self, cell: &Cell, swept: &Swept) {
        match swept.letter() {
            Letter::Proved => {
                self.proved += 1;
                self.traces += swept.explored.unwrap_or(0);
            }
            Letter::NotExhausted => self.open(cell),
            Letter::Refuted => *self.refuted.entry(cell.state.name).or_default() += 1,
        }
        self.causes.extend(swept.findings.iter().flat_map(Key::all));
    }
}

/// The sum of a sweep.
#[derive(Clone, Debug, Default)]
pub struct Matrix {
    pairs: BTreeMap<(usize, usize), Pair>,
    /// Findings: what docs/findings.md does not describe first, then as it does.
    pub causes: BTreeMap<Key, Cause>,
    /// All cells.
    pub all: Tally,
    /// The cells by who takes part.
    pub by: BTreeMap<Company, Tally>,
    /// The traces of the cells that were proved.
    pub traces: u64,
    /// Of the cells that were not exhausted, those in which an execution did not end.
    pub endless: u64,
    /// All executions.
    pub executions: u64,
    /// Cells that the checker gave up on by a fault of its own, and the fault. They say nothing.
    pub failed: Vec<(String, CheckError)>,
}

impl Matrix {
    /// Adds a cell that the checker failed on.
    pub fn fail(&mut self, cell: &Cell, error: CheckError) {
        self.each_pair(cell, |pair| pair.open(cell));
        self.count(cell, |tally| &mut tally.failed);
        self.failed.push((cell.to_string(), error));
    }

    /// Adds a cell that nobody gets to.
    pub fn skip(&mut self, cell: &Cell) {
        self.count(cell, |tally| &mut tally.not_run);
    }

    fn count(&mut self, cell: &Cell, number: fn(&mut Tally) -> &mut u64) {
        let company = self.by.entry(Company::of(cell)).or_default();
        *number(company) += 1;
        *number(&mut self.all) += 1;
    }

    fn each_pair(&mut self, cell: &Cell, add: impl Fn(&mut Pair)) {
        let place = |name| OPERATIONS.iter().position(|o| o.name() == name);
        let mut pairs = BTreeSet::new();
        for (at, row) in cell.operations.iter().enumerate() {
            for column in &cell.operations[at + 1..] {
                pairs.extend(place(row.name()).zip(place(column.name())));
            }
        }
        for (a, b) in pairs {
            add(self.pairs.entry((a.min(b), a.max(b))).or_default());
        }
    }

    /// Adds a cell. The cells must come in one order, whoever checked them.
    pub fn add(&mut self, cell: &Cell, swept: Swept) {
        let letter = swept.letter();
        self.each_pair(cell, |pair| pair.add(cell, &swept));
        self.executions += swept.executions;
        match letter {
            Letter::Refuted => self.count(cell, |tally| &mut tally.refuted),
            Letter::NotExhausted => {
                self.count(cell, |tally| &mut tally.not_exhausted);
                self.endless += u64::from(swept.explored == Err(Limit::Steps));
            }
            Letter::Proved => {
                self.count(cell, |tally| &mut tally.proved);
                self.traces += swept.explored.unwrap_or(0);
            }
        }
        for found in swept.findings {
            for key in Key::all(&found) {
                match self.causes.get_mut(&key) {
                    Some(cause) => cause.add(cell, &found),
                    None => {
                        self.causes.insert(key, Cause::new(cell, &found));
                    }
                }
            }
        }
    }

    /// What a finding is called: F and a number as in docs/findings.md, or U and a number, in the order of
    /// [`causes`](Matrix::causes), if it is not described there.
    pub fn name(&self, key: &Key) -> String {
        match key.finding {
            Some(number) => format!("F{number}"),
            None => format!("U{}", self.causes.range(..=key).count()),
        }
    }

    /// The letter of two operations, by their places in the table; None where they never meet.
    pub fn letter(&self, a: usize, b: usize) -> Option<Letter> {
        self.pair(a, b).map(Pair::letter)
    }

    /// All of two operations, by their places in the table; None where they never meet.
    pub fn pair(&self, a: usize, b: usize) -> Option<&Pair> {
        self.pairs.get(&(a.min(b), a.max(b)))
    }

    /// 4 when the checker failed on a cell, 1 when something is wrong, 3 when something was not
    /// exhausted or not run, else 0.
    pub fn exit_code(&self) -> u8 {
        if !self.failed.is_empty() {
            return 4;
        }
        let open = self.all.cells() - self.all.proved - self.all.refuted;
        match (self.causes.is_empty(), open) {
            (false, _) => 1,
            (true, 0) => 0,
            (true, _) => 3,
        }
    }
}
