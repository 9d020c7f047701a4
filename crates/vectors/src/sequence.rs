//! Sequences and their steps.

use seamlock_sync::{Busy, Mode, WordView};
use seamlock_tdx_abi::addr::{Gpa, Hpa};
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_module::{LockAt, TdExit, TdExitKind};
use serde::Serialize;

use crate::hex::{Hex, parse_bytes};
use crate::mismatch::Outcome;
use crate::wire::{self, Complaint, Out};

/// One recorded sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Unique name.
    pub id: String,
    /// Name of the preamble that leads to the starting state.
    pub preamble: String,
    /// What is tried, in words; empty where the corpus does not tell.
    pub case: String,
    /// What is done, and what came of it.
    pub steps: Vec<Step>,
}

/// One step of a sequence, with what the recorded module made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The host writes a page: byte i is `seed + 7 i`.
    Fill {
        /// The page.
        pa: Hpa,
        /// Its first byte.
        seed: u8,
    },
    /// The host writes bytes.
    Write {
        /// Where.
        pa: Hpa,
        /// What.
        bytes: Vec<u8>,
    },
    /// One SEAMCALL, `count` times in a row with the same outcome.
    Call {
        /// Logical processor.
        lp: u32,
        /// Registers before each call.
        input: Regs,
        /// Where the LP is afterwards, and the registers.
        expected: Outcome,
        /// How often, 1 at least.
        count: u32,
    },
    /// The guest that runs on an LP exits.
    GuestExit {
        /// Logical processor.
        lp: u32,
        /// Why.
        exit: TdExit,
        /// What TDH.VP.ENTER returns.
        expected: Regs,
    },
    /// Another party takes a lock word.
    Hold {
        /// The word.
        what: What,
        /// How it is wanted.
        mode: Mode,
        /// Whether the party gets it.
        result: WordResult,
        /// The word afterwards.
        word: WordView,
    },
    /// A party gives a lock word back.
    Release {
        /// The word.
        what: What,
        /// How it was held.
        mode: Mode,
        /// The word afterwards.
        word: WordView,
    },
    /// A look at a lock word.
    Peek {
        /// The word.
        what: What,
        /// Its content.
        word: WordView,
    },
    /// One attempt to take a word by the rules of the guest side.
    GuestTry {
        /// The word.
        what: What,
        /// How it is wanted.
        mode: Mode,
        /// Whether the guest gets it.
        result: WordResult,
        /// The word afterwards.
        word: WordView,
    },
    /// The finalised MRTD of a TD.
    ExpectMrtd {
        /// The TD's TDR.
        tdr: Hpa,
        /// Its MRTD.
        mrtd: [u8; 48],
    },
}

/// A lock word, and the name that the vectors give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct What {
    /// Its name: `tdr`, `op_state`, …
    pub name: &'static str,
    /// The word.
    pub at: LockAt,
}

/// How an attempt to take a lock word ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WordResult {
    /// The party has it.
    Ok,
    /// Somebody else has it.
    Busy,
    /// It is free, but a host call that found it busy goes first.
    BusyHostPriority,
}

impl From<Result<(), Busy>> for WordResult {
    fn from(result: Result<(), Busy>) -> WordResult {
        match result {
            Ok(()) => WordResult::Ok,
            Err(Busy::Held) => WordResult::Busy,
            Err(Busy::HostPriority) => WordResult::BusyHostPriority,
        }
    }
}

impl Sequence {
    /// SEAMCALLs in the sequence, without its preamble.
    pub fn calls(&self) -> u64 {
        let count = |step: &Step| match step {
            Step::Call { count, .. } => u64::from(*count),
            _ => 0,
        };
        self.steps.iter().map(count).sum()
    }

    /// Reads a line of a file whose machine has `lps` logical processors.
    ///
    /// # Errors
    /// The field that is missing or malformed.
    pub fn parse(line: &[u8], lps: u32) -> Result<Sequence, Complaint> {
        let raw: wire::Sequence<'_> = wire::read(line)?;
        Ok(Sequence {
            id: raw.id.into_owned(),
            preamble: raw.preamble.into_owned(),
            case: raw.case.unwrap_or_default().into_owned(),
            steps: steps(&raw.steps, lps, "steps")?,
        })
    }
}

/// Gives raw steps their meaning; `place` is the path of the list in its line.
pub(crate) fn steps(raw: &[wire::Step<'_>], lps: u32, place: &str) -> Result<Vec<Step>, Complaint> {
    let one = |(i, raw): (usize, &wire::Step<'_>)| {
        Reader { raw, lps }.step().map_err(|(field, message)| {
            let field = format!("{place}[{i}].{field}");
            Complaint { field, message }
        })
    };
    raw.iter().enumerate().map(one).collect()
}

type Wrong = (&'static str, String);

/// A sequence that repeats a call more often than this is not a recording.
const MAX_COUNT: u32 = 1 << 20;

struct Reader<'a, 'b> {
    raw: &'a wire::Step<'b>,
    lps: u32,
}

impl Reader<'_, '_> {
    fn step(&self) -> Result<Step, Wrong> {
        let raw = self.raw;
        Ok(match &*raw.op {
            "fill" => Step::Fill {
                pa: hpa("pa", raw.pa)?,
                seed: self.seed()?,
            },
            "write" => Step::Write {
                pa: hpa("pa", raw.pa)?,
                bytes: self.bytes()?,
            },
            "call" => self.call()?,
            "guest_exit" => self.guest_exit()?,
            "hold" => {
                let (what, mode, result, word) = self.attempt()?;
                Step::Hold {
                    what,
                    mode,
                    result,
                    word,
                }
            }
            "guest_try" => {
                let (what, mode, result, word) = self.attempt()?;
                Step::GuestTry {
                    what,
                    mode,
                    result,
                    word,
                }
            }
            "release" => Step::Release {
                what: self.what()?,
                mode: self.mode()?,
                word: self.word()?,
            },
            "peek" => Step::Peek {
                what: self.what()?,
                word: self.word()?,
            },
            "expect_mrtd" => {
                let mrtd = self.bytes()?.try_into();
                let mrtd = mrtd.map_err(|_| ("hex", "not 48 bytes".to_owned()))?;
                Step::ExpectMrtd {
                    tdr: hpa("tdr", raw.tdr)?,
                    mrtd,
                }
            }
            "" => return Err(("op", "missing".into())),
            other => return Err(("op", format!("unknown step `{other}`"))),
        })
    }

    fn seed(&self) -> Result<u8, Wrong> {
        let seed = need("seed", self.raw.seed)?.0;
        u8::try_from(seed).map_err(|_| ("seed", format!("{seed} is not a byte")))
    }

    fn bytes(&self) -> Result<Vec<u8>, Wrong> {
        let text = need("hex", self.raw.hex.as_deref())?;
        parse_bytes(text).ok_or(("hex", "not pairs of hex digits".into()))
    }

    fn lp(&self) -> Result<u32, Wrong> {
        let lp = need("lp", self.raw.lp)?;
        let exists = lp < self.lps;
        exists
            .then_some(lp)
            .ok_or_else(|| ("lp", format!("there are only {} LPs", self.lps)))
    }

    fn call(&self) -> Result<Step, Wrong> {
        let lp = self.lp()?;
        let input = need("in", self.raw.input)?.0;
        if !input.has_rax() {
            return Err(("in", "rax is missing".into()));
        }
        let input = input.over([0; 15]);
        let expected = match need("out", self.raw.out)? {
            Out::Guest => Outcome::Guest,
            Out::Host(out) if !out.has_rax() => return Err(("out", "rax is missing".into())),
            Out::Host(out) => Outcome::Host(Regs::from_array(out.over(input))),
        };
        let count = self.raw.count.unwrap_or(1);
        if !(1..=MAX_COUNT).contains(&count) {
            return Err(("count", format!("{count} is not between 1 and {MAX_COUNT}")));
        }
        Ok(Step::Call {
            lp,
            input: Regs::from_array(input),
            expected,
            count,
        })
    }

    fn guest_exit(&self) -> Result<Step, Wrong> {
        let lp = self.lp()?;
        let reason = need("reason", self.raw.reason)?.0;
        let reason = u32::try_from(reason)
            .map_err(|_| ("reason", format!("{reason:#x} is not an exit reason")))?;
        let kind = match self.raw.kind.as_deref() {
            None | Some("async") => TdExitKind::Async,
            Some("non_recoverable_vcpu") => TdExitKind::NonRecoverableVcpu,
            Some("non_recoverable_td") => TdExitKind::NonRecoverableTd,
            Some(other) => return Err(("kind", format!("unknown kind of exit `{other}`"))),
        };
        let or_zero = |value: Option<Hex>| value.unwrap_or_default().0;
        let exit = TdExit {
            reason,
            qual: or_zero(self.raw.qual),
            gpa: or_zero(self.raw.gpa),
            kind,
        };
        match need("out", self.raw.out)? {
            Out::Guest => Err(("out", "an exit leads to the host".into())),
            Out::Host(out) => {
                let expected = Regs::from_array(out.over([0; 15]));
                Ok(Step::GuestExit { lp, exit, expected })
            }
        }
    }

    fn attempt(&self) -> Result<(What, Mode, WordResult, WordView), Wrong> {
        let result = match need("result", self.raw.result.as_deref())? {
            "ok" => WordResult::Ok,
            "busy" => WordResult::Busy,
            "busy_host_priority" => WordResult::BusyHostPriority,
            other => return Err(("result", format!("unknown result `{other}`"))),
        };
        Ok((self.what()?, self.mode()?, result, self.word()?))
    }

    fn mode(&self) -> Result<Mode, Wrong> {
        match need("mode", self.raw.mode.as_deref())? {
            "shared" => Ok(Mode::Shared),
            "exclusive" => Ok(Mode::Exclusive),
            other => Err(("mode", format!("unknown mode `{other}`"))),
        }
    }

    fn word(&self) -> Result<WordView, Wrong> {
        let word = need("word", self.raw.word)?;
        if word.exclusive > 1 || word.host_priority > 1 {
            return Err(("word", "a bit is neither 0 nor 1".into()));
        }
        Ok(WordView {
            exclusive: word.exclusive == 1,
            host_priority: word.host_priority == 1,
            readers: word.readers,
        })
    }

    fn what(&self) -> Result<What, Wrong> {
        let pa = || hpa("pa", self.raw.pa);
        let tdr = || hpa("tdr", self.raw.tdr);
        let (name, at) = match need("what", self.raw.what.as_deref())? {
            "tdr" => ("tdr", LockAt::Page(pa()?)),
            "tdvpr" => ("tdvpr", LockAt::Page(pa()?)),
            "page" => ("page", LockAt::Page(pa()?)),
            "pamt2m" => ("pamt2m", LockAt::Pamt2m(start_of(pa()?, 1))),
            "pamt1g" => ("pamt1g", LockAt::Pamt1g(start_of(pa()?, 2))),
            "op_state" => ("op_state", LockAt::OpState(tdr()?)),
            "sept_tree" => ("sept_tree", LockAt::SeptTree(tdr()?)),
            "epoch" => ("epoch", LockAt::Epoch(tdr()?)),
            "kot" => ("kot", LockAt::Kot),
            "global" => ("global", LockAt::Global),
            "wbt" => ("wbt", LockAt::Wbt(0)),
            "tdmr" => ("tdmr", LockAt::Tdmr(pa()?)),
            "entry" => ("entry", self.entry(tdr()?)?),
            other => return Err(("what", format!("unknown lock word `{other}`"))),
        };
        Ok(What { name, at })
    }

    fn entry(&self, tdr: Hpa) -> Result<LockAt, Wrong> {
        let gpa = Gpa(need("gpa", self.raw.gpa)?.0);
        match need("level", self.raw.level)? {
            level @ 0..=4 => {
                let gpa = Gpa(start_of(Hpa(gpa.0), level).0);
                Ok(LockAt::Entry { tdr, gpa, level })
            }
            level => Err(("level", format!("{level} is not between 0 and 4"))),
        }
    }
}

/// The start of the range of a level that an address lies in: a word that covers a range is the same
/// word whichever of its addresses names it.
fn start_of(pa: Hpa, level: u8) -> Hpa {
    let bits = 12 + 9 * u32::from(level);
    Hpa(pa.0 >> bits << bits)
}

fn need<T>(field: &'static str, value: Option<T>) -> Result<T, Wrong> {
    value.ok_or_else(|| (field, "missing".into()))
}

fn hpa(field: &'static str, value: Option<Hex>) -> Result<Hpa, Wrong> {
    need(field, value).map(|hex| Hpa(hex.0))
}

#[cfg(test)]
#[path = "sequence_tests.rs"]
mod tests;
