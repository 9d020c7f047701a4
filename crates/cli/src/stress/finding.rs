//! What a run found, each thing once.

use std::collections::BTreeMap;
use std::fmt;

use seamlock_sync::Private;
use serde::Serialize;

/// Who is wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Blame {
    /// The locking that was chosen: the kernel that has it would do the same.
    Discipline,
    /// This program.
    #[default]
    Seamlock,
}

impl Blame {
    /// Who, as a word.
    pub const fn name(self) -> &'static str {
        match self {
            Blame::Discipline => "the discipline",
            Blame::Seamlock => "seamlock itself",
        }
    }
}

/// Something that must not be.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Finding {
    /// What was checked.
    pub check: &'static str,
    /// Who is wrong.
    pub blame: Blame,
    /// The known race that it looks like.
    pub race: Option<&'static str>,
    /// What was found.
    pub what: String,
    /// Where: kernel file and function.
    pub site: String,
    /// More of what was found, a line each.
    pub detail: Vec<String>,
    /// What the thread that met it was doing.
    pub doing: String,
    /// What other threads were doing to the same VM.
    pub beside: Vec<String>,
    /// The VM's number.
    pub vm: u64,
    /// The round.
    pub round: u64,
    /// Milliseconds from the start of the run.
    pub after_ms: u64,
    /// The run's seed.
    pub seed: u64,
    /// How often.
    pub times: u64,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let race = self.race.map(|id| format!("{id}: ")).unwrap_or_default();
        writeln!(f, "{race}{}", self.what)?;
        for line in &self.detail {
            writeln!(f, "    {line}")?;
        }
        writeln!(
            f,
            "  check   {}, fault of {}",
            self.check,
            self.blame.name()
        )?;
        if !self.site.is_empty() {
            writeln!(f, "  where   {}", self.site)?;
        }
        if !self.doing.is_empty() {
            writeln!(f, "  during  {}", self.doing)?;
        }
        if !self.beside.is_empty() {
            writeln!(f, "  beside  {}", self.beside.join(", "))?;
        }
        let (vm, round, ms) = (self.vm, self.round, self.after_ms);
        writeln!(
            f,
            "  when    VM {vm}, round {round}, after {ms} ms, --seed {}",
            self.seed
        )
    }
}

/// The findings of a run.
#[derive(Debug, Default)]
pub struct Findings {
    all: Private<BTreeMap<String, Finding>>,
    /// Races that are known, with what was met of each first and how often.
    known: Private<BTreeMap<String, Option<Finding>>>,
    fresh: Private<Vec<Finding>>,
}

impl Findings {
    /// None yet. These races are known: they will be counted, and are none.
    pub fn knowing(races: impl IntoIterator<Item = String>) -> Findings {
        Findings {
            known: Private::new(races.into_iter().map(|race| (race, None)).collect()),
            ..Findings::default()
        }
    }

    /// The races that are none, and what was met of each.
    pub fn known(&self) -> BTreeMap<String, Option<Finding>> {
        self.known.with(|known| known.clone())
    }

    /// Notes a finding; the first of its kind is kept whole, the others are counted.
    pub fn add(&self, finding: Finding) {
        let is_known = self.known.with(|known| {
            match finding.race.and_then(|race| known.get_mut(race)) {
                Some(Some(met)) => met.times += 1,
                Some(none) => *none = Some(finding.clone()),
                None => return false,
            }
            true
        });
        if is_known {
            return;
        }
        let key = match finding.race {
            Some(race) => format!("{} {race}", finding.check),
            None => format!("{} {} {}", finding.check, finding.site, finding.doing),
        };
        let first = self.all.with(|all| match all.get_mut(&key) {
            Some(known) => {
                known.times += 1;
                false
            }
            None => {
                all.insert(key, finding.clone());
                true
            }
        });
        if first {
            self.fresh.with(|fresh| fresh.push(finding));
        }
    }

    /// Findings since this was asked last.
    pub fn take_fresh(&self) -> Vec<Finding> {
        self.fresh.with(std::mem::take)
    }

    /// All of them.
    pub fn all(&self) -> Vec<Finding> {
        self.all.with(|all| all.values().cloned().collect())
    }

    /// Whether there is any.
    pub fn is_empty(&self) -> bool {
        self.all.with(|all| all.is_empty())
    }
}
