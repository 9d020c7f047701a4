//! What a sweep comes to: one letter for each pair of operations, and its findings by cause.

use std::collections::BTreeMap;

use seamlock_check::{CheckError, Counterexample, Limit};

use super::{Cell, OPERATIONS, Swept};

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

/// Everything that is wrong for one reason.
#[derive(Clone, Debug)]
pub struct Cause {
    /// The cell in which it was seen first.
    pub cell: Cell,
    /// The schedule there.
    pub example: Counterexample,
    /// All cells in which it was seen.
    pub cells: Vec<String>,
}

/// The sum of a sweep.
#[derive(Clone, Debug, Default)]
pub struct Matrix {
    letters: BTreeMap<(usize, usize), Letter>,
    /// Findings by oracle and cause.
    pub causes: BTreeMap<(String, String), Cause>,
    /// Cells that were proved.
    pub proved: u64,
    /// The traces of those.
    pub traces: u64,
    /// Cells in which something is wrong.
    pub refuted: u64,
    /// Cells that were not exhausted, and those of them in which an execution did not end.
    pub not_exhausted: (u64, u64),
    /// All executions.
    pub executions: u64,
    /// Cells that the checker gave up on by a fault of its own, and the fault. They say nothing.
    pub failed: Vec<(String, CheckError)>,
}

impl Matrix {
    /// Adds a cell that the checker failed on.
    pub fn fail(&mut self, cell: &Cell, error: CheckError) {
        self.mark(cell, Letter::NotExhausted);
        self.failed.push((cell.to_string(), error));
    }

    fn mark(&mut self, cell: &Cell, letter: Letter) {
        let place = |name| OPERATIONS.iter().position(|o| o.name() == name);
        for (at, row) in cell.operations.iter().enumerate() {
            for column in &cell.operations[at + 1..] {
                if let (Some(a), Some(b)) = (place(row.name()), place(column.name())) {
                    let known = self.letters.entry((a, b)).or_insert(letter);
                    *known = letter.max(*known);
                }
            }
        }
    }

    /// Adds a cell. The cells must come in one order, whoever checked them.
    pub fn add(&mut self, cell: &Cell, swept: Swept) {
        let letter = swept.letter();
        self.mark(cell, letter);
        self.executions += swept.executions;
        match letter {
            Letter::Refuted => self.refuted += 1,
            Letter::NotExhausted => {
                self.not_exhausted.0 += 1;
                self.not_exhausted.1 += u64::from(swept.explored == Err(Limit::Steps));
            }
            Letter::Proved => {
                self.proved += 1;
                self.traces += swept.explored.unwrap_or(0);
            }
        }
        for example in swept.findings {
            let violation = &example.violation;
            let key = (violation.oracle.to_string(), violation.cause.clone());
            let name = cell.to_string();
            match self.causes.get_mut(&key) {
                Some(cause) => cause.cells.push(name),
                None => {
                    let cause = Cause {
                        cell: cell.clone(),
                        example,
                        cells: vec![name],
                    };
                    self.causes.insert(key, cause);
                }
            }
        }
    }

    /// The letter of two operations, by their places in the table; None where they never meet.
    pub fn letter(&self, a: usize, b: usize) -> Option<Letter> {
        self.letters.get(&(a.min(b), a.max(b))).copied()
    }

    /// 1 when something is wrong, 3 when something was not exhausted, else 0.
    pub fn exit_code(&self) -> u8 {
        let open = self.not_exhausted.0 + self.failed.len() as u64;
        match (self.causes.is_empty(), open) {
            (false, _) => 1,
            (true, 0) => 0,
            (true, _) => 3,
        }
    }
}
