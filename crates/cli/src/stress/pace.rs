//! The pace of a thread: at times it stops for a while in the middle of a call, anywhere.
//!
//! What two threads can do to each other within some hundred nanoseconds happens on hardware, where a
//! SEAMCALL takes microseconds and every processor has its own pace, and hardly ever here. So of some
//! calls one step, drawn from all that calls of that kind take, takes long: ahead of a lock, with it held,
//! within a SEAMCALL, between two cells that are read. Nothing says which steps matter.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use seamlock_kvm::lockdep;
use seamlock_kvm::locks::FILEMAP_LOCK;
use seamlock_sync::{Action, Hook, Name, Op, Outcome, Verdict, install};
use seamlock_tdx_abi::Leaf;

use super::blocks;
use super::ops::OPS;
use super::watch::Watch;
use super::words::{Party, is_at_a_word};

/// One of so many calls has a slow step, if it gets there.
const SLOW_CALLS: u32 = 8;
/// Powers of 2: so many steps the others make during a slow one, each power as often as the next.
const SLOW: std::ops::Range<u32> = 5..13;
/// How long it sleeps before it looks how far they are.
const NAP: Duration = Duration::from_micros(20);
/// Steps of the others within a nap. With fewer they all wait for what the slow one holds.
const FEW: u64 = 16;
/// Steps that a kind of call is taken to have before the first of them.
const STEPS: u32 = 64;
/// What the longest call of a kind loses with each that is shorter: one of so many parts.
const FADE: u32 = 64;

/// What the hand does that takes CPUs offline: a call that is no thread's operation.
pub const HAND: usize = usize::MAX;

/// The hook of one thread.
#[derive(Debug)]
pub struct Pace {
    watch: Arc<Watch>,
    seat: usize,
    rng: RefCell<fastrand::Rng>,
    /// Steps that the calls of each kind take: the last, and the longest for a while.
    steps: RefCell<Vec<(u32, u32)>>,
    /// The call that the thread is at, and how many steps it has taken.
    call: Cell<Option<(usize, u32)>>,
    /// The step of it that is slow.
    slow: Cell<Option<u32>>,
    /// The guest_memfd that is locked.
    filemap: Cell<Option<Name>>,
}

impl Pace {
    /// That of a thread.
    pub fn new(watch: &Arc<Watch>, seat: usize, seed: u64) -> Rc<Pace> {
        Rc::new(Pace {
            watch: watch.clone(),
            seat,
            rng: RefCell::new(fastrand::Rng::with_seed(seed)),
            steps: RefCell::new(vec![(STEPS, STEPS); OPS.len() + 1]),
            call: Cell::new(None),
            slow: Cell::new(None),
            filemap: Cell::new(None),
        })
    }

    /// Runs `f` on this thread at this pace.
    pub fn keep<R>(self: &Rc<Pace>, f: impl FnOnce() -> R) -> R {
        let before = install(Some(self.clone()));
        let result = f();
        install(before);
        result
    }

    /// A call begins: an operation, or [`HAND`].
    pub fn begin(&self, op: usize) {
        let kind = op.min(OPS.len());
        let mut rng = self.rng.borrow_mut();
        let slow = rng.u32(..SLOW_CALLS) == 0;
        let (last, longest) = self.steps.borrow()[kind];
        // Most calls are refused early, and what matters may be late in the few that are not.
        let steps = if rng.bool() { last } else { longest };
        self.slow.set(slow.then(|| rng.u32(..steps.max(1))));
        self.call.set(Some((kind, 0)));
    }

    /// It is over.
    pub fn end(&self) {
        if let Some((kind, steps)) = self.call.take() {
            let (last, longest) = &mut self.steps.borrow_mut()[kind];
            *last = steps;
            *longest = steps.max(*longest - *longest / FADE);
        }
    }

    fn step(&self) {
        let Some((kind, step)) = self.call.get() else {
            return;
        };
        self.call.set(Some((kind, step.saturating_add(1))));
        self.watch.steps.fetch_add(1, Relaxed);
        if self.slow.get() == Some(step) {
            self.let_others_go_on();
        }
    }

    fn let_others_go_on(&self) {
        let steps = || self.watch.steps.load(Relaxed);
        let end = steps() + (1 << self.rng.borrow_mut().u32(SLOW));
        loop {
            let before = steps();
            std::thread::sleep(NAP);
            if steps() >= end || steps() - before < FEW {
                return;
            }
        }
    }

    fn party(&self, leaf: Leaf) -> Party {
        Party {
            seat: self.seat,
            leaf,
            doing: self.watch.desk.own(),
            filemap: self.filemap.get(),
        }
    }
}

impl Hook for Pace {
    fn before(&self, op: &Op) -> Verdict {
        self.step();
        lockdep::before(op);
        if is_at_a_word(op.action) {
            self.watch.words.before(op.name);
        }
        Verdict::Go
    }

    fn after(&self, op: &Op, outcome: Outcome) {
        match op.action {
            action if is_at_a_word(action) => {
                let party = |leaf| self.party(leaf);
                self.watch.words.after(op, outcome, self.seat, party);
            }
            // A loop that tries again leaves it to the hook to let others go on.
            Action::AwaitRelease | Action::AwaitChange => std::thread::yield_now(),
            Action::Lock | Action::LockShared if *op.name.class == FILEMAP_LOCK => {
                self.filemap.set(Some(op.name));
            }
            Action::Unlock | Action::UnlockShared if *op.name.class == FILEMAP_LOCK => {
                self.filemap.set(None);
            }
            Action::Store | Action::Update => self.watch.note_cell(op),
            Action::Load => blocks::note_load(op, outcome),
            _ => {}
        }
        lockdep::after(op, outcome);
    }
}
