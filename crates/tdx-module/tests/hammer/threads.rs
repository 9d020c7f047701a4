//! Real threads on one module.
//!
//! Each thread has logical processors of its own and, with the others, one host's notes. It makes a few
//! plans, lets go of the notes and carries the plans out: that is when threads meet inside the module.

#![allow(clippy::disallowed_types, clippy::disallowed_methods)] // threads and clocks are the point here

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use seamlock_sync::{Mode, Name};
use seamlock_tdx_abi::addr::{Gpa, Hpa};
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_module::audit::Accounting;
use seamlock_tdx_module::{After, LockAt, Module};

use super::guest;
use super::learn::{entered, learn};
use super::machine;
use super::plan::{Act, Planned, plan};
use super::run::{Tally, Violation};
use super::step::Step;
use super::sway::Sway;
use super::table::may_be_busy;
use super::world::World;

/// Plans that a thread makes before it carries them out.
const PLANS: usize = 6;
/// Between two looks at all the books, for which every thread steps out of the module.
const AUDIT_EVERY: Duration = Duration::from_millis(250);
/// A module is used for so long.
const A_MODULE: Duration = Duration::from_secs(2);
/// A call that takes longer is an endless loop.
const STUCK: Duration = Duration::from_secs(20);

/// How long, how many, which.
#[derive(Clone, Copy, Debug)]
pub struct Stress {
    /// Threads, each with two logical processors.
    pub threads: u32,
    /// How long they run.
    pub time: Duration,
    /// Where the random steps start.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct StressReport {
    /// What the threads did.
    pub tally: Tally,
    /// Modules that were used: a new one is taken when one was shut down.
    pub modules: u64,
    /// Host-priority marks that were left when all was over, by class of word. One host call that had the
    /// word took each away.
    pub marks: BTreeMap<&'static str, u64>,
}

struct Shared<'m> {
    m: &'m Module,
    world: Mutex<World>,
    /// Held shared by threads that are at work, alone for an audit.
    gate: RwLock<()>,
    stop: AtomicBool,
    calls: Vec<AtomicU64>,
}

impl Stress {
    /// Runs. The first broken promise ends it.
    pub fn run(self) -> Result<StressReport, Violation> {
        let mut report = StressReport::default();
        let end = Instant::now() + self.time;
        while report.modules == 0 || Instant::now() < end {
            let seed = self.seed.wrapping_add(report.modules << 32);
            let (m, _) = machine::ready(self.threads * 2, seed);
            report.modules += 1;
            // Threads are faster with every second module, and meet more often with the others.
            if report.modules.is_multiple_of(2) {
                Sway { one_in: 8 }.begin();
            }
            let end = end.min(Instant::now() + A_MODULE);
            let books = self.one_module(&m, seed, end, &mut report.tally);
            Sway::end();
            let books = books?;
            count(&mut report.marks, &books);
            sweep(&m, &books.marks)?;
        }
        Ok(report)
    }

    fn one_module(
        &self,
        m: &Module,
        seed: u64,
        end: Instant,
        all: &mut Tally,
    ) -> Result<Accounting, Violation> {
        let shared = Shared {
            m,
            world: Mutex::new(World {
                lps: self.threads * 2,
                ..World::default()
            }),
            gate: RwLock::default(),
            stop: AtomicBool::new(false),
            calls: (0..self.threads).map(|_| AtomicU64::new(0)).collect(),
        };
        let (shared, done) = (&shared, Mutex::new(Vec::new()));
        let watched = std::thread::scope(|scope| {
            for thread in 0..self.threads {
                let done = &done;
                scope.spawn(move || {
                    let _stop = StopOnPanic(&shared.stop);
                    let tally = work(shared, thread, seed);
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.push(tally);
                });
            }
            let watched = watch(shared, end, all);
            shared.stop.store(true, Relaxed);
            watched
        });
        for tally in done.into_inner().unwrap_or_else(PoisonError::into_inner) {
            all.add(&tally?);
        }
        watched?;
        all.audits += 1;
        books(m, "all guests left")
    }
}

struct StopOnPanic<'a>(&'a AtomicBool);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

fn count(marks: &mut BTreeMap<&'static str, u64>, books: &Accounting) {
    for mark in &books.marks {
        *marks.entry(mark.class.name()).or_default() += 1;
    }
}

fn books(m: &Module, what: &str) -> Result<Accounting, Violation> {
    m.audit().map_err(|faults| Violation::Books {
        what: what.to_owned(),
        faults,
    })
}

/// The next host call that has a word takes its mark away. After that, every word is zero.
fn sweep(m: &Module, marks: &[Name]) -> Result<(), Violation> {
    for name in marks {
        let at = word_of(name);
        if m.hold(at, Mode::Shared).is_ok() {
            m.release(at, Mode::Shared);
        }
    }
    let left = books(m, "all guests left")?.marks;
    if left.is_empty() {
        return Ok(());
    }
    Err(Violation::Marked { words: left })
}

fn word_of(name: &Name) -> LockAt {
    let pa = Hpa(name.a);
    match name.class.name() {
        "PAMT.2M" => LockAt::Pamt2m(pa),
        "PAMT.1G" => LockAt::Pamt1g(pa),
        "TDCS.OP_STATE" => LockAt::OpState(pa),
        "SEPT.ENTRY" => LockAt::Entry {
            tdr: pa,
            gpa: Gpa(name.b & !0xfff),
            level: (name.b & 7) as u8,
        },
        _ => LockAt::Page(pa),
    }
}

/// Looks at the books now and then, and at whether the threads get on.
fn watch(shared: &Shared<'_>, end: Instant, tally: &mut Tally) -> Result<(), Violation> {
    let mut seen: Vec<(u64, Instant)> = Vec::new();
    while !shared.stop.load(Relaxed) && Instant::now() < end {
        std::thread::sleep(AUDIT_EVERY.min(end.saturating_duration_since(Instant::now())));
        let now = Instant::now();
        for (thread, calls) in shared.calls.iter().enumerate() {
            let calls = calls.load(Relaxed);
            match seen.get_mut(thread) {
                Some(seen) if seen.0 != calls => *seen = (calls, now),
                Some(seen) if now - seen.1 > STUCK => {
                    eprintln!(
                        "thread {thread} made no call for {STUCK:?}, the last was its {calls}th"
                    );
                    std::process::exit(1);
                }
                Some(_) => {}
                None => seen.push((calls, now)),
            }
        }
        let _alone = shared.gate.write().unwrap_or_else(PoisonError::into_inner);
        tally.audits += 1;
        books(shared.m, "a while")?;
    }
    Ok(())
}

fn work(shared: &Shared<'_>, thread: u32, seed: u64) -> Result<Tally, Violation> {
    let mut rng = fastrand::Rng::with_seed(seed ^ u64::from(thread) << 40);
    let lps = [thread * 2, thread * 2 + 1];
    let mut tally = Tally::default();
    let mut refused = 0;
    while !shared.stop.load(Relaxed) {
        let _inside = shared.gate.read().unwrap_or_else(PoisonError::into_inner);
        let plans: Vec<Planned> = {
            let mut world = shared.world.lock().unwrap_or_else(PoisonError::into_inner);
            let plans = (0..PLANS).map(|_| plan(&mut world, Step::random(&mut rng), &lps));
            plans.collect()
        };
        let done = carry_out(shared, thread, plans, &mut tally)?;
        let mut world = shared.world.lock().unwrap_or_else(PoisonError::into_inner);
        for done in done {
            done.note(&mut world);
            refused += u64::from(done.is_shut_down());
        }
        if refused > 50 {
            break;
        }
    }
    for lp in lps {
        let left = shared.m.guest_state(lp).is_some();
        if left {
            let _ = shared.m.td_exit(lp, guest::INTERRUPT);
        }
    }
    Ok(tally)
}

/// What a plan has come to.
struct Done {
    lp: u32,
    before: Regs,
    regs: Regs,
    /// None for a TD exit.
    after: Option<After>,
}

impl Done {
    fn note(&self, world: &mut World) {
        match self.after {
            Some(After::Guest) => entered(world, self.lp, &self.before),
            Some(After::Host) => learn(world, self.lp, &self.before, &self.regs),
            None => drop(world.running.remove(&self.lp)),
        }
    }

    fn is_shut_down(&self) -> bool {
        let host = self.after == Some(After::Host);
        host && self.regs.status().is(TdxStatus::SYS_SHUTDOWN)
    }
}

/// Carries plans out. One that was made for the host is dropped when a guest was entered meanwhile.
fn carry_out(
    shared: &Shared<'_>,
    thread: u32,
    plans: Vec<Planned>,
    tally: &mut Tally,
) -> Result<Vec<Done>, Violation> {
    let m = shared.m;
    let mut done = Vec::with_capacity(plans.len());
    for Planned { lp, act } in plans {
        shared.calls[thread as usize].fetch_add(1, Relaxed);
        let in_guest = m.guest_state(lp).is_some();
        match act {
            Act::Seam(_) | Act::Init(_) | Act::While(..) if in_guest => {}
            Act::Seam(regs) | Act::Init(regs) | Act::While(_, _, regs) => {
                done.push(seamcall(m, lp, regs, tally)?);
            }
            Act::Guest(act) => {
                tally.guest_acts += 1;
                if guest::perform(m, lp, act) {
                    let (before, regs) = (Regs::default(), Regs::default());
                    done.push(Done {
                        lp,
                        before,
                        regs,
                        after: None,
                    });
                }
            }
            Act::Write(pa, word) => m.memory().write_u64(Hpa(pa), word),
        }
    }
    Ok(done)
}

fn seamcall(m: &Module, lp: u32, before: Regs, tally: &mut Tally) -> Result<Done, Violation> {
    if before.leaf() == Leaf::MNG_INIT {
        machine::write_params(m);
    }
    let mut regs = before;
    let after = m.seamcall(lp, &mut regs);
    let status = if after == After::Guest {
        TdxStatus::SUCCESS
    } else {
        regs.status()
    };
    tally.count(before.leaf(), status);
    if status.name().is_none() || !may_be_busy(&before, status) {
        return Err(Violation::Status {
            what: format!("{before:x?} on LP {lp}"),
            status,
        });
    }
    Ok(Done {
        lp,
        before,
        regs,
        after: Some(after),
    })
}
