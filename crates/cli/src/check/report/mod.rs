//! What `check` writes into files: a report in HTML, which needs nothing but itself, and a trace for
//! Perfetto.

mod chart;
mod finding;
mod matrix;
mod page;
mod trace;

use std::path::Path;

use anyhow::Context as _;
use seamlock_check::Counterexample;

#[allow(unused_imports, reason = "for whoever fills a matrix")]
pub use self::matrix::{Matrix, Spot};
use super::cell::Cell;

/// Everything that a report shows.
#[derive(Debug, Default)]
pub struct Report<'a> {
    /// The command that it is the report of.
    pub command: String,
    /// Races against disciplines, row by row.
    pub races: &'a [Cell],
    /// Operations against operations, one for each state and discipline.
    pub sweeps: Vec<Matrix>,
    /// What goes wrong, each once.
    pub findings: Vec<Finding<'a>>,
}

/// Something that goes wrong, however many disciplines or scenes it is found in.
#[derive(Clone, Debug)]
pub struct Finding<'a> {
    /// What tells it from others, such as the race's name.
    pub name: String,
    /// What meets what, in a sentence.
    pub what: String,
    /// Where it was found, with the replay line of each; the example's first.
    pub replays: Vec<(String, String)>,
    /// The execution that is shown.
    pub example: &'a Counterexample,
}

impl<'a> Report<'a> {
    /// A report of races against disciplines. What is wrong in the same way under several disciplines is
    /// shown once.
    pub fn of_races(command: String, cells: &'a [Cell]) -> Report<'a> {
        let mut findings: Vec<Finding<'a>> = Vec::new();
        for cell in cells {
            let (Some(example), Some(replay)) = (&cell.example, &cell.replay) else {
                continue;
            };
            let replay = (cell.discipline.to_owned(), replay.clone());
            let same = |known: &&mut Finding<'_>| {
                let (one, other) = (&known.example.violation, &example.violation);
                known.name == cell.race && one.cause == other.cause
            };
            match findings.iter_mut().find(same) {
                Some(known) => known.replays.push(replay),
                None => findings.push(Finding {
                    name: cell.race.to_owned(),
                    what: cell.what.to_owned(),
                    replays: vec![replay],
                    example,
                }),
            }
        }
        Report {
            command,
            races: cells,
            sweeps: Vec::new(),
            findings,
        }
    }

    /// Writes the page.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write_page(&self, path: &Path) -> anyhow::Result<()> {
        write(path, &page::page(self).into_string())
    }

    /// Writes the trace.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write_trace(&self, path: &Path) -> anyhow::Result<()> {
        write(
            path,
            &serde_json::to_string(&trace::events(&self.findings))?,
        )
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("can't write {}", path.display()))
}
