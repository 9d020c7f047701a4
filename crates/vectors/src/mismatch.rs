//! One difference between the recorded module and ours, and which ones belong together.

use seamlock_sync::{Mode, WordView};
use seamlock_tdx_abi::addr::Hpa;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::regs::{REG_NAMES, Regs};
use seamlock_tdx_abi::status::TdxStatus;
use serde::Serialize;

use crate::sequence::{What, WordResult};

/// Where an LP is after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// In the guest, by TDH.VP.ENTER.
    Guest,
    /// In the host, with these registers.
    Host(Regs),
}

/// Which list of steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// SYS.INIT and SYS.LP.INIT, which a recording takes for granted.
    Boot,
    /// The preamble.
    Preamble,
    /// The sequence itself.
    Steps,
}

/// Where in a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The list of steps.
    pub stage: Stage,
    /// Index in the list, from 0.
    pub step: usize,
    /// For a repeated call, the repetition, from 0.
    pub repeat: u32,
}

/// What came of a step on a lock word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WordAfter {
    /// Of an attempt, whether it got the word.
    pub result: Option<WordResult>,
    /// The word; `None` when there is no such word.
    pub word: Option<WordView>,
}

/// A step that did not do what was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Where.
    pub place: Place,
    /// The call before this step, in the same list.
    pub after: Option<Leaf>,
    /// What differs.
    pub difference: Difference,
}

/// What differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Registers after a SEAMCALL, or whether the guest runs.
    Call {
        /// Logical processor.
        lp: u32,
        /// Registers before.
        input: Regs,
        /// As recorded.
        expected: Outcome,
        /// As it is.
        got: Outcome,
    },
    /// Registers after a guest's exit.
    Exit {
        /// Logical processor.
        lp: u32,
        /// As recorded.
        expected: Regs,
        /// As they are.
        got: Regs,
    },
    /// The step needs an LP in the guest that is in the host, or the other way round; it was left out.
    Misplaced {
        /// Logical processor.
        lp: u32,
        /// Where it is.
        in_guest: bool,
    },
    /// A lock word, or who got it.
    Word {
        /// `hold`, `release`, `peek` or `guest_try`.
        op: &'static str,
        /// The word.
        what: What,
        /// How it was wanted or held.
        mode: Option<Mode>,
        /// The word before the step; for a `peek`, as it was last seen.
        before: Option<WordView>,
        /// As recorded.
        expected: WordAfter,
        /// As it is.
        got: WordAfter,
    },
    /// A measurement.
    Mrtd {
        /// The TD's TDR.
        tdr: Hpa,
        /// As recorded.
        expected: [u8; 48],
        /// What TDH.MNG.RD says.
        got: Result<[u8; 48], TdxStatus>,
    },
    /// The host writes where there is no memory.
    OutsideMemory {
        /// Where.
        pa: Hpa,
        /// Bytes.
        len: usize,
    },
    /// The module panicked; the rest of the sequence was left out.
    Panic {
        /// The call, when it was one.
        leaf: Option<Leaf>,
        /// What it said.
        message: String,
    },
}

/// The leaf in RAX of a call's input.
pub(crate) fn leaf_of(input: &Regs) -> Leaf {
    Leaf(input.rax as u16)
}

impl Mismatch {
    /// The leaf that this is about: the one called, or for a lock word the one called before.
    pub fn leaf(&self) -> Option<Leaf> {
        match &self.difference {
            Difference::Call { input, .. } => Some(leaf_of(input)),
            Difference::Exit { .. } => Some(Leaf::VP_ENTER),
            Difference::Panic { leaf, .. } => *leaf,
            Difference::Misplaced { .. } => Some(Leaf::VP_ENTER),
            _ => self.after,
        }
    }

    /// Registers that differ, with what was recorded and what is.
    pub fn registers(&self) -> Vec<(&'static str, u64, u64)> {
        match &self.difference {
            Difference::Call {
                expected: Outcome::Host(e),
                got: Outcome::Host(g),
                ..
            } => differing(e, g),
            Difference::Exit { expected, got, .. } => differing(expected, got),
            _ => Vec::new(),
        }
    }

    /// What mismatches with the same cause have in common: the step, recorded, and ours.
    pub(crate) fn group(&self) -> (String, String, String) {
        match &self.difference {
            Difference::Call {
                input,
                expected,
                got,
                ..
            } => {
                let got = self.status_or_registers(expected.to_string(), got.to_string());
                (leaf_of(input).to_string(), expected.to_string(), got)
            }
            Difference::Exit { expected, got, .. } => {
                let (expected, got) = (expected.status().to_string(), got.status().to_string());
                let got = self.status_or_registers(expected.clone(), got);
                ("guest_exit".into(), expected, got)
            }
            Difference::Misplaced { in_guest, .. } => {
                let at = |guest: bool| if guest { "LP in guest" } else { "LP in host" }.to_owned();
                ("LP".into(), at(!in_guest), at(*in_guest))
            }
            Difference::Word {
                op,
                what,
                expected,
                got,
                ..
            } => {
                let after = self
                    .after
                    .map_or(String::new(), |leaf| format!(" after {leaf}"));
                (
                    format!("{op} {}{after}", what.name),
                    expected.to_string(),
                    got.to_string(),
                )
            }
            Difference::Mrtd { got, .. } => {
                let got = got.map_or_else(|status| status.to_string(), |_| "another MRTD".into());
                ("expect_mrtd".into(), "the recorded MRTD".into(), got)
            }
            Difference::OutsideMemory { .. } => {
                ("host write".into(), "memory".into(), "no memory".into())
            }
            Difference::Panic { leaf, message } => {
                let step = leaf.map_or("a step".into(), |leaf| leaf.to_string());
                (step, "no panic".into(), format!("panic: {message}"))
            }
        }
    }

    fn status_or_registers(&self, expected: String, got: String) -> String {
        if expected != got {
            return got;
        }
        let names: Vec<_> = self.registers().iter().map(|(name, ..)| *name).collect();
        format!("same status, other {}", names.join(" "))
    }
}

pub(crate) fn differing(expected: &Regs, got: &Regs) -> Vec<(&'static str, u64, u64)> {
    let values = expected.to_array().into_iter().zip(got.to_array());
    let all = REG_NAMES
        .iter()
        .zip(values)
        .map(|(name, (e, g))| (*name, e, g));
    all.filter(|(_, e, g)| e != g).collect()
}
