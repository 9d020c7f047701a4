//! The operations of one execution, in the order they were done.

use seamlock_sync::{Action, Outcome};

use crate::access::{Access, Accesses, Class};
use crate::clock::Clock;
use crate::object::{NONE, Object};
use crate::shadow::acquires;
use crate::thread::Pending;

/// One operation that was done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) thread: u8,
    pub(crate) action: Action,
    pub(crate) accesses: Accesses,
    pub(crate) arg: u64,
    pub(crate) outcome: Outcome,
    /// Its number among the thread's events, from 1.
    pub(crate) number: u16,
    /// What happens before it, itself included.
    pub(crate) clock: Clock,
    /// The thread's event before it.
    pub(crate) own: u32,
    /// The event before it on its object.
    pub(crate) before: u32,
    /// The event before it on its object that excludes others.
    pub(crate) alone: u32,
    /// The same two on the thread's signals.
    pub(crate) signal: [u32; 2],
}

impl Event {
    /// An event that nothing is known of but what was announced.
    #[inline]
    pub(crate) fn bare(thread: u8, pending: &Pending) -> Event {
        Event {
            thread,
            action: pending.action,
            accesses: pending.accesses,
            arg: pending.arg,
            outcome: Outcome::Done,
            number: 0,
            clock: Clock::default(),
            own: NONE,
            before: NONE,
            alone: NONE,
            signal: [NONE; 2],
        }
    }

    /// Whether this event happens before, or is, the one with this clock.
    #[inline]
    pub(crate) fn known_to(&self, clock: &Clock) -> bool {
        clock.at(self.thread) >= self.number
    }

    /// Whether its thread holds the object from here on.
    #[inline]
    pub(crate) fn acquires(&self) -> bool {
        acquires(self.action, self.outcome)
    }

    /// Whether it wrote to its object, a cell, or notified it, a queue.
    #[inline]
    pub(crate) fn turns(&self) -> bool {
        let writes = matches!(
            self.action,
            Action::Store | Action::Update | Action::Add | Action::Notify
        );
        writes && self.outcome != Outcome::Busy
    }

    /// What it does to this object, if anything.
    #[inline]
    pub(crate) fn on(&self, object: u32) -> Option<Access> {
        self.accesses.list().find(|access| access.object == object)
    }

    /// The event before it on this object.
    #[inline]
    pub(crate) fn before_on(&self, object: u32) -> u32 {
        if self.accesses.first.object == object {
            self.before
        } else {
            self.signal[0]
        }
    }
}

/// The events of the current execution, and those of the one before that will come again.
#[derive(Debug, Default)]
pub(crate) struct Log {
    events: Vec<Event>,
    len: usize,
    /// The first so many events are the same as in the execution before.
    known: usize,
}

impl Log {
    /// Starts another execution whose first `known` events must be those of the last.
    pub(crate) fn restart(&mut self, known: usize) {
        self.known = known.min(self.len);
        self.len = 0;
    }

    /// How many events were done.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// How many events must be those of the last execution.
    #[inline]
    pub(crate) fn known(&self) -> usize {
        self.known
    }

    /// The event that must come next, if it is known.
    #[inline]
    pub(crate) fn expected(&self) -> Option<&Event> {
        if self.len < self.known {
            self.events.get(self.len)
        } else {
            None
        }
    }

    /// The expected event has come.
    #[inline]
    pub(crate) fn advance(&mut self) {
        self.len += 1;
    }

    /// Adds a new event and returns its number.
    #[inline]
    pub(crate) fn push(&mut self, event: Event) {
        if self.len < self.events.len() {
            self.events[self.len] = event;
        } else {
            self.events.push(event);
        }
        self.len += 1;
    }

    /// The events that were done.
    #[inline]
    pub(crate) fn done(&self) -> &[Event] {
        &self.events[..self.len]
    }

    /// The last event that was done.
    #[inline]
    pub(crate) fn last_mut(&mut self) -> Option<&mut Event> {
        self.events[..self.len].last_mut()
    }

    /// Lets `clock` know of the releases of an object, as far back as one that knows of all before.
    pub(crate) fn learn_releases(&self, object: &Object, access: Access, clock: &mut Clock) {
        let mut at = object.last;
        while at != NONE {
            let event = &self.events[at as usize];
            let Some(other) = event.on(access.object) else {
                return;
            };
            if access.class.conflicts() & other.class.bit() != 0 {
                clock.join(&event.clock);
            }
            if other.class == Class::Release {
                return;
            }
            at = event.before_on(access.object);
        }
    }

    /// What a thread knew before the event that follows its event number `own`.
    #[inline]
    pub(crate) fn clock_of(&self, own: u32) -> Clock {
        if own == NONE {
            Clock::default()
        } else {
            self.events[own as usize].clock
        }
    }
}
