//! What to explore so that the second operation of a race comes before the first.

use seamlock_sync::Action;

use crate::access::{Accesses, NOTHING, RELEASE_SHARED, SHARED};
use crate::dpor::{Dpor, Scratch};
use crate::engine::Engine;
use crate::log::Event;
use crate::object::NONE;
use crate::races::Second;
use crate::shadow::{NOBODY, blocking};
use crate::wakeup::Item;

impl Dpor {
    /// Adds what has to be explored so that `second` comes before event number `first`.
    pub(crate) fn reverse(
        &mut self,
        engine: &Engine,
        first: u32,
        second: &Second,
        scratch: &mut Scratch,
    ) {
        scratch.cuts.clear();
        scratch.cuts.push(first);
        if may_be_kept_out(engine, second) {
            while let Some(blocker) = kept_out(engine, first, second, scratch) {
                match blocker {
                    Some(blocker) => scratch.cuts.push(blocker),
                    None => return,
                }
            }
        }
        let frame = self.frames[first as usize];
        let mut asleep = self.sleepers(engine, first, frame.sleep);
        if !sequence(engine.log.done(), first, &mut asleep, scratch) {
            return;
        }
        let item = Item {
            thread: second.thread,
            accesses: second.accesses,
        };
        if asleep.cover(&item) || asleep.any() {
            return;
        }
        scratch.sequence.push(item);
        let (branches, added) = self.forest.insert(frame.branches, &mut scratch.sequence);
        self.frames[first as usize].branches = branches;
        self.reversed += u64::from(added);
    }

    /// The sleeping threads at the point before event number `first`, with what they would do.
    fn sleepers(&self, engine: &Engine, first: u32, mask: u16) -> Sleepers {
        let mut sleepers = Sleepers {
            mask,
            next: [None; 16],
            objects: 0,
            never_woken: self.faults.weak_initials,
        };
        let mut left = mask;
        while left != 0 {
            let slot = left.trailing_zeros() as usize;
            left &= left - 1;
            let own = &self.own[slot];
            let next = match own.get(own.partition_point(|&at| at < first)) {
                Some(&at) => Some(engine.log.done()[at as usize].accesses),
                None => {
                    let pending = engine.threads[slot].pending.as_ref();
                    pending.map(|pending| pending.accesses)
                }
            };
            sleepers.objects |= next.as_ref().map_or(u64::MAX, objects);
            sleepers.next[slot] = next;
        }
        sleepers
    }
}

/// Threads that sleep, while a sequence is gone through: one that nothing in the sequence conflicts
/// with up to its own next operation covers the sequence, for it can come first.
struct Sleepers {
    mask: u16,
    next: [Option<Accesses>; 16],
    // A bit for each object of `next`, some of them the same.
    objects: u64,
    // A fault for tests: a thread counts as covering every sequence that it occurs in.
    never_woken: bool,
}

impl Sleepers {
    /// The sequence goes on with this; returns whether a sleeping thread covers it.
    #[inline]
    fn cover(&mut self, item: &Item) -> bool {
        if self.mask & (1 << item.thread) != 0 {
            return true;
        }
        if self.objects & objects(&item.accesses) == 0 {
            return false;
        }
        let mut left = self.mask;
        while left != 0 && !self.never_woken {
            let slot = left.trailing_zeros() as usize;
            left &= left - 1;
            if self.next[slot].is_none_or(|next| next.conflict(&item.accesses)) {
                self.mask &= !(1 << slot);
            }
        }
        false
    }

    /// Whether any thread sleeps on.
    fn any(&self) -> bool {
        self.mask != 0 && !self.never_woken
    }
}

/// A bit for each object that an operation has an effect on; without a common bit two do not conflict.
fn objects(accesses: &Accesses) -> u64 {
    let first = 1 << (accesses.first.object % 64);
    match accesses.signal {
        NOTHING => first,
        signal => first | 1 << (signal % 64),
    }
}

/// Collects what comes after event number `first` without depending on it or on another event that is
/// cut; `false` when a sleeping thread covers it.
fn sequence(events: &[Event], first: u32, asleep: &mut Sleepers, scratch: &mut Scratch) -> bool {
    let (cuts, out) = (&scratch.cuts, &mut scratch.sequence);
    out.clear();
    let cut = &events[first as usize];
    let more = &cuts[1..];
    for event in &events[first as usize + 1..] {
        let depends = |&cut: &u32| events[cut as usize].known_to(&event.clock);
        if cut.known_to(&event.clock) || more.iter().any(depends) {
            continue;
        }
        let item = Item {
            thread: event.thread,
            accesses: event.accesses,
        };
        if asleep.mask != 0 && asleep.cover(&item) {
            return false;
        }
        out.push(item);
    }
    true
}

/// Whether `second` could have to wait at the point where it is put. It cannot when its lock has no
/// readers: the lock was free before the first acquisition.
fn may_be_kept_out(engine: &Engine, second: &Second) -> bool {
    let seen = engine.objects.at(second.accesses.first.object).seen;
    let only_a_mutex = second.action == Action::Lock && seen & (SHARED | RELEASE_SHARED) == 0;
    blocking(second.action) && !only_a_mutex
}

/// `None` when `second` can go on after the sequence; else the event in the sequence that keeps it
/// out and can be cut as well, or `Some(None)` when there is none.
fn kept_out(
    engine: &Engine,
    first: u32,
    second: &Second,
    scratch: &mut Scratch,
) -> Option<Option<u32>> {
    let events = engine.log.done();
    let cuts = &scratch.cuts;
    let kept = |&at: &u32| {
        at < first
            || !cuts
                .iter()
                .any(|&cut| events[cut as usize].known_to(&events[at as usize].clock))
    };
    let mut shadow = *engine.objects.at(second.accesses.first.object).initial();
    let object = second.accesses.first.object;
    chain(events, object, second.before, &mut scratch.chain);
    for &at in scratch.chain.iter().filter(|at| kept(at)) {
        let event = &events[at as usize];
        shadow.apply(event.thread, event.action, event.outcome);
    }
    if shadow.lets(second.action, second.arg) {
        return None;
    }
    let holder = |&&at: &&u32| {
        let event = &events[at as usize];
        let holds = shadow.writer == event.thread && shadow.writer != NOBODY
            || shadow.readers[usize::from(event.thread)] > 0;
        kept(&at) && event.acquires() && holds
    };
    let blocker = scratch.chain.iter().rev().find(holder).copied();
    if signalled(engine, second, first, &scratch.cuts) {
        return None;
    }
    let free = |&at: &u32| at > first && !events[at as usize].known_to(&second.clock);
    Some(blocker.filter(free))
}

/// Whether a fatal signal comes before the point where `second` is put.
fn signalled(engine: &Engine, second: &Second, first: u32, cuts: &[u32]) -> bool {
    let number = second.accesses.signal;
    if number == NOTHING {
        return false;
    }
    let events = engine.log.done();
    let mut at = second.signal[0];
    while at != NONE {
        let event = &events[at as usize];
        let kept = at < first
            || !cuts
                .iter()
                .any(|&c| events[c as usize].known_to(&event.clock));
        if kept && event.action == Action::Notify {
            return true;
        }
        at = event.before_on(number);
    }
    engine.objects.at(number).initial().turns > 0
}

/// The events on an object up to event number `last`, in their order.
fn chain(events: &[Event], object: u32, last: u32, out: &mut Vec<u32>) {
    out.clear();
    let mut at = last;
    while at != NONE {
        out.push(at);
        at = events[at as usize].before_on(object);
    }
    out.reverse();
}
