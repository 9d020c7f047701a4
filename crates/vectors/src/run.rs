//! One sequence on one fresh module.

mod words;

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use seamlock_sync::{Mode, WordView};
use seamlock_tdx_abi::addr::{Hpa, PAGE_SIZE};
use seamlock_tdx_abi::field::FieldId;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_module::{After, LockAt, TdExit, TdExitKind};

use crate::header::Header;
use crate::mismatch::{Difference, Mismatch, Outcome, Place, Stage, leaf_of};
use crate::report::Tally;
use crate::sequence::{Sequence, Step};
use crate::subject::Subject;

/// What to remember of mismatches; all are counted.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// Mismatches of one sequence to keep in full.
    pub full: usize,
    /// Only those about this leaf.
    pub leaf: Option<Leaf>,
}

/// Step, recorded and ours: what mismatches of one kind have in common.
pub type GroupKey = (String, String, String);

/// What came of one sequence. Preambles are not in the tallies, but a mismatch there is one.
#[derive(Debug, Default)]
pub struct Ran {
    /// SEAMCALLs.
    pub calls: Tally,
    /// Guest exits.
    pub exits: Tally,
    /// Lock words looked at.
    pub words: Tally,
    /// Measurements.
    pub mrtds: Tally,
    /// All mismatches.
    pub mismatched: u64,
    /// The first mismatches.
    pub mismatches: Vec<Mismatch>,
    /// How many mismatches of each kind.
    pub groups: BTreeMap<GroupKey, u64>,
    /// The kind of the first mismatch: what comes later may only follow from it.
    pub first: Option<GroupKey>,
}

/// Replays a sequence on a module that was just loaded. `preamble` is the list of steps that the
/// sequence names.
pub fn run(
    subject: &dyn Subject,
    header: &Header,
    preamble: &[Step],
    sequence: &Sequence,
    keep: Keep,
) -> Ran {
    let place = Place {
        stage: Stage::Boot,
        step: 0,
        repeat: 0,
    };
    let mut runner = Runner {
        subject,
        lps: header.lps(),
        in_guest: BTreeSet::new(),
        held: Vec::new(),
        seen: Vec::new(),
        place,
        calling: None,
        after: None,
        keep,
        ran: Ran::default(),
    };
    let all = AssertUnwindSafe(|| runner.all(preamble, &sequence.steps));
    if let Err(payload) = catch_unwind(all) {
        let difference = Difference::Panic {
            leaf: runner.calling,
            message: said(&*payload),
        };
        runner.differs(difference);
        let calls = &mut runner.ran.calls;
        calls.failed += sequence.calls() - calls.total();
    }
    runner.ran
}

fn said(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_default()
}

struct Runner<'a> {
    subject: &'a dyn Subject,
    lps: u32,
    in_guest: BTreeSet<u32>,
    /// What was really taken: after a mismatch, not what the recording says.
    held: Vec<(LockAt, Mode)>,
    place: Place,
    /// Lock words as they were last seen, for the reader of a mismatch.
    seen: Vec<(LockAt, Option<WordView>)>,
    /// The leaf that is being called.
    calling: Option<Leaf>,
    /// The leaf called last.
    after: Option<Leaf>,
    keep: Keep,
    ran: Ran,
}

impl Runner<'_> {
    fn all(&mut self, preamble: &[Step], steps: &[Step]) {
        self.boot();
        for (stage, steps) in [(Stage::Preamble, preamble), (Stage::Steps, steps)] {
            for (i, step) in steps.iter().enumerate() {
                self.place = Place {
                    stage,
                    step: i,
                    repeat: 0,
                };
                self.step(step);
            }
        }
    }

    fn boot(&mut self) {
        let lp_init = (0..self.lps).map(|lp| (lp, Leaf::SYS_LP_INIT));
        for (i, (lp, leaf)) in [(0, Leaf::SYS_INIT)].into_iter().chain(lp_init).enumerate() {
            self.place.step = i;
            let (input, mut got) = (Regs::call(leaf), Regs::call(leaf));
            let _ = self.subject.seamcall(lp, &mut got);
            if !got.status().is(TdxStatus::SUCCESS) {
                let expected = Outcome::Host(Regs { rax: 0, ..got });
                let got = Outcome::Host(got);
                self.differs(Difference::Call {
                    lp,
                    input,
                    expected,
                    got,
                });
            }
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Fill { pa, seed } => {
                let page: [u8; PAGE_SIZE as usize] =
                    std::array::from_fn(|i| seed.wrapping_add((i as u8).wrapping_mul(7)));
                self.write(*pa, &page);
            }
            Step::Write { pa, bytes } => self.write(*pa, bytes),
            Step::Call {
                lp,
                input,
                expected,
                count,
            } => {
                for repeat in 0..*count {
                    self.place.repeat = repeat;
                    self.call(*lp, input, expected);
                }
            }
            Step::GuestExit { lp, exit, expected } => self.guest_exit(*lp, exit, expected),
            Step::Hold {
                what,
                mode,
                result,
                word,
            } => {
                self.attempt("hold", *what, *mode, *result, *word);
            }
            Step::GuestTry {
                what,
                mode,
                result,
                word,
            } => {
                self.attempt("guest_try", *what, *mode, *result, *word);
            }
            Step::Release { what, mode, word } => self.release(*what, *mode, *word),
            Step::Peek { what, word } => {
                let before = self.last_seen(what.at);
                let got = self.subject.peek(what.at);
                self.word(
                    "peek",
                    *what,
                    None,
                    before,
                    (None, Some(*word)),
                    (None, got),
                );
            }
            Step::ExpectMrtd { tdr, mrtd } => self.mrtd(*tdr, mrtd),
        }
    }

    fn write(&mut self, pa: Hpa, bytes: &[u8]) {
        if !self.subject.write(pa, bytes) {
            self.differs(Difference::OutsideMemory {
                pa,
                len: bytes.len(),
            });
        }
    }

    fn call(&mut self, lp: u32, input: &Regs, expected: &Outcome) {
        if self.in_guest.contains(&lp) {
            self.count(false);
            return self.differs(Difference::Misplaced { lp, in_guest: true });
        }
        self.calling = Some(leaf_of(input));
        let mut regs = *input;
        let got = match self.subject.seamcall(lp, &mut regs) {
            After::Host => Outcome::Host(regs),
            After::Guest => Outcome::Guest,
        };
        self.calling = None;
        self.count(got == *expected);
        if got != *expected {
            self.differs(Difference::Call {
                lp,
                input: *input,
                expected: *expected,
                got,
            });
        }
        self.after = Some(leaf_of(input));
        match (got, expected) {
            (Outcome::Guest, Outcome::Guest) => {
                self.in_guest.insert(lp);
            }
            // The recording goes on with the LP in the host.
            (Outcome::Guest, Outcome::Host(_)) => {
                let _ = self.subject.guest_exit(lp, &EXTERNAL_INTERRUPT);
            }
            (Outcome::Host(_), _) => {}
        }
    }

    /// Counts a call of the sequence itself.
    fn count(&mut self, passed: bool) {
        if self.place.stage == Stage::Steps {
            self.ran.calls.count(passed);
        }
    }

    fn guest_exit(&mut self, lp: u32, exit: &TdExit, expected: &Regs) {
        let got = self
            .in_guest
            .remove(&lp)
            .then(|| self.subject.guest_exit(lp, exit));
        self.ran.exits.count(got == Some(*expected));
        match got {
            Some(got) if got == *expected => {}
            Some(got) => self.differs(Difference::Exit {
                lp,
                expected: *expected,
                got,
            }),
            None => self.differs(Difference::Misplaced {
                lp,
                in_guest: false,
            }),
        }
        self.after = Some(Leaf::VP_ENTER);
    }

    fn mrtd(&mut self, tdr: Hpa, expected: &[u8; 48]) {
        let got = self.read_mrtd(tdr);
        self.ran.mrtds.count(got == Ok(*expected));
        if got != Ok(*expected) {
            self.differs(Difference::Mrtd {
                tdr,
                expected: *expected,
                got,
            });
        }
    }

    fn read_mrtd(&mut self, tdr: Hpa) -> Result<[u8; 48], TdxStatus> {
        let lp = (0..self.lps)
            .find(|lp| !self.in_guest.contains(lp))
            .unwrap_or_default();
        let mut mrtd = [0; 48];
        for (field, bytes) in (FieldId::TDCS_MRTD.0..).zip(mrtd.chunks_exact_mut(8)) {
            let mut regs = Regs {
                rcx: tdr.0,
                rdx: field,
                ..Regs::call(Leaf::MNG_RD)
            };
            self.calling = Some(Leaf::MNG_RD);
            let _ = self.subject.seamcall(lp, &mut regs);
            self.calling = None;
            if !regs.status().is(TdxStatus::SUCCESS) {
                return Err(regs.status());
            }
            bytes.copy_from_slice(&regs.r8.to_le_bytes());
        }
        Ok(mrtd)
    }

    fn differs(&mut self, difference: Difference) {
        let mismatch = Mismatch {
            place: self.place,
            after: self.after,
            difference,
        };
        self.ran.mismatched += 1;
        if self
            .keep
            .leaf
            .is_some_and(|leaf| mismatch.leaf() != Some(leaf))
        {
            return;
        }
        let key = mismatch.group();
        if self.ran.first.is_none() {
            self.ran.first = Some(key.clone());
        }
        *self.ran.groups.entry(key).or_default() += 1;
        if self.ran.mismatches.len() < self.keep.full {
            self.ran.mismatches.push(mismatch);
        }
    }
}

const EXTERNAL_INTERRUPT: TdExit = TdExit {
    reason: 1,
    qual: 0,
    gpa: 0,
    kind: TdExitKind::Async,
};

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
