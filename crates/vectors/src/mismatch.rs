//! One difference between the recorded module and ours, and how it reads.

use std::fmt;

use seamlock_sync::{Mode, WordView};
use seamlock_tdx_abi::addr::Hpa;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::regs::{REG_NAMES, Regs};
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_module::LockAt;
use serde::Serialize;

use crate::hex::show_bytes;
use crate::sequence::{What, WordResult};

/// Where an LP is after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// In the guest, by TDH.VP.ENTER.
    Guest,
    /// In the host, with these registers.
    Host(Regs),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Guest => f.write_str("in guest"),
            Outcome::Host(regs) => write!(f, "{}", regs.status()),
        }
    }
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

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.stage {
            Stage::Boot => write!(f, "boot[{}]", self.step)?,
            Stage::Preamble => write!(f, "preamble[{}]", self.step)?,
            Stage::Steps => write!(f, "steps[{}]", self.step)?,
        }
        if self.repeat != 0 {
            write!(f, " repetition {}", self.repeat)
        } else {
            Ok(())
        }
    }
}

/// What came of a step on a lock word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WordAfter {
    /// Of an attempt, whether it got the word.
    pub result: Option<WordResult>,
    /// The word; `None` when there is no such word.
    pub word: Option<WordView>,
}

impl fmt::Display for WordAfter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.result {
            Some(WordResult::Ok) => f.write_str("ok ")?,
            Some(WordResult::Busy) => f.write_str("busy ")?,
            Some(WordResult::BusyHostPriority) => f.write_str("busy_host_priority ")?,
            None => {}
        }
        f.write_str(&show_word(self.word))
    }
}

/// `exclusive=0 host_priority=1 readers=2`.
pub(crate) fn show_word(word: Option<WordView>) -> String {
    match word {
        Some(w) => format!(
            "exclusive={} host_priority={} readers={}",
            u8::from(w.exclusive),
            u8::from(w.host_priority),
            w.readers
        ),
        None => "no such word".to_owned(),
    }
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
        /// The word before the step.
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

fn differing(expected: &Regs, got: &Regs) -> Vec<(&'static str, u64, u64)> {
    let values = expected.to_array().into_iter().zip(got.to_array());
    let all = REG_NAMES
        .iter()
        .zip(values)
        .map(|(name, (e, g))| (*name, e, g));
    all.filter(|(_, e, g)| e != g).collect()
}

/// The registers that are not zero, `rax=0x9 rcx=0x40200000`.
pub(crate) fn show_regs(regs: &Regs) -> String {
    let all = REG_NAMES.iter().zip(regs.to_array());
    let set = all.filter(|(name, value)| *value != 0 || **name == "rax");
    set.map(|(name, value)| format!("{name}={value:#x}"))
        .collect::<Vec<_>>()
        .join(" ")
}

fn show_at(at: LockAt) -> String {
    match at {
        LockAt::Page(pa) | LockAt::Pamt2m(pa) | LockAt::Pamt1g(pa) | LockAt::Tdmr(pa) => {
            format!(" {:#x}", pa.0)
        }
        LockAt::OpState(tdr) | LockAt::SeptTree(tdr) | LockAt::Epoch(tdr) => {
            format!(" of TD {:#x}", tdr.0)
        }
        LockAt::Entry { tdr, gpa, level } => {
            format!(" of TD {:#x}, GPA {:#x}, level {level}", tdr.0, gpa.0)
        }
        LockAt::Wbt(package) => format!(" of package {package}"),
        LockAt::Kot | LockAt::Global => String::new(),
    }
}

impl fmt::Display for Difference {
    /// One headline, then indented lines: recorded first, ours below.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Call {
                lp,
                input,
                expected,
                got,
            } => {
                writeln!(f, "{} on LP {lp}", leaf_of(input))?;
                writeln!(f, "    in   {}", show_regs(input))?;
                match (expected, got) {
                    (Outcome::Host(expected), Outcome::Host(got)) => show_diff(f, expected, got),
                    _ => pair(f, "", &expected.to_string(), &got.to_string()),
                }
            }
            Difference::Exit { lp, expected, got } => {
                writeln!(f, "guest_exit on LP {lp}")?;
                show_diff(f, expected, got)
            }
            Difference::Misplaced { lp, in_guest: true } => {
                writeln!(f, "a call on LP {lp}, which runs a guest")
            }
            Difference::Misplaced {
                lp,
                in_guest: false,
            } => {
                writeln!(f, "guest_exit on LP {lp}, which runs no guest")
            }
            Difference::Word {
                op,
                what,
                mode,
                before,
                expected,
                got,
            } => {
                let mode = match mode {
                    Some(Mode::Shared) => " shared",
                    Some(Mode::Exclusive) => " exclusive",
                    None => "",
                };
                writeln!(f, "{op} {}{}{mode}", what.name, show_at(what.at))?;
                writeln!(f, "    before        {}", show_word(*before))?;
                pair(f, "", &expected.to_string(), &got.to_string())
            }
            Difference::Mrtd { tdr, expected, got } => {
                writeln!(f, "expect_mrtd of TD {:#x}", tdr.0)?;
                let got = got.map_or_else(|status| status.to_string(), |m| show_bytes(&m));
                pair(f, "", &show_bytes(expected), &got)
            }
            Difference::OutsideMemory { pa, len } => {
                writeln!(
                    f,
                    "the host writes {len} bytes at {:#x}, where no memory is",
                    pa.0
                )
            }
            Difference::Panic { leaf, message } => {
                let leaf = leaf.map_or("a step".into(), |leaf| leaf.to_string());
                writeln!(f, "{leaf} panicked: {message}")
            }
        }
    }
}

fn show_diff(f: &mut fmt::Formatter<'_>, expected: &Regs, got: &Regs) -> fmt::Result {
    for (name, e, g) in differing(expected, got) {
        let show = |value: u64| match name {
            "rax" => format!("{value:#018x}  {}", TdxStatus(value)),
            _ => format!("{value:#018x}"),
        };
        pair(f, name, &show(e), &show(g))?;
    }
    Ok(())
}

fn pair(f: &mut fmt::Formatter<'_>, name: &str, expected: &str, got: &str) -> fmt::Result {
    writeln!(f, "    {name:<4} expected {expected}")?;
    writeln!(f, "    {:<4} got      {got}", "")
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if let (Some(leaf), Difference::Word { .. } | Difference::Mrtd { .. }) =
            (self.after, &self.difference)
        {
            write!(f, "after {leaf}, ")?;
        }
        write!(f, "{}", self.difference)
    }
}
