//! How a mismatch reads.

use std::fmt;

use seamlock_sync::{Mode, WordView};
use seamlock_tdx_abi::regs::{REG_NAMES, Regs};
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_module::LockAt;

use crate::hex::show_bytes;
use crate::mismatch::{Difference, Mismatch, Outcome, Place, Stage, WordAfter, differing, leaf_of};
use crate::sequence::WordResult;

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Guest => f.write_str("in guest"),
            Outcome::Host(regs) => write!(f, "{}", regs.status()),
        }
    }
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
                if let Some(before) = before {
                    writeln!(f, "         before   {}", show_word(Some(*before)))?;
                }
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
