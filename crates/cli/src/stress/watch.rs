//! Who watches a round: the processors, the order of what is added to TDs, and what KVM asserts.
//!
//! # Locking
//! A logical processor does one thing at a time, whatever number of threads stand on it: a SEAMCALL,
//! or a guest's turn from TDH.VP.ENTER to the TD exit. [`Watch`] keeps threads apart by that.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use seamlock_kvm::bug::What;
use seamlock_kvm::guest::{Entered, Guest, Turn};
use seamlock_kvm::host::{Inject, Upcoming};
use seamlock_kvm::lockdep::Breach;
use seamlock_kvm::locks::cells::{ONLINE_VCPUS, TD_STATE};
use seamlock_kvm::observer::Seamcall;
use seamlock_kvm::tdx::TdState;
use seamlock_kvm::{Bug, Discipline, Observer, Teardown};
use seamlock_sync::{Action, Op, Private, Word};
use seamlock_tdx_abi::{Leaf, TdxStatus};

use super::blocks;
use super::desk::Desk;
use super::finding::{Blame, Finding, Findings};
use super::flushes::Flushes;
use super::guest::Restless;
use super::known::{self, Evidence};
use super::ledger::Ledger;
use super::words::{Busy, Words, found_busy};

thread_local! {
    /// Pages that this thread has added, in the order of all additions.
    static ADDED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// The stamps of the pages that the thread has added since this was asked last.
pub fn take_added() -> Vec<u64> {
    ADDED.with(|added| std::mem::take(&mut *added.borrow_mut()))
}

/// What all threads of a round are watched by.
#[derive(Debug)]
pub struct Watch {
    busy: Vec<AtomicBool>,
    stamp: AtomicU64,
    /// Steps that all threads have taken.
    pub steps: AtomicU64,
    guest: Restless,
    bugged: Private<BTreeSet<u64>>,
    /// TDs that are finalized.
    runnable: Private<BTreeSet<u64>>,
    flushes: Flushes,
    /// Who has which lock word.
    pub words: Words,
    /// What entered the TDs.
    pub ledger: Ledger,
    pub desk: Arc<Desk>,
    pub findings: Arc<Findings>,
    pub discipline: &'static Discipline,
    pub seed: u64,
    pub round: u64,
    pub start: Instant,
}

impl Watch {
    /// A watch over so many processors.
    pub fn new(
        lps: u32,
        desk: Arc<Desk>,
        findings: Arc<Findings>,
        discipline: &'static Discipline,
        (seed, round): (u64, u64),
        start: Instant,
    ) -> Watch {
        Watch {
            busy: (0..lps).map(|_| AtomicBool::new(false)).collect(),
            stamp: AtomicU64::new(0),
            steps: AtomicU64::new(0),
            bugged: Private::default(),
            runnable: Private::default(),
            flushes: Flushes::default(),
            words: Words::default(),
            ledger: Ledger::default(),
            guest: Restless::new(seed ^ round.rotate_left(17)),
            desk,
            findings,
            discipline,
            seed,
            round,
            start,
        }
    }

    /// Whether a bug is no news: the VM had a fatal one before, or another VM had, whose pages and HKID are
    /// lost to the host, and this one is of no known race. A lock word that is busy is not of that kind.
    fn follows_from_another(&self, bug: &Bug, race: Option<&str>) -> bool {
        self.bugged.with(|bugged| {
            let spoiled = !bugged.is_empty() && !is_busy(bug);
            let dead = bugged.contains(&bug.vm);
            if bug.fatal {
                bugged.insert(bug.vm);
            }
            (dead && (bug.fatal || race.is_none())) || (spoiled && race.is_none())
        })
    }

    /// Whether a VM of the round was bugged, so that what is left of it is in the books.
    pub fn is_spoiled(&self) -> bool {
        self.bugged.with(|bugged| !bugged.is_empty())
    }

    fn occupy(&self, lp: u32) {
        while self.busy[lp as usize].swap(true, Ordering::Acquire) {
            std::thread::yield_now();
        }
    }

    fn leave(&self, lp: u32) {
        self.busy[lp as usize].store(false, Ordering::Release);
    }

    /// A finding of this round, by the thread that calls.
    pub fn finding(&self, check: &'static str, vm: u64, what: String) -> Finding {
        Finding {
            check,
            what,
            vm,
            round: self.round,
            after_ms: self.start.elapsed().as_millis() as u64,
            seed: self.seed,
            times: 1,
            ..Finding::default()
        }
    }

    /// Notes what a thread has done to a cell. A vCPU that comes online when its TD is finalized can
    /// never be initialised.
    pub fn note_cell(&self, op: &Op) {
        let (cell, vm) = (op.name.class, op.name.a);
        if op.action == Action::Store {
            self.flushes.note_store(op);
            if *cell == TD_STATE && op.arg == TdState::Runnable.to_word() {
                self.runnable.with(|runnable| runnable.insert(vm));
            }
        } else if *cell == ONLINE_VCPUS && self.runnable.with(|runnable| runnable.contains(&vm)) {
            let what = "a vCPU was published in a TD that is finalized".to_owned();
            self.findings.add(Finding {
                blame: Blame::Discipline,
                race: Some("R3"),
                site: "tdx.c:673 tdx_vcpu_create".to_owned(),
                ..self.finding("vCPUs join a TD that is being built", vm, what)
            });
        }
    }

    fn tell(&self, bug: &Bug, busy: &[Busy], race: Option<&'static str>) {
        let around = self.desk.around(bug.vm);
        let refused = matches!(&bug.what, What::Seamcall { .. });
        let blame = if refused || race.is_some() {
            Blame::Discipline
        } else {
            Blame::Seamlock
        };
        self.findings.add(Finding {
            blame,
            race,
            detail: busy.iter().map(Busy::to_string).collect(),
            site: bug.site.to_owned(),
            doing: around.doing.to_owned(),
            beside: around.beside.into_iter().map(str::to_owned).collect(),
            ..self.finding("no KVM_BUG_ON", bug.vm, bug.to_string())
        });
    }
}

fn is_busy(bug: &Bug) -> bool {
    matches!(&bug.what, What::Seamcall { status, .. } if status.is(TdxStatus::OPERAND_BUSY))
}

impl Inject for Watch {
    fn status(&self, call: &Upcoming) -> Option<TdxStatus> {
        self.occupy(call.cpu);
        self.words.begin(call.regs);
        None
    }
}

impl Guest for Watch {
    fn run(&self, entered: &Entered) -> Turn {
        let turn = self.guest.run(entered);
        self.leave(entered.lp);
        turn
    }
}

impl Observer for Watch {
    fn seamcall(&self, call: &Seamcall) {
        if call.leaf() == Leaf::MEM_PAGE_ADD && call.status() == TdxStatus::SUCCESS {
            // The TDR is the thread's alone no more, but the locks that order additions still are.
            let stamp = self.stamp.fetch_add(1, Ordering::Relaxed);
            ADDED.with(|added| added.borrow_mut().push(stamp));
        }
        self.flushes.note(call, self.desk.own() == known::HOTPLUG);
        self.ledger.note(call, || self.desk.own());
        self.words.end(call);
        blocks::note(call);
        if !call.entered {
            self.leave(call.cpu);
        }
    }

    fn bug(&self, bug: &Bug) {
        if let Some(race) = known::asked_for(bug) {
            self.tell(bug, &[], Some(race));
            return;
        }
        let evidence = Evidence {
            busy: if is_busy(bug) {
                found_busy()
            } else {
                Vec::new()
            },
            unflushed: Flushes::why_refused(),
            untracked: blocks::went_untracked(),
            doing: self.desk.own(),
        };
        let race = known::race(bug, &evidence, self.discipline);
        if self.follows_from_another(bug, race) {
            return;
        }
        self.tell(bug, &evidence.busy, race);
    }

    fn lockdep(&self, breach: &Breach) {
        self.findings.add(Finding {
            blame: Blame::Discipline,
            site: breach.acquired.site.to_string(),
            ..self.finding("lockdep", 0, breach.to_string())
        });
    }

    fn teardown(&self, teardown: &Teardown) {
        // What a bug left behind is told with the bug.
        if teardown.bugs != 0 || (teardown.pages_leaked == 0 && teardown.hkid_returned) {
            return;
        }
        let what = format!(
            "the VM ended with {} pages leaked, its HKID {}",
            teardown.pages_leaked,
            if teardown.hkid_returned {
                "returned"
            } else {
                "leaked"
            }
        );
        let finding = self.finding("a VM gives all back", teardown.vm, what);
        let why = Flushes::why_refused().filter(|_| !teardown.hkid_returned);
        if why.is_some() {
            self.bugged.with(|bugged| bugged.insert(teardown.vm));
        }
        let blame = match why {
            Some(_) => Blame::Discipline,
            None => finding.blame,
        };
        self.findings.add(Finding {
            blame,
            race: why,
            ..finding
        });
    }
}
