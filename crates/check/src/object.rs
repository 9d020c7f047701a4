//! The checker's own picture of every lock, word, queue and cell that a scenario touches: how it is held
//! ([`Shadow`]), and what was done to it.

use std::collections::BTreeMap;

use seamlock_sync::Name;

use crate::access::{AWAIT, Access, Class};
use crate::clock::Clock;
use crate::log::Log;
use crate::shadow::Shadow;

/// No event.
pub(crate) const NONE: u32 = u32::MAX;

/// One object.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) name: Name,
    pub(crate) fingerprint: u64,
    run: u64,
    // The threads that did something to it in any run. Wider than `threads`, or the compiler updates the
    // two with one wide load right after narrow stores next to them, and waits for those.
    ever: u64,
    /// As it is now.
    pub(crate) shadow: Shadow,
    // As it was before the first thread touched it.
    initial: Shadow,
    clocks: [Clock; 6],
    present: u8,
    /// All classes of operations that the threads of this run did to it.
    pub(crate) seen: u8,
    /// The threads that did something to it in this run.
    pub(crate) threads: u16,
    /// The threads whose next operation may have to wait for it.
    pub(crate) waiters: u16,
    /// The last event on it.
    pub(crate) last: u32,
    /// The last event on it that excludes others.
    pub(crate) last_alone: u32,
}

impl Object {
    /// Lets `clock` know of everything on this object that an operation of this class conflicts with;
    /// not for [`Class::Await`], which does not conflict with what may stand for releases here.
    #[inline]
    pub(crate) fn learn(&self, class: Class, clock: &mut Clock) {
        let mut wanted = class.conflicts() & self.present;
        while wanted != 0 {
            clock.join(&self.clocks[wanted.trailing_zeros() as usize]);
            wanted &= wanted - 1;
        }
    }

    /// A thread does something to it.
    #[inline]
    pub(crate) fn touch(&mut self, thread: u8) {
        self.ever |= 1 << thread;
    }

    /// Whether no other thread has ever done anything to it, and this one has.
    #[inline]
    pub(crate) fn only_of(&self, thread: u8) -> bool {
        self.ever == 1 << thread
    }

    /// How often a cell had been written, or a queue notified, when a thread looked at it last. Counted
    /// from the start of the threads, so that it is the same in every order that keeps those before it.
    /// One that never looked has nothing to wait for: no object was ever changed so often.
    pub(crate) fn looked_at(&self, log: &Log, number: u32, thread: u8) -> u64 {
        let mut since = 0;
        for event in log.done().iter().rev() {
            if event.accesses.first.object != number {
                continue;
            }
            if event.thread == thread {
                return self.shadow.turns - since;
            }
            since += u64::from(event.turns());
        }
        u64::MAX
    }

    /// As it was before the first thread touched it.
    pub(crate) fn initial(&self) -> &Shadow {
        if self.last == NONE {
            &self.shadow
        } else {
            &self.initial
        }
    }

    #[inline]
    fn record(&mut self, class: Class, thread: u8, clock: &Clock, index: u32) {
        if self.last == NONE {
            self.initial = self.shadow;
        }
        let slot = class as usize;
        match class {
            Class::Exclusive | Class::Release => {
                // It knows all that was before, but for what it does not conflict with.
                self.present &= AWAIT & !class.conflicts();
                self.clocks[slot] = *clock;
                self.last_alone = index;
            }
            _ if self.present & class.bit() != 0 => self.clocks[slot].join(clock),
            _ => self.clocks[slot] = *clock,
        }
        self.present |= class.bit();
        self.seen |= class.bit();
        self.threads |= 1 << thread;
        self.touch(thread);
        self.last = index;
    }
}

/// All objects of a scenario. They keep their numbers from run to run.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    all: Vec<Object>,
    by_name: BTreeMap<u64, u32>,
    run: u64,
    // How to take back what the events of this run did, the last first.
    undo: Vec<Undo>,
}

/// What an object was before an event.
#[derive(Debug)]
struct Undo {
    clock: Clock,
    index: u32,
    object: u32,
    lasts: (u32, u32),
    sets: (u8, u8, u16),
    class: Class,
}

impl Objects {
    /// Starts another run: every object is free. What the first `known` events did to the objects'
    /// histories stays, for they will come again; the rest is taken back.
    pub(crate) fn restart(&mut self, known: usize) {
        self.run += 1;
        while let Some(undo) = self.undo.pop_if(|undo| undo.index as usize >= known) {
            let object = &mut self.all[undo.object as usize];
            object.clocks[undo.class as usize] = undo.clock;
            (object.present, object.seen, object.threads) = undo.sets;
            (object.last, object.last_alone) = undo.lasts;
        }
    }

    /// Records event number `index`, of this thread and with this clock, on an object.
    #[inline]
    pub(crate) fn record(&mut self, access: Access, thread: u8, clock: &Clock, index: u32) {
        let object = &mut self.all[access.object as usize];
        self.undo.push(Undo {
            clock: object.clocks[access.class as usize],
            index,
            object: access.object,
            lasts: (object.last, object.last_alone),
            sets: (object.present, object.seen, object.threads),
            class: access.class,
        });
        object.record(access.class, thread, clock, index);
    }

    /// The number of the object of this name; `guess` is a number that it may well have.
    #[inline]
    pub(crate) fn number(&mut self, name: &Name, guess: u32) -> u32 {
        match self.all.get(guess as usize) {
            Some(object) if same(&object.name, name) => self.fresh(guess),
            _ => self.look_up(name),
        }
    }

    fn look_up(&mut self, name: &Name) -> u32 {
        let fingerprint = name.fingerprint();
        let next = self.all.len() as u32;
        let number = *self.by_name.entry(fingerprint).or_insert(next);
        if number == next {
            self.all.push(Object {
                name: *name,
                fingerprint,
                run: 0,
                ever: 0,
                shadow: Shadow::FREE,
                initial: Shadow::FREE,
                clocks: [Clock::default(); 6],
                present: 0,
                seen: 0,
                threads: 0,
                waiters: 0,
                last: NONE,
                last_alone: NONE,
            });
        }
        let known = &self.all[number as usize].name;
        assert!(
            known == name,
            "{known} and {name} have the same fingerprint"
        );
        self.fresh(number)
    }

    /// The object of this number as a run finds it.
    #[inline]
    pub(crate) fn fresh(&mut self, number: u32) -> u32 {
        let object = &mut self.all[number as usize];
        if object.run != self.run {
            object.run = self.run;
            object.shadow = Shadow::FREE;
            object.waiters = 0;
        }
        number
    }

    #[inline]
    pub(crate) fn at(&self, number: u32) -> &Object {
        &self.all[number as usize]
    }

    #[inline]
    pub(crate) fn at_mut(&mut self, number: u32) -> &mut Object {
        &mut self.all[number as usize]
    }

    /// The object of this name, if this run has touched it.
    pub(crate) fn find(&self, name: &Name) -> Option<&Object> {
        let number = self.by_name.get(&name.fingerprint())?;
        Some(self.at(*number)).filter(|object| object.run == self.run)
    }

    /// The objects that somebody holds now, by name.
    pub(crate) fn held(&self) -> Vec<&Object> {
        let live = |object: &&Object| object.run == self.run;
        let mut held: Vec<&Object> = self
            .all
            .iter()
            .filter(live)
            .filter(|o| o.shadow.holders().next().is_some())
            .collect();
        held.sort_by_key(|object| object.name);
        held
    }
}

#[inline]
pub(crate) fn same(a: &Name, b: &Name) -> bool {
    a.a == b.a && a.b == b.b && (std::ptr::eq(a.class, b.class) || a.class == b.class)
}

#[cfg(test)]
mod tests {
    use seamlock_sync::{Action, Class as LockClass, Outcome};

    use super::*;

    static LOCK: LockClass = LockClass::new("lock");

    #[test]
    fn objects_keep_their_numbers_but_not_their_holders() {
        let mut objects = Objects::default();
        objects.restart(0);
        let one = objects.number(&LOCK.at(1), NONE);
        let two = objects.number(&LOCK.at(2), one);
        assert_ne!(one, two);
        objects
            .at_mut(one)
            .shadow
            .apply(0, Action::Lock, Outcome::Done);
        assert_eq!(objects.held().len(), 1);
        objects.restart(0);
        assert_eq!(objects.number(&LOCK.at(1), two), one);
        assert_eq!(objects.at(one).shadow, Shadow::FREE);
        assert!(objects.find(&LOCK.at(2)).is_none());
    }
}
