//! `seamlock check`: known races against locking disciplines, on the real code.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use seamlock_check::{Options, Schedule, Setup, WalkKind};
use seamlock_kvm::Discipline;
use seamlock_kvm::discipline::{DISCIPLINES, by_name};
use seamlock_races::{COLUMNS, Checked, Finding, RACES, Race, Scene, Staged, check_race};
use serde::Serialize;

use crate::failure::BadInput;
use crate::style;

/// Prove or refute locking disciplines by running KVM's and the TDX module's code under every
/// interleaving that can differ
///
/// Exit code 0: all proved. 1: something refuted. 3: something not exhausted. With --all: 0 when each
/// verdict is what is known of the discipline, 1 when one differs, 3 when one is missing.
#[derive(Debug, Args)]
pub struct Check {
    /// Only this race, such as R1a, or one scene of it, such as R4/init-punch
    #[arg(long, value_name = "NAME")]
    scenario: Option<String>,
    /// Only this discipline [default: v7.3, with --all every one that something is known of]
    #[arg(long, value_name = "NAME")]
    discipline: Option<String>,
    /// All races against all disciplines, as a table
    #[arg(long)]
    all: bool,
    /// The most executions for each scene
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    budget_executions: u64,
    /// What random choices are made from
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// One line of JSON for each race and discipline
    #[arg(long)]
    json: bool,
    /// Do again what a counterexample's replay line says
    #[arg(long, value_name = "STRING", conflicts_with_all = ["scenario", "discipline", "all"])]
    replay: Option<String>,
}

/// One race under one discipline.
#[derive(Serialize)]
struct Cell {
    race: &'static str,
    discipline: &'static str,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    traces: Option<u64>,
    executions: u64,
    ms: u128,
    /// Whether it is what is known; absent when nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    as_known: Option<bool>,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    replay: Option<String>,
    #[serde(skip)]
    text: String,
}

impl Check {
    /// Runs the command.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        if let Some(line) = &self.replay {
            return replay(line);
        }
        let (races, scene) = self.races()?;
        let mut cells = Vec::new();
        for race in races {
            for discipline in self.disciplines()? {
                let cell = self.cell(race, scene.as_deref(), discipline)?;
                if self.json {
                    anstream::println!("{}", serde_json::to_string(&cell)?);
                }
                cells.push(cell);
            }
        }
        if !self.json {
            self.print(&cells);
        }
        Ok(ExitCode::from(self.exit_code(&cells)))
    }

    fn races(&self) -> anyhow::Result<(Vec<&'static Race>, Option<String>)> {
        let Some(name) = &self.scenario else {
            return Ok((RACES.iter().collect(), None));
        };
        let (id, scene) = match name.split_once('/') {
            Some((id, scene)) => (id, Some(scene)),
            None => (name.as_str(), None),
        };
        let race = find(id, scene)?.0;
        Ok((vec![race], scene.map(str::to_owned)))
    }

    fn disciplines(&self) -> anyhow::Result<Vec<&'static Discipline>> {
        match (&self.discipline, self.all) {
            (Some(name), _) => Ok(vec![discipline(name)?]),
            (None, false) => Ok(vec![discipline("v7.3")?]),
            (None, true) => COLUMNS.iter().map(|name| discipline(name)).collect(),
        }
    }

    fn cell(
        &self,
        race: &'static Race,
        scene: Option<&str>,
        discipline: &'static Discipline,
    ) -> anyhow::Result<Cell> {
        let started = Instant::now();
        let checked = check_race(race, scene, discipline, &self.options())?;
        Ok(Cell::new(race, discipline, &checked, started.elapsed()))
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
        let refuted = match self.all {
            true => any(|cell| cell.as_known == Some(false) && cell.verdict != NOT_EXHAUSTED),
            false => any(|cell| cell.verdict == REFUTED),
        };
        match (
            refuted,
            any(|cell| cell.verdict == NOT_EXHAUSTED || cell.verdict == NO_TD),
        ) {
            (true, _) => 1,
            (false, true) => 3,
            (false, false) => 0,
        }
    }

    fn print(&self, cells: &[Cell]) {
        if self.all {
            table(cells);
        }
        for cell in cells {
            if !self.all || cell.as_known == Some(false) {
                cell.print();
            }
        }
    }
}

const PROVED: &str = "proved";
const REFUTED: &str = "refuted";
const NOT_EXHAUSTED: &str = "not exhausted";
const NO_TD: &str = "no TD";

impl Cell {
    fn new(
        race: &'static Race,
        discipline: &'static Discipline,
        checked: &Checked,
        took: Duration,
    ) -> Cell {
        let (mut traces, mut replay, mut text) = (None, None, String::new());
        let (verdict, detail) = match &checked.finding {
            Finding::Proved { traces: n } => {
                traces = Some(*n);
                (PROVED, format!("{n} traces"))
            }
            Finding::Refuted { scene, example } => {
                let place = format!("{}/{scene}@{}", race.id, discipline.name);
                replay = Some(format!("{place} {}", example.schedule));
                text = example.to_string();
                (REFUTED, format!("{scene}: {}", example.violation))
            }
            Finding::NotExhausted { scene, why } => (NOT_EXHAUSTED, format!("{scene}: {why}")),
            Finding::NoTd(why) => (NO_TD, why.clone()),
        };
        let expected = race.expected(discipline.name);
        Cell {
            race: race.id,
            discipline: discipline.name,
            verdict,
            traces,
            executions: checked.executions,
            ms: took.as_millis(),
            as_known: expected.map(|open| verdict == if open { REFUTED } else { PROVED }),
            detail,
            replay,
            text,
        }
    }

    fn print(&self) {
        let look = if self.verdict == PROVED {
            style::GOOD
        } else {
            style::BAD
        };
        anstream::println!(
            "{:4} {:20} {}{}{}  {} ({} executions, {} ms)",
            self.race,
            self.discipline,
            look.render(),
            self.verdict,
            look.render_reset(),
            self.detail,
            self.executions,
            self.ms,
        );
        if let Some(replay) = &self.replay {
            anstream::print!("{}", self.text);
            anstream::println!("again: seamlock check --replay '{replay}'\n");
        }
    }

    /// What stands in the table.
    fn short(&self) -> String {
        let known = if self.as_known == Some(false) {
            " !!"
        } else {
            ""
        };
        let ms = self.ms;
        match self.verdict {
            PROVED => format!("proved {} {ms} ms{known}", self.traces.unwrap_or(0)),
            NOT_EXHAUSTED => format!("? {} runs{known}", self.executions),
            verdict => format!("{verdict} {ms} ms{known}"),
        }
    }
}

/// Races down, disciplines across.
fn table(cells: &[Cell]) {
    let mut columns: Vec<&str> = Vec::new();
    for cell in cells {
        if !columns.contains(&cell.discipline) {
            columns.push(cell.discipline);
        }
    }
    let (on, off) = (style::HEAD.render(), style::HEAD.render_reset());
    let head: String = columns.iter().map(|name| format!("{name:<18}")).collect();
    anstream::println!("{on}{:5} {head}{off}", "race");
    for row in cells.chunks(columns.len().max(1)) {
        anstream::print!("{:5} ", row[0].race);
        for cell in row {
            let look = match (cell.verdict, cell.as_known) {
                (_, Some(false)) => style::BAD,
                (PROVED, _) => style::GOOD,
                _ => style::DIM,
            };
            let text = cell.short();
            anstream::print!("{}{text:<18}{}", look.render(), look.render_reset());
        }
        anstream::println!();
    }
    let differ = cells
        .iter()
        .filter(|cell| cell.as_known == Some(false))
        .count();
    anstream::println!(
        "proved N: every trace was run, N of them. !! differs from what is known: {differ} of {}",
        cells.len()
    );
}

fn discipline(name: &str) -> anyhow::Result<&'static Discipline> {
    let names = || {
        DISCIPLINES
            .iter()
            .map(|d| d.name)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let unknown = || {
        BadInput(format!(
            "no discipline is named {name:?}; there are {}",
            names()
        ))
    };
    Ok(by_name(name).ok_or_else(unknown)?)
}

/// A race, and the scene of it if one is named.
fn find(id: &str, scene: Option<&str>) -> anyhow::Result<(&'static Race, Option<&'static Scene>)> {
    let names = || {
        RACES
            .iter()
            .map(|race| race.id)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let unknown = || BadInput(format!("no race is named {id:?}; there are {}", names()));
    let race = seamlock_races::race(id).ok_or_else(unknown)?;
    let Some(name) = scene else {
        return Ok((race, None));
    };
    let found = race.scenes.iter().find(|scene| scene.name == name);
    let names = || {
        race.scenes
            .iter()
            .map(|scene| scene.name)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let unknown = || BadInput(format!("{id} has no scene {name:?}; there are {}", names()));
    Ok((race, Some(found.ok_or_else(unknown)?)))
}

/// Does again what a replay line says: `RACE/SCENE@DISCIPLINE SCHEDULE`.
fn replay(line: &str) -> anyhow::Result<ExitCode> {
    let malformed = || BadInput("a replay line is RACE/SCENE@DISCIPLINE SCHEDULE".to_owned());
    let (place, schedule) = line.trim().split_once(' ').ok_or_else(malformed)?;
    let (scenario, name) = place.split_once('@').ok_or_else(malformed)?;
    let (id, scene) = scenario.split_once('/').ok_or_else(malformed)?;
    let scene = find(id, Some(scene))?.1.ok_or_else(malformed)?;
    let schedule: Schedule = schedule
        .parse()
        .map_err(|error: seamlock_check::CheckError| BadInput(error.to_string()))?;
    let staged = Staged::new(*scene, discipline(name)?).map_err(|why| BadInput(why.to_string()))?;
    let steps = Options::default().budget.steps;
    let again = seamlock_check::replay(&|setup: &mut Setup| staged.build(setup), &schedule, steps)?;
    if let Some(diverged) = &again.diverged {
        anstream::println!("the code no longer does what the schedule says: {diverged}");
    }
    if let Some(example) = &again.example {
        anstream::print!("{example}");
    }
    for violation in &again.violations {
        anstream::println!("{violation}");
    }
    if again.violations.is_empty() {
        anstream::println!("nothing is wrong in this execution");
    }
    let code = match (again.violations.is_empty(), &again.diverged) {
        (false, _) => 1,
        (true, Some(_)) => 3,
        (true, None) => 0,
    };
    Ok(ExitCode::from(code))
}
