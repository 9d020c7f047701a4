//! What a replay found.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

use crate::files::InputError;
use crate::hex::{Hex, show_bytes};
use crate::mismatch::{Difference, Mismatch, Outcome, leaf_of};
use crate::parallel::Options;
use crate::run::{GroupKey, Ran};
use crate::show::{show_regs, show_word};

/// How many were as recorded, and how many were not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// As recorded.
    pub passed: u64,
    /// Not as recorded.
    pub failed: u64,
}

impl Tally {
    /// Both together.
    pub fn total(&self) -> u64 {
        self.passed + self.failed
    }

    pub(crate) fn count(&mut self, passed: bool) {
        match passed {
            true => self.passed += 1,
            false => self.failed += 1,
        }
    }

    fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

impl fmt::Display for Tally {
    /// `passed/total`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.passed, self.total()))
    }
}

/// What came of one corpus.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Corpus {
    /// Its name.
    pub name: String,
    /// Sequences.
    pub sequences: Tally,
    /// SEAMCALLs, without those of preambles.
    pub calls: Tally,
    /// Guest exits.
    pub exits: Tally,
    /// Lock words looked at.
    pub words: Tally,
    /// Measurements.
    pub mrtds: Tally,
}

/// A mismatch and the sequence that it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Name of the corpus.
    pub corpus: String,
    /// The sequence's id.
    pub sequence: String,
    /// The sequence's case; may be empty.
    pub case: String,
    /// What differs.
    pub mismatch: Mismatch,
}

/// Mismatches that probably have one cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// The leaf or the step.
    pub step: String,
    /// What was recorded.
    pub expected: String,
    /// What our module does.
    pub got: String,
    /// Sequences in which this is the first mismatch, the one to look at.
    pub sequences: u64,
    /// How often it happened in all.
    pub times: u64,
    /// A sequence in which it is the first mismatch, or else one in which it happened.
    pub example: String,
}

/// What a replay found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Per corpus, in the order of the files.
    pub corpora: Vec<Corpus>,
    /// Mismatches in all.
    pub mismatched: u64,
    /// The first of them, in the order of files and lines.
    pub mismatches: Vec<Located>,
    /// Kinds of mismatches: those first that are the first mismatch of most sequences.
    pub groups: Vec<Group>,
    /// What was wrong with the input.
    pub errors: Vec<InputError>,
    #[serde(skip)]
    by_key: BTreeMap<GroupKey, Group>,
}

/// One sequence that was replayed.
pub(crate) struct Replayed {
    pub corpus: String,
    pub id: String,
    pub case: String,
    pub ran: Ran,
}

impl Report {
    /// Whether everything was as recorded, and all input could be read.
    pub fn passed(&self) -> bool {
        self.mismatched == 0 && self.errors.is_empty()
    }

    /// Sequences of all corpora.
    pub fn sequences(&self) -> Tally {
        self.sum(|corpus| corpus.sequences)
    }

    /// SEAMCALLs of all corpora, without those of preambles.
    pub fn calls(&self) -> Tally {
        self.sum(|corpus| corpus.calls)
    }

    fn sum(&self, of: impl Fn(&Corpus) -> Tally) -> Tally {
        let mut sum = Tally::default();
        self.corpora.iter().for_each(|corpus| sum.add(of(corpus)));
        sum
    }

    /// Adds a sequence; they come in the order of files and lines.
    pub(crate) fn add(&mut self, result: Replayed, options: &Options) {
        let Replayed {
            corpus,
            id,
            case,
            ran,
        } = result;
        let tally = self.corpus(&corpus);
        tally.sequences.count(ran.mismatched == 0);
        tally.calls.add(ran.calls);
        tally.exits.add(ran.exits);
        tally.words.add(ran.words);
        tally.mrtds.add(ran.mrtds);
        self.mismatched += ran.mismatched;
        for (key, times) in ran.groups {
            let first = ran.first.as_ref() == Some(&key);
            self.group(key, times, first, &id);
        }
        let room = options.first.saturating_sub(self.mismatches.len());
        let located = |mismatch| Located {
            corpus: corpus.clone(),
            sequence: id.clone(),
            case: case.clone(),
            mismatch,
        };
        self.mismatches
            .extend(ran.mismatches.into_iter().take(room).map(located));
    }

    fn corpus(&mut self, name: &str) -> &mut Corpus {
        let at = self.corpora.iter().position(|corpus| corpus.name == name);
        let at = at.unwrap_or_else(|| {
            self.corpora.push(Corpus {
                name: name.to_owned(),
                ..Corpus::default()
            });
            self.corpora.len() - 1
        });
        &mut self.corpora[at]
    }

    fn group(&mut self, key: GroupKey, times: u64, first: bool, id: &str) {
        let (step, expected, got) = key.clone();
        let example = id.to_owned();
        let new = Group {
            step,
            expected,
            got,
            sequences: 0,
            times: 0,
            example,
        };
        let group = self.by_key.entry(key).or_insert(new);
        if first && group.sequences == 0 {
            group.example = id.to_owned();
        }
        group.times += times;
        group.sequences += u64::from(first);
    }

    pub(crate) fn finish(mut self, mut errors: Vec<InputError>) -> Report {
        self.groups = std::mem::take(&mut self.by_key).into_values().collect();
        // Stable: what is equally frequent stays in the order of its key.
        self.groups
            .sort_by_key(|g| std::cmp::Reverse((g.sequences, g.times)));
        errors.sort();
        self.errors = errors;
        self
    }
}

const GROUPS_SHOWN: usize = 40;

impl fmt::Display for Report {
    /// The tallies, the first mismatches, the groups; errors last, where they are seen.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<12} {:>13} {:>15} {:>13} {:>13} {:>11}",
            "passed/all", "sequences", "calls", "guest exits", "lock words", "MRTDs"
        )?;
        for c in &self.corpora {
            writeln!(
                f,
                "{:<12} {:>13} {:>15} {:>13} {:>13} {:>11}",
                c.name, c.sequences, c.calls, c.exits, c.words, c.mrtds
            )?;
        }
        if !self.mismatches.is_empty() {
            writeln!(f, "\nfirst mismatches ({} in all)", self.mismatched)?;
        }
        for located in &self.mismatches {
            write!(f, "\n{located}")?;
        }
        self.show_groups(f)?;
        for error in &self.errors {
            writeln!(f, "error: {error}")?;
        }
        Ok(())
    }
}

impl Report {
    fn show_groups(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.groups.is_empty() {
            return Ok(());
        }
        writeln!(
            f,
            "\nmismatches by kind (first: sequences in which it is the first mismatch)"
        )?;
        writeln!(
            f,
            "{:>7} {:>8}  step: recorded -> ours (example)",
            "first", "times"
        )?;
        for g in self.groups.iter().take(GROUPS_SHOWN) {
            let Group {
                step,
                expected,
                got,
                sequences,
                times,
                example,
            } = g;
            writeln!(
                f,
                "{sequences:>7} {times:>8}  {step}: {expected} -> {got} ({example})"
            )?;
        }
        match self.groups.len().saturating_sub(GROUPS_SHOWN) {
            0 => Ok(()),
            more => writeln!(f, "{:>16}  and {more} more kinds", ""),
        }
    }
}

impl fmt::Display for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.sequence, self.corpus)?;
        if !self.case.is_empty() {
            write!(f, " \"{}\"", self.case)?;
        }
        write!(f, "\n  {}", self.mismatch)
    }
}

#[derive(Serialize)]
struct Register {
    register: &'static str,
    expected: Hex,
    got: Hex,
}

impl Serialize for Located {
    /// Flat, with names and statuses decoded: `expected` and `got` in words, `registers` in numbers.
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mismatch = &self.mismatch;
        let (_, expected, got) = shown(mismatch);
        let mut out = to.serialize_struct("Mismatch", 11)?;
        out.serialize_field("corpus", &self.corpus)?;
        out.serialize_field("sequence", &self.sequence)?;
        out.serialize_field("case", &self.case)?;
        out.serialize_field("place", &mismatch.place)?;
        out.serialize_field("step", &mismatch.group().0)?;
        out.serialize_field("leaf", &mismatch.leaf().map(|leaf| leaf.to_string()))?;
        out.serialize_field("lp", &lp(mismatch))?;
        out.serialize_field("before", &before(mismatch))?;
        out.serialize_field("expected", &expected)?;
        out.serialize_field("got", &got)?;
        let registers = mismatch.registers().into_iter();
        let registers = registers.map(|(register, expected, got)| {
            let (expected, got) = (Hex(expected), Hex(got));
            Register {
                register,
                expected,
                got,
            }
        });
        out.serialize_field("registers", &registers.collect::<Vec<_>>())?;
        out.end()
    }
}

/// Step, recorded and ours, without what the group leaves out.
fn shown(mismatch: &Mismatch) -> (String, String, String) {
    match &mismatch.difference {
        Difference::Call {
            input,
            expected,
            got,
            ..
        } => (
            leaf_of(input).to_string(),
            expected.to_string(),
            got.to_string(),
        ),
        Difference::Exit { expected, got, .. } => {
            let show = |regs| Outcome::Host(regs).to_string();
            ("guest_exit".into(), show(*expected), show(*got))
        }
        Difference::Mrtd { expected, got, .. } => {
            let got = got.map_or_else(|status| status.to_string(), |mrtd| show_bytes(&mrtd));
            ("expect_mrtd".into(), show_bytes(expected), got)
        }
        _ => mismatch.group(),
    }
}

fn lp(mismatch: &Mismatch) -> Option<u32> {
    match mismatch.difference {
        Difference::Call { lp, .. } | Difference::Exit { lp, .. } => Some(lp),
        Difference::Misplaced { lp, .. } => Some(lp),
        _ => None,
    }
}

fn before(mismatch: &Mismatch) -> Option<String> {
    match &mismatch.difference {
        Difference::Call { input, .. } => Some(show_regs(input)),
        Difference::Word { before, .. } => before.map(|word| show_word(Some(word))),
        _ => None,
    }
}
