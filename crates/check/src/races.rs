//! Races: two operations that could have come in the other order, and what to explore so that they do.
//!
//! For each race the sequence *everything that does not depend on the first operation, then the second*
//! is put into the wakeup tree at the point before the first, unless a sleeping thread covers it. This
//! is done for all races of every execution, those that were there in the execution before included:
//! the sequence goes on to the end of the execution, so it is another one. (Doing it once, when the
//! second operation is new, loses a trace in one of some hundred small programs.)
//!
//! Three things are particular to operations that wait:
//!
//! * Two acquisitions of a blocking lock race although the holder gave the lock back in between: the
//!   order that a release makes is ignored when races are looked for, and only then.
//! * A thread that is still waiting when nothing can go on races with those that hold what it waits
//!   for. Without that, an execution that ends in a deadlock hides the traces in which it was first.
//! * The second operation must be able to go on at the point where it is put. Where readers that come
//!   earlier in the sequence would keep it out, they and what depends on them are cut out too.

use seamlock_sync::{Action, Outcome};

use crate::access::{
    AWAIT, Access, Accesses, Class, EXCLUSIVE, NOTHING, RELEASE, RELEASE_SHARED, SHARED,
};
use crate::clock::Clock;
use crate::dpor::{Dpor, Scratch};
use crate::engine::Engine;
use crate::log::Event;
use crate::object::{NOBODY, NONE, blocking};
use crate::wakeup::Item;

/// The second operation of a race: done, or for ever waiting.
struct Second {
    thread: u8,
    action: Action,
    accesses: Accesses,
    arg: u64,
    // The last events before it on its object: any, and one that excludes others.
    before: u32,
    alone: u32,
    signal: [u32; 2],
    // What its thread knew before it.
    clock: Clock,
    // It is waiting for ever.
    blocked: bool,
}

impl Second {
    fn event(engine: &Engine, at: u32) -> Second {
        let event = &engine.log.done()[at as usize];
        Second {
            thread: event.thread,
            action: event.action,
            accesses: event.accesses,
            arg: event.arg,
            before: event.before,
            alone: event.alone,
            signal: event.signal,
            clock: engine.log.clock_of(event.own),
            blocked: false,
        }
    }
}

impl Dpor {
    /// Looks at the whole execution.
    pub(crate) fn find_races(&mut self, engine: &Engine) {
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut races = std::mem::take(&mut self.races);
        self.new_races(engine, &mut races, &mut scratch);
        for &(first, second) in &races {
            let second = Second::event(engine, second);
            self.reverse(engine, first, &second, &mut scratch);
        }
        if !self.faults.no_blocked_race {
            for second in blocked(engine) {
                self.firsts(engine, &second, &mut scratch.candidates);
                while let Some(first) = scratch.candidates.pop() {
                    self.reverse(engine, first, &second, &mut scratch);
                }
            }
        }
        (self.scratch, self.races) = (scratch, races);
    }

    /// Brings the list of races up to date: those of events that came again are known.
    fn new_races(&mut self, engine: &Engine, races: &mut Vec<(u32, u32)>, scratch: &mut Scratch) {
        let events = engine.log.done();
        let known = engine.log.known().min(events.len());
        let kept = races.partition_point(|race| (race.1 as usize) < known);
        races.truncate(kept);
        for own in &mut self.own {
            let kept = own.partition_point(|&at| (at as usize) < known);
            own.truncate(kept);
        }
        for (at, event) in events.iter().enumerate().skip(known) {
            self.own[usize::from(event.thread)].push(at as u32);
            let object = engine.objects.at(event.accesses.first.object);
            if object.threads.is_power_of_two() && event.accesses.signal == NOTHING {
                continue;
            }
            let second = at as u32;
            self.firsts(
                engine,
                &Second::event(engine, second),
                &mut scratch.candidates,
            );
            races.extend(scratch.candidates.iter().map(|&first| (first, second)));
        }
    }

    /// The events that race with `second`, as first of the two.
    fn firsts(&self, engine: &Engine, second: &Second, out: &mut Vec<u32>) {
        out.clear();
        let waits = blocking(second.action);
        let locks = matches!(second.action, Action::Lock | Action::LockKillable);
        if locks || second.action == Action::LockShared {
            if !self.faults.no_lock_race || second.blocked {
                holds(engine, second, out);
            }
        } else {
            accesses(engine, second, second.accesses.first, out);
        }
        if second.accesses.signal != NOTHING {
            let signal = Access {
                object: second.accesses.signal,
                class: Class::Shared,
            };
            accesses(engine, second, signal, out);
        } else if !waits && out.len() > 1 {
            immediate(engine.log.done(), out);
        }
    }

    /// Adds what has to be explored so that `second` comes before event number `first`.
    fn reverse(&mut self, engine: &Engine, first: u32, second: &Second, scratch: &mut Scratch) {
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
            never_woken: self.faults.weak_initials,
        };
        let mut left = mask;
        while left != 0 {
            let slot = left.trailing_zeros() as usize;
            left &= left - 1;
            let own = &self.own[slot];
            sleepers.next[slot] = match own.get(own.partition_point(|&at| at < first)) {
                Some(&at) => Some(engine.log.done()[at as usize].accesses),
                None => {
                    let pending = engine.threads[slot].pending.as_ref();
                    pending.map(|pending| pending.accesses)
                }
            };
        }
        sleepers
    }
}

/// Threads that sleep, while a sequence is gone through: one that nothing in the sequence conflicts
/// with up to its own next operation covers the sequence, for it can come first.
struct Sleepers {
    mask: u16,
    next: [Option<Accesses>; 16],
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

/// The threads that wait for ever.
fn blocked(engine: &Engine) -> Vec<Second> {
    let waiting = |slot: &usize| engine.live & (1 << slot) != 0;
    let second = |slot: usize| {
        let thread = &engine.threads[slot];
        let pending = thread
            .pending
            .as_ref()
            .filter(|pending| blocking(pending.action))?;
        let object = engine.objects.at(pending.accesses.first.object);
        let signal = match pending.accesses.signal {
            NOTHING => [NONE; 2],
            signal => [
                engine.objects.at(signal).last,
                engine.objects.at(signal).last_alone,
            ],
        };
        Some(Second {
            thread: slot as u8,
            action: pending.action,
            accesses: pending.accesses,
            arg: pending.arg,
            before: object.last,
            alone: object.last_alone,
            signal,
            clock: thread.clock,
            blocked: true,
        })
    };
    (0..engine.threads.len())
        .filter(waiting)
        .filter_map(second)
        .collect()
}

/// Events that kept, or could have kept, the lock from `second`: the last that took it alone, or all
/// that shared it since then.
fn holds(engine: &Engine, second: &Second, out: &mut Vec<u32>) {
    let events = engine.log.done();
    let object = second.accesses.first.object;
    let alone = second.action == Action::LockShared;
    let interruptible = second.accesses.signal != NOTHING;
    let mut shared = false;
    let mut at = if alone { second.alone } else { second.before };
    while at != NONE {
        let event = &events[at as usize];
        let takes = event.acquires();
        let exclusive = event
            .on(object)
            .is_some_and(|access| access.class == Class::Exclusive);
        let wanted = takes && (!exclusive || !shared) || interruptible;
        if wanted && (exclusive || !alone) {
            push(event, at, second, out);
        }
        if takes && exclusive {
            return;
        }
        shared |= takes;
        at = if alone {
            event.alone
        } else {
            event.before_on(object)
        };
    }
}

/// The last event of each other thread that conflicts with the access.
fn accesses(engine: &Engine, second: &Second, access: Access, out: &mut Vec<u32>) {
    let events = engine.log.done();
    let object = engine.objects.at(access.object);
    let conflicts = access.class.conflicts();
    let present = object.seen & conflicts;
    let first = access.object == second.accesses.first.object;
    let [before, alone] = if first {
        [second.before, second.alone]
    } else {
        second.signal
    };
    let awaited = present & AWAIT != 0;
    let mut at = if present & !(EXCLUSIVE | RELEASE) == 0 {
        alone
    } else {
        before
    };
    let mut handled = 0u16;
    while at != NONE {
        let event = &events[at as usize];
        let Some(other) = event.on(access.object) else {
            return;
        };
        if conflicts & other.class.bit() != 0 && handled & (1 << event.thread) == 0 {
            handled |= 1 << event.thread;
            push(event, at, second, out);
        }
        match other.class {
            Class::Release => return,
            Class::Exclusive if conflicts & EXCLUSIVE != 0 && !awaited => return,
            _ => at = event.before_on(access.object),
        }
    }
}

fn push(event: &Event, at: u32, second: &Second, out: &mut Vec<u32>) {
    if event.thread != second.thread && !event.known_to(&second.clock) && !out.contains(&at) {
        out.push(at);
    }
}

/// Keeps the candidates that no other candidate comes after.
fn immediate(events: &[Event], candidates: &mut Vec<u32>) {
    let all = candidates.clone();
    candidates.retain(|&one| {
        let event = &events[one as usize];
        !all.iter()
            .any(|&other| other != one && event.known_to(&events[other as usize].clock))
    });
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
        // How often a queue had been notified is not the same in another order.
        let outcome = match event.outcome {
            Outcome::Value(_) => Outcome::Done,
            outcome => outcome,
        };
        shadow.apply(event.thread, event.action, outcome);
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
