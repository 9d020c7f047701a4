//! Names of what is checked, as they stand in front of a schedule: `NAME@DISCIPLINE`.
//!
//! A name is `RACE/SCENE` of the catalogue. Other kinds of scenarios begin with their own word and a
//! colon; whatever [`Place::stage`] can build can be replayed.

use std::fmt;
use std::str::FromStr;

use seamlock_check::{Counterexample, Setup};
use seamlock_kvm::Discipline;
use seamlock_kvm::discipline::{DISCIPLINES, by_name};
use seamlock_races::sweep::{Cell, is_lock_order};
use seamlock_races::{RACES, Race, Scene, Setting, Staged};

use crate::failure::BadInput;

/// In front of a cell of the sweep.
const SWEEP: &str = "sweep:";
/// In front of one whose operations come one after the other.
const ORDER: &str = "order:";

/// A scenario under a discipline, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which scenario.
    pub name: String,
    /// Under which discipline.
    pub discipline: String,
}

/// A scenario, ready to be run.
pub type Ready = Box<dyn Fn(&mut Setup)>;

impl Place {
    /// A scene of the catalogue, at a size as [`Setting::with_size`] reads it.
    pub fn of_scene(race: &str, scene: &str, size: &str, discipline: &str) -> Place {
        let colon = if size.is_empty() { "" } else { ":" };
        Place {
            name: format!("{race}/{scene}{colon}{size}"),
            discipline: discipline.to_owned(),
        }
    }

    /// A cell of the sweep. One thread does it all where lockdep objects.
    pub fn of_cell(cell: &Cell, example: &Counterexample, discipline: &str) -> Place {
        let word = if is_lock_order(example) { ORDER } else { SWEEP };
        Place {
            name: format!("{word}{cell}"),
            discipline: discipline.to_owned(),
        }
    }

    /// The command that looks for what is wrong here.
    pub fn command(&self) -> String {
        let swept = [SWEEP, ORDER]
            .into_iter()
            .find_map(|word| self.name.strip_prefix(word));
        let (name, with) = (quoted(swept.unwrap_or(&self.name)), &self.discipline);
        match swept {
            Some(_) => {
                format!("seamlock check --sweep --schedules --only {name} --discipline {with}")
            }
            None => format!("seamlock check --scenario {name} --discipline {with}"),
        }
    }

    /// Builds the scenario.
    ///
    /// # Errors
    /// When there is no such scenario or discipline, or no TD can be built under it.
    pub fn stage(&self) -> anyhow::Result<Ready> {
        let discipline = discipline(&self.discipline)?;
        for (word, ordered) in [(SWEEP, false), (ORDER, true)] {
            if let Some(cell) = self.name.strip_prefix(word) {
                let cell: Cell = cell.parse().map_err(BadInput)?;
                let staged = cell.stage(discipline);
                let staged = staged.map_err(|why| BadInput(why.to_string()))?;
                return Ok(Box::new(move |setup: &mut Setup| match ordered {
                    true => staged.build_ordered(setup),
                    false => staged.build(setup),
                }));
            }
        }
        let (scene, size) = self.name.split_once(':').unwrap_or((&self.name, ""));
        let (id, scene) = scene.split_once('/').ok_or_else(malformed)?;
        let scene = find(id, Some(scene))?.1.ok_or_else(malformed)?;
        let setting = Setting::from(*scene).with_size(size).map_err(BadInput)?;
        let staged = Staged::new(setting, discipline).map_err(|why| BadInput(why.to_string()))?;
        Ok(Box::new(move |setup: &mut Setup| staged.build(setup)))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.discipline)
    }
}

impl FromStr for Place {
    type Err = BadInput;

    fn from_str(text: &str) -> Result<Place, BadInput> {
        let (name, discipline) = text.rsplit_once('@').ok_or_else(malformed)?;
        if !name.contains('/') {
            return Err(malformed());
        }
        Ok(Place {
            name: name.to_owned(),
            discipline: discipline.to_owned(),
        })
    }
}

fn malformed() -> BadInput {
    let what = "not a replay line, which is RACE/SCENE@DISCIPLINE SCHEDULE or \
                sweep:STATE/OPERATION+OPERATION@DISCIPLINE SCHEDULE: take the whole of what `seamlock \
                check` prints behind \"again\", in quotes";
    BadInput(what.to_owned())
}

/// Splits a replay line into the place and the schedule.
///
/// # Errors
/// When it has no schedule, or no place.
pub fn split(line: &str) -> Result<(Place, &str), BadInput> {
    let (place, schedule) = line.trim().split_once(' ').ok_or_else(malformed)?;
    Ok((place.parse()?, schedule))
}

/// A replay line as one word of a shell; some names have an apostrophe.
pub fn quoted(line: &str) -> String {
    let quote = if line.contains('\'') { '"' } else { '\'' };
    format!("{quote}{line}{quote}")
}

/// The discipline of this name.
///
/// # Errors
/// When there is none.
pub fn discipline(name: &str) -> anyhow::Result<&'static Discipline> {
    let known = || names(DISCIPLINES.iter().map(|d| d.name));
    let unknown = || {
        BadInput(format!(
            "no discipline is named {name:?}; there are {}",
            known()
        ))
    };
    Ok(by_name(name).ok_or_else(unknown)?)
}

/// A race, and the scene of it if one is named.
///
/// # Errors
/// When there is no such race, or it has no such scene.
pub fn find(
    id: &str,
    scene: Option<&str>,
) -> anyhow::Result<(&'static Race, Option<&'static Scene>)> {
    let known = || names(RACES.iter().map(|race| race.id));
    let unknown = || BadInput(format!("no race is named {id:?}; there are {}", known()));
    let race = seamlock_races::race(id).ok_or_else(unknown)?;
    let Some(name) = scene else {
        return Ok((race, None));
    };
    let found = race.scenes.iter().find(|scene| scene.name == name);
    let known = || names(race.scenes.iter().map(|scene| scene.name));
    let unknown = || BadInput(format!("{id} has no scene {name:?}; there are {}", known()));
    Ok((race, Some(found.ok_or_else(unknown)?)))
}

/// Names, for a message.
pub fn names<'a>(all: impl Iterator<Item = &'a str>) -> String {
    all.collect::<Vec<_>>().join(", ")
}
