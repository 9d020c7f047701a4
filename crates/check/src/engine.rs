//! One execution: who has announced what, who may go on, and what was done.

use seamlock_sync::{Action, Name, Op, Outcome, Verdict};

use crate::access::{Class, NOTHING};
use crate::log::{Event, Log};
use crate::object::{NONE, Objects};
use crate::scenario::Reporter;
use crate::shadow::{SETUP, blocking};
use crate::strategy::{Moment, Pick, Strategy};
use crate::thread::{Pending, Thread};
use crate::verdict::CheckError;

/// Why an execution ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// All threads have ended.
    Complete,
    /// Some threads wait and no thread can go on.
    Deadlock,
    /// It has done as many operations as it may.
    TooLong,
    /// A thread panicked.
    Panicked,
    /// All that could go on was explored elsewhere.
    Redundant,
    /// It is not the execution that was to be replayed.
    Diverged,
    /// The comparison with the last execution failed.
    Failed,
}

/// The state of an execution.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) objects: Objects,
    pub(crate) log: Log,
    pub(crate) threads: Vec<Thread>,
    pub(crate) strategy: Strategy,
    pub(crate) reporter: Reporter,
    pub(crate) end: Option<End>,
    pub(crate) error: Option<CheckError>,
    /// Threads that have not ended.
    pub(crate) live: u16,
    // Threads whose pending operation can be done now. Wider than `live`, so that the two are not loaded
    // in one right after this one was stored.
    pub(crate) open: u64,
    pub(crate) running: u8,
    pub(crate) verdict: Verdict,
    max_steps: usize,
    clocks: bool,
}

impl Engine {
    pub(crate) fn new(strategy: Strategy, max_steps: usize) -> Engine {
        Engine {
            objects: Objects::default(),
            log: Log::default(),
            threads: Vec::new(),
            clocks: strategy.needs_clocks(),
            strategy,
            reporter: Reporter::default(),
            end: None,
            error: None,
            live: 0,
            open: 0,
            running: SETUP,
            verdict: Verdict::Go,
            // A thread's events are counted in 16 bits.
            max_steps: max_steps.min(usize::from(u16::MAX) - 1),
        }
    }

    /// Starts another execution.
    pub(crate) fn restart(&mut self) {
        self.clocks = self.strategy.needs_clocks();
        let known = self.strategy.restart();
        self.log.restart(known);
        self.objects.restart(self.log.known());
        self.end = None;
        self.live = 0;
        self.open = 0;
        self.running = SETUP;
    }

    /// The threads of this execution.
    pub(crate) fn start(
        &mut self,
        names: &[std::borrow::Cow<'static, str>],
        signals: &[Option<Name>],
    ) {
        self.threads.truncate(names.len());
        for (i, name) in names.iter().enumerate() {
            let signal = match &signals[i] {
                Some(name) => self.objects.number(name, NONE),
                None => NOTHING,
            };
            match self.threads.get_mut(i) {
                Some(thread) if thread.name == *name => thread.restart(signal),
                Some(thread) => *thread = Thread::new(name, signal),
                None => self.threads.push(Thread::new(name, signal)),
            }
        }
        self.live = ((1u32 << names.len()) - 1) as u16;
    }

    /// Whether a thread that may have to wait can go on is looked at again.
    pub(crate) fn look_again(&mut self, slot: usize) {
        let bit = 1 << slot;
        if self.ready(slot) {
            self.open |= bit;
        } else {
            self.open &= !bit;
        }
    }

    /// A thread has ended.
    pub(crate) fn finish(&mut self, slot: usize) {
        self.live &= !(1 << slot);
        self.open &= !(1 << slot);
        self.threads[slot].pending = None;
    }

    /// Decides who goes on, and counts its operation as done. `None` ends the execution.
    #[inline]
    pub(crate) fn choose(&mut self) -> Option<u8> {
        let depth = self.log.len();
        if self.end.is_some() {
            return None;
        }
        if depth >= self.max_steps {
            self.end = Some(End::TooLong);
            return None;
        }
        let thread = match self.strategy.forced(depth) {
            Some(thread) => thread,
            None => self.pick(depth)?,
        };
        if self.enabled() & (1 << thread) == 0 {
            return self.diverged(thread, "an operation that can be done now");
        }
        self.commit(thread)
    }

    fn pick(&mut self, depth: usize) -> Option<u8> {
        if let Some(thread) = self.alone()
            && self.strategy.goes_on(thread)
        {
            return Some(thread);
        }
        let enabled = self.enabled();
        if enabled == 0 {
            let over = if self.live == 0 {
                End::Complete
            } else {
                End::Deadlock
            };
            self.end = Some(over);
            return None;
        }
        let moment = Moment {
            depth,
            enabled,
            running: self.running,
            threads: &self.threads,
            objects: &self.objects,
        };
        match self.strategy.pick(&moment) {
            Pick::Run(thread) => Some(thread),
            Pick::Stop(end) => {
                self.end = Some(end);
                None
            }
            Pick::Unplanned(item) => {
                self.unplanned(&item);
                None
            }
        }
    }

    /// The running thread, if its next operation is one that concerns no other.
    #[inline]
    fn alone(&self) -> Option<u8> {
        let bit = 1u16.checked_shl(u32::from(self.running))?;
        if self.enabled() & bit == 0 {
            return None;
        }
        let pending = self.threads[usize::from(self.running)].pending.as_ref()?;
        let object = self.objects.at(pending.accesses.first.object);
        object.only_of(self.running).then_some(self.running)
    }

    /// The threads that can go on.
    #[inline]
    fn enabled(&self) -> u16 {
        self.live & self.open as u16
    }

    /// Whether the thread's pending operation can be done.
    pub(crate) fn ready(&self, slot: usize) -> bool {
        let pending = self.threads[slot].pending.as_ref();
        pending.is_some_and(|pending| self.lets(pending) || self.signalled(pending))
    }

    fn lets(&self, pending: &Pending) -> bool {
        let object = self.objects.at(pending.accesses.first.object);
        object.shadow.lets(pending.action, pending.arg)
    }

    fn signalled(&self, pending: &Pending) -> bool {
        let signal = pending.accesses.signal;
        signal != NOTHING && self.objects.at(signal).shadow.turns > 0
    }

    fn commit(&mut self, slot: u8) -> Option<u8> {
        let Some(pending) = &self.threads[usize::from(slot)].pending else {
            return self.diverged(slot, "an operation");
        };
        let accesses = pending.accesses;
        let interrupted = accesses.signal != NOTHING && !self.lets(pending);
        if blocking(pending.action) {
            for access in accesses.list() {
                self.objects.at_mut(access.object).waiters &= !(1 << slot);
            }
        }
        if self.clocks {
            let depth = self.log.len();
            self.record(slot)?;
            if depth >= self.log.known() {
                self.strategy.committed(depth, &accesses, &self.threads);
            }
        } else {
            self.log.push(Event::bare(slot, pending));
            self.objects.at_mut(accesses.first.object).touch(slot);
        }
        self.verdict = if interrupted {
            Verdict::Interrupted
        } else {
            Verdict::Go
        };
        self.reporter.move_to(self.log.len(), slot);
        self.running = slot;
        Some(slot)
    }

    #[inline]
    fn record(&mut self, slot: u8) -> Option<()> {
        let Engine {
            threads,
            log,
            objects,
            ..
        } = self;
        let index = log.len() as u32;
        let thread = &mut threads[usize::from(slot)];
        let Some(pending) = &thread.pending else {
            return None;
        };
        let accesses = pending.accesses;
        if let Some(expected) = log.expected() {
            let same = expected.thread == slot
                && expected.action == pending.action
                && expected.accesses == accesses
                && expected.arg == pending.arg;
            if !same {
                let expected = *expected;
                self.nondeterministic(slot, &expected);
                return None;
            }
            log.advance();
        } else {
            let mut event = Event::bare(slot, pending);
            event.clock = log.clock_of(thread.own);
            event.number = event.clock.tick(slot);
            event.own = thread.own;
            for (nth, access) in accesses.list().enumerate() {
                let object = objects.at(access.object);
                match access.class {
                    Class::Await => log.learn_releases(object, access, &mut event.clock),
                    class => object.learn(class, &mut event.clock),
                }
                if nth == 0 {
                    (event.before, event.alone) = (object.last, object.last_alone);
                } else {
                    event.signal = [object.last, object.last_alone];
                }
            }
            for access in accesses.list() {
                objects.record(access, slot, &event.clock, index);
            }
            log.push(event);
        }
        thread.own = index;
        Some(())
    }

    /// The operation that was let go has been done.
    #[inline]
    pub(crate) fn done(&mut self, op: &Op, outcome: Outcome) {
        let known = self.log.len() <= self.log.known();
        let Some(event) = self.log.last_mut() else {
            return;
        };
        debug_assert_eq!(
            event.action, op.action,
            "operations of one thread do not nest"
        );
        if known && event.outcome != outcome {
            let (thread, expected) = (event.thread, *event);
            self.nondeterministic(thread, &expected);
            return;
        }
        event.outcome = outcome;
        let (thread, number) = (event.thread, event.accesses.first.object);
        let event_tries = event.action != Action::Update;
        let object = self.objects.at_mut(number);
        object.shadow.apply(thread, op.action, outcome);
        let mut waiters = object.waiters;
        if outcome == Outcome::Busy && event_tries {
            self.threads[usize::from(thread)].refused = (number, object.shadow.turns);
        }
        while waiters != 0 {
            self.look_again(waiters.trailing_zeros() as usize);
            waiters &= waiters - 1;
        }
    }

    /// What the thread that goes on is told.
    #[inline]
    pub(crate) fn verdict(&self) -> Verdict {
        self.verdict
    }
}
