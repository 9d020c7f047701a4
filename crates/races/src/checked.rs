//! One race under one discipline: all its scenes, until one is refuted.

use seamlock_check::{CheckError, Counterexample, Options, Setup, Verdict, check};
use seamlock_kvm::Discipline;

use crate::catalogue::Race;
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

/// Checks all scenes of a race, or the one that is named.
///
/// # Errors
/// When the check itself failed and says nothing about the race.
pub fn check_race(
    race: &Race,
    scene: Option<&str>,
    discipline: &'static Discipline,
    options: &Options,
) -> Result<Checked, CheckError> {
    let (mut executions, mut traces, mut limit) = (0, 0, None);
    let wanted = |name| scene.is_none_or(|wanted| wanted == name);
    for scene in race.scenes.iter().filter(|scene| wanted(scene.name)) {
        let staged = match Staged::new(*scene, discipline) {
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
