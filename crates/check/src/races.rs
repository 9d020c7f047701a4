//! Races: two operations that could have come in the other order.
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

use seamlock_sync::Action;

use crate::access::{AWAIT, Access, Accesses, Class, EXCLUSIVE, NOTHING, RELEASE};
use crate::clock::Clock;
use crate::dpor::{Dpor, Scratch};
use crate::engine::Engine;
use crate::log::Event;
use crate::object::NONE;
use crate::shadow::blocking;

/// The second operation of a race: done, or for ever waiting.
pub(crate) struct Second {
    pub(crate) thread: u8,
    pub(crate) action: Action,
    pub(crate) accesses: Accesses,
    pub(crate) arg: u64,
    // The last events before it on its object: any, and one that excludes others.
    pub(crate) before: u32,
    pub(crate) alone: u32,
    pub(crate) signal: [u32; 2],
    // What its thread knew before it.
    pub(crate) clock: Clock,
    // It is waiting for ever.
    pub(crate) blocked: bool,
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
            clock: engine.log.clock_of(thread.own),
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
