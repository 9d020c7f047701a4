//! One race under one discipline: all its scenes, until one is refuted.

use seamlock_check::{CheckError, Counterexample, Options, Setup, Verdict, check};
use seamlock_kvm::Discipline;

use crate::catalogue::Race;
use crate::setting::Setting;
use crate::shrink::{Shrunk, shrink};
use crate::staged::Staged;

/// What the check of a race came to.
#[derive(Clone, Debug)]
pub enum Finding {
    /// Every interleaving of every scene was run, and nothing is wrong.
    Proved {
        /// The number of traces, of all scenes together.
        traces: u64,
    },
    /// A scene goes wrong.
    Refuted {
        /// Which scene.
        scene: &'static str,
        /// How.
        example: Box<Counterexample>,
    },
    /// Nothing wrong was found, and not everything was run.
    NotExhausted {
        /// Which scene came to its limit first.
        scene: &'static str,
        /// Why.
        why: seamlock_check::Limit,
    },
    /// No TD can be built under the discipline, so there is nothing to race.
    NoTd(String),
}

/// A race under a discipline.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The answer.
    pub finding: Finding,
    /// Executions that it took: walks and proof.
    pub executions: u64,
}

/// Which scenes of a race.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    /// The one of this name, or all.
    pub scene: Option<&'a str>,
    /// With the numbers of this text, as [`Setting::with_size`] reads it.
    pub size: &'a str,
}

impl<'a> From<Option<&'a str>> for Wanted<'a> {
    fn from(scene: Option<&'a str>) -> Wanted<'a> {
        Wanted { scene, size: "" }
    }
}

/// Checks all scenes of a race, or those that are wanted.
///
/// # Errors
/// When the check itself failed and says nothing about the race, or a scene can't be of that size.
pub fn check_race<'a>(
    race: &Race,
    wanted: impl Into<Wanted<'a>>,
    discipline: &'static Discipline,
    options: &Options,
) -> Result<Checked, CheckError> {
    let Wanted { scene, size } = wanted.into();
    let (mut executions, mut traces, mut limit) = (0, 0, None);
    let wanted = |name| scene.is_none_or(|wanted| wanted == name);
    for scene in race.scenes.iter().filter(|scene| wanted(scene.name)) {
        let setting = Setting::from(*scene).with_size(size);
        let setting = setting.map_err(CheckError::Setup)?;
        let staged = match Staged::new(setting, discipline) {
            Ok(staged) => staged,
            Err(why) => {
                return Ok(Checked {
                    finding: Finding::NoTd(why.to_string()),
                    executions,
                });
            }
        };
        let report = check(&|setup: &mut Setup| staged.build(setup), options)?;
        executions += report.effort.walks + report.effort.executions;
        match report.verdict {
            Verdict::Proved { traces: more } => traces += more,
            Verdict::NotExhausted { why, .. } => {
                limit.get_or_insert(Finding::NotExhausted {
                    scene: scene.name,
                    why,
                });
            }
            Verdict::Refuted(example) => {
                let scene = scene.name;
                // The execution that went wrong is not counted among those that ended well.
                return Ok(Checked {
                    finding: Finding::Refuted { scene, example },
                    executions: executions + 1,
                });
            }
        }
    }
    Ok(Checked {
        finding: limit.unwrap_or(Finding::Proved { traces }),
        executions,
    })
}

/// The smallest setting of a scene that goes wrong as the example that was found in it.
///
/// # Errors
/// When the check itself failed, or there is no such scene of this size.
pub fn shrink_scene(
    race: &Race,
    scene: &str,
    size: &str,
    discipline: &'static Discipline,
    example: Counterexample,
    options: &Options,
) -> Result<(Counterexample, Shrunk), CheckError> {
    let found = race.scenes.iter().find(|known| known.name == scene);
    let unknown = || CheckError::Setup(format!("{} has no scene {scene:?}", race.id));
    let own = Setting::from(*found.ok_or_else(unknown)?);
    let from = own.with_size(size).map_err(CheckError::Setup)?.size();
    shrink(&own, from, discipline, example, options)
}
