//! `seamlock check`: known races against locking disciplines, on the real code.

mod cell;
mod interrupt;
mod jobs;
mod numbers;
mod place;
mod replay;
mod report;
mod sweep;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use seamlock_check::{CheckError, Options, WalkKind};
use seamlock_kvm::Discipline;
use seamlock_races::{COLUMNS, Finding, RACES, Race, Setting, Wanted, check_race, shrink_scene};

use self::cell::{Answer, Cell};
use self::report::Report;
use crate::failure::BadInput;
use crate::output::outln;
use crate::style;

/// Prove or refute locking disciplines by running KVM's and the TDX module's code under every
/// interleaving that can differ
///
/// Exit code 0: all proved. 1: something refuted. 3: something not exhausted. 4: the check itself failed.
/// With --all: 0 when each verdict is what is known of the discipline, 1 when one differs, 3 when one is
/// missing.
#[derive(Debug, Args)]
pub struct Check {
    /// Only this race, such as R1a, or one scene of it, such as R4/init-punch; R1a:ready=3,pages=4,mem=2
    /// is the same with more vCPUs, pages and operations
    #[arg(long, value_name = "NAME")]
    scenario: Option<String>,
    /// Only this discipline [default: v7.3, with --all every one that something is known of]
    #[arg(long, value_name = "NAME")]
    discipline: Option<String>,
    /// All races against all disciplines, as a table
    #[arg(long)]
    all: bool,
    /// The most executions for each scene
    #[arg(
        long,
        value_name = "N",
        default_value_t = 200_000,
        allow_negative_numbers = true
    )]
    #[arg(value_parser = numbers::at_least_one)]
    budget_executions: u64,
    /// What random choices are made from
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        allow_negative_numbers = true
    )]
    #[arg(value_parser = numbers::any)]
    seed: u64,
    /// OS threads that races and disciplines are split over; the answers do not depend on it
    #[arg(long, value_name = "N", default_value_t = cores(), allow_negative_numbers = true)]
    #[arg(value_parser = numbers::jobs)]
    jobs: usize,
    /// One line of JSON for each race and discipline
    #[arg(long)]
    json: bool,
    /// Show every operation of what goes wrong, and not only an outline
    #[arg(long)]
    steps: bool,
    /// Write a report: the table, and a sequence chart of each finding, in one HTML file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Write the findings as a trace that Perfetto opens
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    #[command(flatten)]
    sweep: sweep::Sweep,
    /// Do again what a counterexample's replay line says
    #[arg(long, value_name = "STRING", conflicts_with_all = ["scenario", "discipline", "all"])]
    replay: Option<String>,
}

/// The exit code when the check itself failed, and says nothing about what was checked.
const FAILED: u8 = 4;

/// A race, what of it, and a discipline.
type Task<'a> = (&'static Race, Wanted<'a>, &'static Discipline);

impl Check {
    /// Runs the command.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let done = self.work();
        match &done {
            Err(error) if error.is::<CheckError>() => {
                let (on, off) = (style::BAD.render(), style::BAD.render_reset());
                anstream::eprintln!("{on}the check itself failed{off}: {error:#}");
                Ok(ExitCode::from(FAILED))
            }
            _ => done,
        }
    }

    fn work(&self) -> anyhow::Result<ExitCode> {
        for path in [&self.report, &self.trace].into_iter().flatten() {
            report::create(path)?;
        }
        if let Some(line) = &self.replay {
            return replay::replay(line, self.steps, |report| self.write(report));
        }
        if self.sweep.is_wanted() {
            return self.sweep.run(self);
        }
        let (races, wanted) = self.races()?;
        let disciplines = self.disciplines()?;
        let row = |race| disciplines.iter().map(move |&with| (race, wanted, with));
        let tasks: Vec<Task<'_>> = races.into_iter().flat_map(row).collect();
        let mut cells = Vec::new();
        jobs::in_order(
            &tasks,
            self.jobs,
            |task| self.cell(task),
            |cell| {
                if self.json {
                    outln!("{}", serde_json::to_string(&cell)?);
                }
                cells.push(cell);
                Ok(())
            },
        )?;
        if !self.json {
            self.print(&cells);
        }
        self.write(&Report::of_races(command_line(), &cells))?;
        Ok(ExitCode::from(self.exit_code(&cells)))
    }

    /// Writes the files that are asked for.
    fn write(&self, report: &Report<'_>) -> anyhow::Result<()> {
        if let Some(path) = &self.report {
            report.write_page(path)?;
        }
        if let Some(path) = &self.trace {
            report.write_trace(path)?;
        }
        Ok(())
    }

    fn races(&self) -> anyhow::Result<(Vec<&'static Race>, Wanted<'_>)> {
        let Some(name) = &self.scenario else {
            return Ok((RACES.iter().collect(), Wanted::default()));
        };
        let (name, size) = name.split_once(':').unwrap_or((name, ""));
        let (id, scene) = match name.split_once('/') {
            Some((id, scene)) => (id, Some(scene)),
            None => (name, None),
        };
        let race = place::find(id, scene)?.0;
        let scenes = race.scenes.iter();
        for scene in scenes.filter(|known| scene.is_none_or(|name| name == known.name)) {
            let setting = Setting::from(*scene).with_size(size);
            setting.map_err(|why| BadInput(format!("{id}/{}: {why}", scene.name)))?;
        }
        Ok((vec![race], Wanted { scene, size }))
    }

    fn disciplines(&self) -> anyhow::Result<Vec<&'static Discipline>> {
        match (&self.discipline, self.all) {
            (Some(name), _) => Ok(vec![place::discipline(name)?]),
            (None, false) => Ok(vec![place::discipline("v7.3")?]),
            (None, true) => COLUMNS.iter().map(|name| place::discipline(name)).collect(),
        }
    }

    fn cell(&self, &(race, wanted, discipline): &Task<'_>) -> anyhow::Result<Cell> {
        let started = Instant::now();
        let mut checked = check_race(race, wanted, discipline, &self.options())?;
        let (took, mut shrunk) = (started.elapsed(), None);
        if let Finding::Refuted { scene, example } = &mut checked.finding {
            let found = (**example).clone();
            let options = self.options();
            let (small, size) =
                shrink_scene(race, scene, wanted.size, discipline, found, &options)?;
            (**example, shrunk) = (small, Some(size));
        }
        Ok(Cell::new(race, discipline, checked, shrunk, took))
    }

    fn options(&self) -> Options {
        let mut options = Options {
            seed: self.seed,
            walks: vec![(WalkKind::Uniform, 60), (WalkKind::Pct { depth: 3 }, 40)],
            ..Options::default()
        };
        options.budget.executions = self.budget_executions;
        options
    }

    fn exit_code(&self, cells: &[Cell]) -> u8 {
        let any = |wrong: fn(&Cell) -> bool| cells.iter().any(wrong);
        let unknown = |cell: &Cell| match cell.verdict {
            Answer::NotExhausted => true,
            // There is no TD under the mail as posted, and that is what R7 says.
            Answer::NoTd => !self.all || cell.as_known.is_some(),
            _ => false,
        };
        let refuted = match self.all {
            true => {
                any(|cell| cell.as_known == Some(false) && cell.verdict != Answer::NotExhausted)
            }
            false => any(|cell| cell.verdict == Answer::Refuted),
        };
        match (refuted, cells.iter().any(unknown)) {
            (true, _) => 1,
            (false, true) => 3,
            (false, false) => 0,
        }
    }

    fn print(&self, cells: &[Cell]) {
        if self.all {
            cell::table(cells);
        }
        for cell in cells {
            if !self.all || cell.as_known == Some(false) {
                cell.print(self.steps);
            }
        }
    }
}

/// The command as it was given, for the report.
fn command_line() -> String {
    let arguments = std::env::args_os().skip(1);
    let text: Vec<_> = arguments
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    format!("seamlock {}", text.join(" "))
}

/// How many threads this machine runs at once.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
