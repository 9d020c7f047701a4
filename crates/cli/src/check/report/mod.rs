//! What `check` writes into files: a report in HTML, which needs nothing but itself, and a trace for
//! Perfetto.

mod chart;
mod finding;
mod matrix;
mod page;
mod trace;

use std::path::Path;

use seamlock_check::Counterexample;
use seamlock_races::sweep;

use self::matrix::Matrix;
use super::cell::Cell;
use super::place::Place;
use crate::output;

/// Everything that a report shows.
#[derive(Debug, Default)]
pub struct Report<'a> {
    /// The command that it is the report of.
    pub command: String,
    /// Races against disciplines, row by row.
    pub races: &'a [Cell],
    /// Operations against operations, one for each discipline.
    pub sweeps: Vec<Matrix>,
    /// What goes wrong, each once.
    pub findings: Vec<Finding<'a>>,
}

/// Something that goes wrong, however many disciplines or scenes it is found in.
#[derive(Clone, Debug)]
pub struct Finding<'a> {
    /// What tells it from others, such as the race's name.
    pub name: String,
    /// What docs/findings.md says that it is, if it does.
    pub described: Option<&'static str>,
    /// What meets what, in a sentence.
    pub what: String,
    /// How large what is shown is, and what it was shrunk from.
    pub size: Option<String>,
    /// Everywhere that it was seen, if that is more than what can be replayed.
    pub seen: &'a [String],
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
                    described: None,
                    what: cell.what.to_owned(),
                    size: cell.size.clone(),
                    seen: &[],
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

    /// A report of a sweep under a discipline, and what it comes to in words.
    pub fn of_sweep(
        command: String,
        discipline: &str,
        sum: String,
        matrix: &'a sweep::Matrix,
    ) -> Report<'a> {
        let finding = |(key, cause): (&'a sweep::Key, &'a sweep::Cause)| {
            let acts = cause.cell.operations.iter().map(|of| of.act.name());
            let acts: Vec<&str> = acts.collect();
            let place = Place::of_cell(&cause.cell, &cause.example, discipline);
            let replay = format!("{place} {}", cause.example.schedule);
            Finding {
                name: matrix.name(key),
                described: key.fault().map(|fault| fault.what),
                what: format!("{}: {}", acts.join(" and "), cause.cell.state.what),
                size: cause.shrunk.as_ref().map(ToString::to_string),
                seen: &cause.cells,
                replays: vec![(cause.cell.to_string(), replay)],
                example: &cause.example,
            }
        };
        let title = format!("Every pair of operations, from every state of a VM: {discipline}");
        Report {
            command,
            races: &[],
            sweeps: vec![Matrix::of_sweep(title, sum, matrix)],
            findings: matrix.causes.iter().map(finding).collect(),
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

/// Makes an empty file, so that one that can't be written is known before the work.
///
/// # Errors
/// When it can't be made.
pub fn create(path: &Path) -> anyhow::Result<()> {
    Ok(output::write(path, "")?)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    Ok(output::write(path, text)?)
}
