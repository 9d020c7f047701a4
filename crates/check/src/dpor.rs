//! Optimal dynamic partial order reduction with wakeup trees: exactly one execution per trace.
//!
//! Abdulla, Aronsson, Jonsson, Sagonas: *Optimal Dynamic Partial Order Reduction* (POPL 2014), and
//! *Source Sets: A Foundation for Optimal Dynamic Partial Order Reduction* (JACM 2017). The races are
//! found in [`races`](crate::races); here is the stack of choices.

use std::collections::BTreeSet;

use fastrand::Rng;

use crate::access::Accesses;
use crate::clock::{MAX_THREADS, mix};
use crate::engine::{End, Engine};
use crate::log::Event;
use crate::strategy::{Moment, Pick};
use crate::thread::Thread;
use crate::wakeup::{Forest, Item, NIL};
use crate::walk::random_bit;

/// Faults put into the engine on purpose, to see that the comparison with plain search finds them.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A thread that is blocked for ever races with nobody.
    pub no_blocked_race: bool,
    /// Two acquisitions of one blocking lock do not race.
    pub no_lock_race: bool,
    /// A sleeping thread counts as covering every sequence that it occurs in.
    pub weak_initials: bool,
}

/// A point of the current execution at which a choice was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    /// The thread that went on.
    pub(crate) thread: u8,
    /// Threads whose next operation was explored from here, or from before and commutes since.
    pub(crate) sleep: u16,
    /// What is still to be explored from here: the first branch of a wakeup tree.
    pub(crate) branches: u32,
}

/// The search.
#[derive(Debug)]
pub(crate) struct Dpor {
    pub(crate) frames: Vec<Frame>,
    pub(crate) forest: Forest,
    pub(crate) faults: Faults,
    // The first branch of the wakeup tree below the last choice.
    next: u32,
    sleep: u16,
    rng: Option<Rng>,
    // How many free choices are made without it.
    stays: u8,
    // Sums of the hashes of the first so many events.
    sums: Vec<u64>,
    traces: BTreeSet<u64>,
    /// The races of the last execution: the numbers of their events, by the second.
    pub(crate) races: Vec<(u32, u32)>,
    /// The numbers of each thread's events in the last execution.
    pub(crate) own: [Vec<u32>; MAX_THREADS],
    pub(crate) scratch: Scratch,
    /// Races whose reversal was new.
    pub(crate) reversed: u64,
}

/// Buffers of the race analysis.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) candidates: Vec<u32>,
    pub(crate) sequence: Vec<Item>,
    pub(crate) cuts: Vec<u32>,
    pub(crate) chain: Vec<u32>,
}

impl Dpor {
    /// A search that chooses at random where any choice is right, or else switches seldom.
    pub(crate) fn new(seed: Option<u64>, faults: Faults) -> Dpor {
        Dpor {
            frames: Vec::new(),
            forest: Forest::default(),
            faults,
            next: NIL,
            sleep: 0,
            rng: seed.map(Rng::with_seed),
            stays: 0,
            sums: Vec::new(),
            traces: BTreeSet::new(),
            races: Vec::new(),
            own: Default::default(),
            scratch: Scratch::default(),
            reversed: 0,
        }
    }

    /// How many events of the next execution are those of the last.
    pub(crate) fn known(&self) -> usize {
        self.frames.len().saturating_sub(1)
    }

    #[inline]
    pub(crate) fn forced(&self, depth: usize) -> Option<u8> {
        self.frames.get(depth).map(|frame| frame.thread)
    }

    /// Lets the running thread go on where any choice is right.
    #[inline]
    pub(crate) fn goes_on(&mut self, thread: u8) -> bool {
        let free = self.next == NIL && self.sleep & (1 << thread) == 0;
        if free {
            self.frames.push(Frame {
                thread,
                sleep: self.sleep,
                branches: NIL,
            });
        }
        free
    }

    pub(crate) fn pick(&mut self, moment: &Moment<'_>) -> Pick {
        let (thread, branches, below) = if self.next == NIL {
            let awake = moment.enabled & !self.sleep;
            if awake == 0 {
                return Pick::Stop(End::Redundant);
            }
            (self.free(moment, awake), NIL, NIL)
        } else {
            let (item, below, branches) = self.forest.take(self.next);
            if !fits(moment, &item) {
                return Pick::Unplanned(item);
            }
            (item.thread, branches, below)
        };
        self.frames.push(Frame {
            thread,
            sleep: self.sleep,
            branches,
        });
        self.next = below;
        Pick::Run(thread)
    }

    fn free(&mut self, moment: &Moment<'_>, awake: u16) -> u8 {
        // A switch costs more than all else, and one in sixteen is enough to get everywhere.
        match &mut self.rng {
            Some(rng) if self.stays == 0 => {
                self.stays = rng.u8(0..32);
                random_bit(rng, awake)
            }
            _ => {
                self.stays = self.stays.saturating_sub(1);
                moment.stay(awake)
            }
        }
    }

    /// An operation with these effects was chosen: who sleeps on and who is woken by it.
    #[inline]
    pub(crate) fn committed(&mut self, depth: usize, accesses: &Accesses, threads: &[Thread]) {
        let mut asleep = self.frames[depth].sleep;
        let mut left = asleep;
        while left != 0 {
            let slot = left.trailing_zeros() as usize;
            left &= left - 1;
            let pending = threads[slot].pending.as_ref();
            if pending.is_none_or(|pending| pending.accesses.conflict(accesses)) {
                asleep &= !(1 << slot);
            }
        }
        self.sleep = asleep;
    }

    /// The execution has ended: looks for races, adds what they ask for, and records the trace.
    pub(crate) fn learn(&mut self, engine: &Engine) -> bool {
        let fresh = self.trace(engine);
        self.find_races(engine);
        fresh
    }

    /// Moves on to the next execution; `false` when all traces were explored.
    pub(crate) fn advance(&mut self) -> bool {
        while let Some(frame) = self.frames.last_mut() {
            if frame.branches != NIL {
                frame.sleep |= 1 << frame.thread;
                let (item, below, branches) = self.forest.take(frame.branches);
                frame.thread = item.thread;
                frame.branches = branches;
                self.next = below;
                return true;
            }
            self.frames.pop();
        }
        false
    }

    /// How many different traces were seen.
    pub(crate) fn distinct(&self) -> usize {
        self.traces.len()
    }

    /// Records the trace of this execution; `false` when it was there before.
    fn trace(&mut self, engine: &Engine) -> bool {
        let events = engine.log.done();
        let known = engine.log.known().min(events.len());
        self.sums.truncate(known);
        let mut sum = self.sums.last().copied().unwrap_or(0);
        for event in &events[known..] {
            sum = sum.wrapping_add(hash(engine, event));
            self.sums.push(sum);
        }
        self.traces.insert(sum)
    }
}

/// A number for an event and all that happens before it. Their sum over an execution names its trace.
pub(crate) fn hash(engine: &Engine, event: &Event) -> u64 {
    let object = engine.objects.at(event.accesses.first.object).fingerprint;
    let what = mix(object ^ (event.action as u64) << 8 ^ u64::from(event.thread));
    event.clock.digest(what)
}

fn fits(moment: &Moment<'_>, item: &Item) -> bool {
    let pending = moment.threads[usize::from(item.thread)].pending.as_ref();
    moment.enabled & (1 << item.thread) != 0
        && pending.is_some_and(|pending| pending.accesses == item.accesses)
}
