//! One race under one discipline, as it is shown.

use std::time::Duration;

use seamlock_check::{Counterexample, Story};
use seamlock_kvm::Discipline;
use seamlock_races::{Checked, Finding, Race, Shrunk};
use serde::Serialize;

use super::place::{Place, quoted};
use crate::output::{out, outln};
use crate::style;

/// What a check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Answer {
    /// Every trace was run.
    #[serde(rename = "proved")]
    Proved,
    /// Something goes wrong.
    #[serde(rename = "refuted")]
    Refuted,
    /// Nothing wrong was found, and not everything was run.
    #[serde(rename = "not exhausted")]
    NotExhausted,
    /// No TD can be built under the discipline.
    #[serde(rename = "no TD")]
    NoTd,
}

impl Answer {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Answer::Proved => "proved",
            Answer::Refuted => "refuted",
            Answer::NotExhausted => "not exhausted",
            Answer::NoTd => "no TD",
        }
    }
}

/// One race under one discipline.
#[derive(Debug, Serialize)]
pub struct Cell {
    /// The race.
    pub race: &'static str,
    /// What meets what.
    #[serde(skip)]
    pub what: &'static str,
    /// The discipline.
    pub discipline: &'static str,
    /// What it came to.
    pub verdict: Answer,
    /// The number of traces, of a proof.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traces: Option<u64>,
    /// Executions that it took.
    pub executions: u64,
    /// Milliseconds that it took.
    pub ms: u128,
    /// Whether it is what is known; absent when nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_known: Option<bool>,
    /// The scene that is refuted; empty if none is.
    #[serde(skip)]
    pub scene: &'static str,
    /// What was violated, or why there is no proof.
    pub detail: String,
    /// How to do it again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<String>,
    /// How large the scene is that the replay is of, and what it was shrunk from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// The execution that goes wrong.
    #[serde(skip)]
    pub example: Option<Box<Counterexample>>,
}

impl Cell {
    /// From what the check of a race came to.
    pub fn new(
        race: &'static Race,
        discipline: &'static Discipline,
        checked: Checked,
        shrunk: Option<Shrunk>,
        took: Duration,
    ) -> Cell {
        let (mut traces, mut replay, mut shown, mut size) = (None, None, None, None);
        let mut refuted = "";
        let (verdict, detail) = match checked.finding {
            Finding::Proved { traces: n } => {
                traces = Some(n);
                (Answer::Proved, format!("{n} traces"))
            }
            Finding::Refuted { scene, example } => {
                let text = shrunk.as_ref().map_or("", |shrunk| &shrunk.text);
                let place = Place::of_scene(race.id, scene, text, discipline.name);
                size = shrunk.map(|shrunk| shrunk.to_string());
                replay = Some(format!("{place} {}", example.schedule));
                let detail = format!("{scene}: {}", example.violation);
                refuted = scene;
                shown = Some(example);
                (Answer::Refuted, detail)
            }
            Finding::NotExhausted { scene, why } => {
                (Answer::NotExhausted, format!("{scene}: {why}"))
            }
            Finding::NoTd(why) => (Answer::NoTd, why),
        };
        let expected = race.expected(discipline.name);
        let known = |open| match open {
            true => verdict == Answer::Refuted,
            false => verdict == Answer::Proved,
        };
        Cell {
            race: race.id,
            what: race.what,
            discipline: discipline.name,
            verdict,
            traces,
            executions: checked.executions,
            ms: took.as_millis(),
            as_known: expected.map(known),
            scene: refuted,
            detail,
            replay,
            size,
            example: shown,
        }
    }

    /// Prints it, and what goes wrong: in outline, or every operation of it.
    pub fn print(&self, steps: bool) {
        let look = match self.verdict {
            Answer::Proved => style::GOOD,
            _ => style::BAD,
        };
        outln!(
            "{:4} {:20} {}{}{}  {} ({} executions, {} ms)",
            self.race,
            self.discipline,
            look.render(),
            self.verdict.word(),
            look.render_reset(),
            self.example
                .as_ref()
                .map_or(self.detail.as_str(), |_| self.scene),
            self.executions,
            self.ms,
        );
        if let Some(size) = &self.size {
            outln!("      {size}");
        }
        if let (Some(replay), Some(example)) = (&self.replay, &self.example) {
            match steps {
                true => out!("{:#}", Story(example)),
                false => out!("{}", Story(example)),
            }
            outln!("again: seamlock check --replay {}\n", quoted(replay));
        }
    }

    /// What stands in the table.
    pub fn short(&self) -> String {
        let known = if self.as_known == Some(false) {
            " !!"
        } else {
            ""
        };
        let ms = self.ms;
        match self.verdict {
            Answer::Proved => format!("proved {} {ms} ms{known}", self.traces.unwrap_or(0)),
            Answer::NotExhausted => format!("? {} runs{known}", self.executions),
            verdict => format!("{} {ms} ms{known}", verdict.word()),
        }
    }
}

/// The table: races down, disciplines across. `cells` come row by row.
pub fn table(cells: &[Cell]) {
    let mut columns: Vec<&str> = Vec::new();
    for cell in cells {
        if !columns.contains(&cell.discipline) {
            columns.push(cell.discipline);
        }
    }
    let (on, off) = (style::HEAD.render(), style::HEAD.render_reset());
    let head: String = columns.iter().map(|name| format!("{name:<18}")).collect();
    outln!("{on}{:5} {head}{off}", "race");
    for row in cells.chunks(columns.len().max(1)) {
        out!("{:5} ", row[0].race);
        for cell in row {
            let look = match (cell.verdict, cell.as_known) {
                (_, Some(false)) => style::BAD,
                (Answer::Proved, _) => style::GOOD,
                _ => style::DIM,
            };
            let text = cell.short();
            out!("{}{text:<18}{}", look.render(), look.render_reset());
        }
        outln!();
    }
    let differ = cells
        .iter()
        .filter(|cell| cell.as_known == Some(false))
        .count();
    outln!(
        "proved N: every trace was run, N of them. !! differs from what is known: {differ} of {}",
        cells.len()
    );
}
