//! `seamlock check --sweep`: every pair or triple of operations, from every state of a VM.

use std::process::ExitCode;

use clap::Args;
use seamlock_check::{CheckError, Story};
use seamlock_kvm::Discipline;
use seamlock_races::sweep::{
    Cause, Cell, Key, Letter, Matrix, OPERATIONS, Operation, STATES, Suspects, Swept, Tally, cells,
    spread,
};
use serde::Serialize;

use super::interrupt::Interrupt;
use super::place::{self, Place};
use super::report::Report;
use super::{Check, jobs, numbers};
use crate::failure::BadInput;
use crate::output::{out, outln};
use crate::progress;
use crate::style;

/// Options of the sweep.
#[derive(Debug, Args)]
pub struct Sweep {
    /// Every pair of operations from every state of a VM, against one discipline
    #[arg(long, conflicts_with_all = ["scenario", "all", "replay"])]
    sweep: bool,
    /// Pairs of operations, which is what --sweep takes without this
    #[arg(long, requires = "sweep", conflicts_with = "triples")]
    pairs: bool,
    /// Triples of operations
    #[arg(long, requires = "sweep")]
    triples: bool,
    /// The most executions for each cell of the sweep
    #[arg(long, value_name = "N", default_value_t = 1000, requires = "sweep")]
    #[arg(value_parser = numbers::at_least_one, allow_negative_numbers = true)]
    budget: u64,
    /// The most executions of the whole sweep. The cells are then taken at random, from every state and
    /// every company in proportion, and those that it does not come to are counted as not run
    #[arg(long, value_name = "N", requires = "sweep")]
    #[arg(value_parser = numbers::at_least_one, allow_negative_numbers = true)]
    total: Option<u64>,
    /// Only this state, this state with these operations (STATE/A+B), or cells with this operation
    #[arg(long, value_name = "CELL", requires = "sweep")]
    only: Option<String>,
    /// Print where each finding was seen, and its schedule
    #[arg(long, requires = "sweep")]
    schedules: bool,
}

/// A finding as a line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    discipline: &'a str,
    // As in docs/findings.md, or U and a number.
    finding: String,
    described: Option<&'static str>,
    oracle: &'a str,
    cause: &'a str,
    cells: &'a [String],
    detail: &'a str,
    replay: String,
}

impl Sweep {
    /// Whether a sweep is asked for.
    pub fn is_wanted(&self) -> bool {
        self.sweep
    }

    /// Sweeps, and prints the matrix and the findings.
    ///
    /// # Errors
    /// When no TD can be built under the discipline, or the check itself failed.
    pub fn run(&self, check: &Check) -> anyhow::Result<ExitCode> {
        let discipline = place::discipline(check.discipline.as_deref().unwrap_or("v7.3"))?;
        let suspects = Suspects::of(discipline);
        let mut matrix = self.matrix(check, &suspects)?;
        self.shrink(&mut matrix, &suspects, check)?;
        if check.json {
            for (key, cause) in &matrix.causes {
                let line = line(discipline, matrix.name(key), key, cause);
                outln!("{}", serde_json::to_string(&line)?);
            }
        } else {
            self.print(&matrix, discipline);
        }
        let sum = self.sum(&matrix);
        let command = super::command_line();
        check.write(&Report::of_sweep(command, discipline.name, sum, &matrix))?;
        Ok(ExitCode::from(matrix.exit_code()))
    }

    /// Shrinks what each finding was seen in first.
    fn shrink(
        &self,
        matrix: &mut Matrix,
        suspects: &Suspects,
        check: &Check,
    ) -> anyhow::Result<()> {
        let causes = std::mem::take(&mut matrix.causes);
        let causes: Vec<(Key, Cause)> = causes.into_iter().collect();
        let work = |(key, cause): &(Key, Cause)| {
            let mut cause = cause.clone();
            cause.shrink(key, suspects, self.budget, check.seed)?;
            Ok::<_, anyhow::Error>((key.clone(), cause))
        };
        jobs::in_order(&causes, check.jobs, work, |(key, cause)| {
            matrix.causes.insert(key, cause);
            Ok(())
        })
    }

    /// Runs the cells. The sum depends neither on the number of threads nor on the clock.
    fn matrix(&self, check: &Check, suspects: &Suspects) -> anyhow::Result<Matrix> {
        let discipline = suspects.discipline();
        let mut cells = self.cells()?;
        if self.total.is_some() {
            spread(&mut cells, check.seed);
        }
        let interrupt = Interrupt::watch()?;
        let bar = progress::count("sweep", cells.len() as u64);
        let mut matrix = Matrix::default();
        let work = |cell: &Cell| {
            let mut swept = cell.check(discipline, self.budget, check.seed);
            if let Ok(swept) = &mut swept {
                suspects.name(cell, &mut swept.findings, self.budget, check.seed);
            }
            Ok((cell.clone(), swept))
        };
        let done = |(cell, swept): (Cell, Result<Swept, CheckError>)| {
            match swept {
                Ok(swept) => matrix.add(&cell, swept),
                Err(error @ (CheckError::Engine(_) | CheckError::Nondeterministic { .. })) => {
                    matrix.fail(&cell, error);
                }
                Err(error) => return Err(Ended::Failed(error)),
            }
            bar.inc(1);
            match self.total {
                Some(total) if matrix.executions >= total => Err(Ended::Early),
                _ if interrupt.came() => Err(Ended::Early),
                _ => Ok(()),
            }
        };
        match jobs::in_order(&cells, check.jobs, work, done) {
            Ok(()) | Err(Ended::Early) => {}
            Err(Ended::Failed(CheckError::Setup(why))) => {
                let what = format!("there is nothing to sweep under {}: {why}", discipline.name);
                return Err(BadInput(what).into());
            }
            Err(Ended::Failed(error)) => return Err(error.into()),
        }
        bar.finish_and_clear();
        if interrupt.came() {
            anstream::eprintln!("ended early: what follows is of the cells that were run so far");
        }
        for cell in &cells[matrix.all.run() as usize..] {
            matrix.skip(cell);
        }
        Ok(matrix)
    }

    fn cells(&self) -> anyhow::Result<Vec<Cell>> {
        let mut all = cells(if self.triples { 3 } else { 2 });
        let Some(only) = &self.only else {
            return Ok(all);
        };
        if only.contains('/') {
            return Ok(vec![only.parse().map_err(BadInput)?]);
        }
        all.retain(|cell| {
            cell.state.name == only || cell.operations.iter().any(|o| o.name() == only)
        });
        if all.is_empty() {
            let states = STATES.iter().map(|state| state.name);
            let operations = OPERATIONS.iter().map(Operation::name);
            return Err(BadInput(format!(
                "no cell has {only:?}, which is neither a state ({}) nor an operation ({})",
                place::names(states),
                place::names(operations)
            ))
            .into());
        }
        Ok(all)
    }

    /// What a sweep comes to, in words.
    fn sum(&self, matrix: &Matrix) -> String {
        let all = matrix.all;
        let some = |n: u64, words: &str| match n {
            0 => String::new(),
            n => format!(", {n} {words}"),
        };
        let endless = match matrix.endless {
            0 => String::new(),
            n => format!(" ({n} of them have an execution that does not end)"),
        };
        format!(
            "{} cells: {} proved ({} traces), {} refuted, {} not exhausted within {} executions \
             each{endless}{}{}; {} executions",
            all.cells(),
            all.proved,
            matrix.traces,
            all.refuted,
            all.not_exhausted,
            self.budget,
            some(all.failed, "given up by a fault of the checker"),
            some(all.not_run, "not run"),
            matrix.executions
        )
    }

    fn print(&self, matrix: &Matrix, discipline: &Discipline) {
        table(matrix);
        outln!();
        if self.triples || matrix.all.not_run > 0 {
            companies(matrix);
        }
        outln!("{}: {}", discipline.name, self.sum(matrix));
        for (cell, error) in &matrix.failed {
            outln!("{cell}: {error}");
        }
        let mut told = None;
        for (key, cause) in &matrix.causes {
            let line = line(discipline, matrix.name(key), key, cause);
            let (on, off) = (style::BAD.render(), style::BAD.render_reset());
            let finding = &line.finding;
            match line.described {
                Some(what) if told != key.finding => {
                    let (head, off) = (style::HEAD.render(), style::HEAD.render_reset());
                    outln!("\n{head}{finding} of docs/findings.md: {what}{off}");
                }
                _ => outln!(),
            }
            told = key.finding;
            outln!("{finding} {on}{}: {}{off}", line.oracle, line.cause);
            if !line.detail.is_empty() {
                outln!("   {}", line.detail);
            }
            let shown = if self.schedules { cause.cells.len() } else { 6 };
            let few = &cause.cells[..cause.cells.len().min(shown)];
            let more = cause.cells.len() - few.len();
            let more = if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            };
            outln!("   in {}{more}", few.join(", "));
            if let Some(shrunk) = &cause.shrunk {
                outln!("   {shrunk}");
            }
            if self.schedules {
                out!("{}", Story(&cause.example));
            }
            outln!("   again: seamlock check --replay '{}'", line.replay);
        }
    }
}

/// Why a sweep ends before its last cell.
enum Ended {
    /// The executions are spent, or somebody had enough.
    Early,
    Failed(CheckError),
}

/// The cells by who takes part.
fn companies(matrix: &Matrix) {
    let (on, off) = (style::HEAD.render(), style::HEAD.render_reset());
    let names = [
        "cells",
        "run",
        "proved",
        "refuted",
        "not exhausted",
        "not run",
    ];
    let heads: String = names.iter().map(|name| format!("{name:>14}")).collect();
    outln!("{on}{:26}{heads}{off}", "");
    let row = |name: String, tally: &Tally| {
        let Tally {
            proved,
            refuted,
            not_exhausted,
            not_run,
            ..
        } = *tally;
        let numbers = [
            tally.cells(),
            tally.run(),
            proved,
            refuted,
            not_exhausted,
            not_run,
        ];
        let numbers: String = numbers.iter().map(|n| format!("{n:>14}")).collect();
        outln!("{name:26}{numbers}");
    };
    for (company, tally) in &matrix.by {
        row(company.to_string(), tally);
    }
    row("all".to_owned(), &matrix.all);
    outln!();
}

fn line<'a>(
    discipline: &'a Discipline,
    finding: String,
    key: &'a Key,
    cause: &'a Cause,
) -> Line<'a> {
    let place = Place::of_cell(&cause.cell, &cause.example, discipline.name);
    Line {
        discipline: discipline.name,
        finding,
        described: key.fault().map(|fault| fault.what),
        oracle: &key.oracle,
        cause: &key.cause,
        cells: &cause.cells,
        detail: &cause.example.violation.detail,
        replay: format!("{place} {}", cause.example.schedule),
    }
}

/// What it means that nothing is known of a pair.
pub fn never(matrix: &Matrix) -> &'static str {
    match matrix.all.not_run {
        0 => "never together",
        _ => "never together, or not run",
    }
}

/// Operations down and across; the columns are numbered.
fn table(matrix: &Matrix) {
    let meets = |a: usize| (0..OPERATIONS.len()).any(|b| matrix.pair(a, b).is_some());
    let used: Vec<usize> = (0..OPERATIONS.len()).filter(|a| meets(*a)).collect();
    let heads: String = used.iter().map(|at| format!("{:>3}", at + 1)).collect();
    let (on, off) = (style::HEAD.render(), style::HEAD.render_reset());
    outln!("{on}{:19}{heads}{off}", "");
    for &row in &used {
        out!("{:>2} {:15} ", row + 1, OPERATIONS[row].name());
        for &column in &used {
            spot(matrix, row, column);
        }
        outln!();
    }
    outln!(
        ". proved  ? not exhausted  F refuted, in the worst state: as in docs/findings.md, or U if it is \
         not described there  blank: {}",
        never(matrix)
    );
}

fn spot(matrix: &Matrix, row: usize, column: usize) {
    let Some(pair) = matrix.pair(row, column) else {
        out!("   ");
        return;
    };
    let letter = pair.letter();
    let look = match letter {
        Letter::Proved => style::DIM,
        Letter::NotExhausted => style::HEAD,
        Letter::Refuted => style::BAD,
    };
    let of_both = pair.causes.iter().min_by_key(|key| {
        let solo = matrix.causes.get(key).is_some_and(Cause::is_solo);
        (solo, *key)
    });
    let sign = match (letter, of_both) {
        (Letter::Refuted, Some(key)) => matrix.name(key),
        _ => letter.symbol().to_string(),
    };
    out!("{}{sign:>3}{}", look.render(), look.render_reset());
}
