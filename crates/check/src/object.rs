//! The checker's own picture of every lock, word, queue and cell that a scenario touches.
//!
//! A blocking lock must be free before a thread is let into the real one, so the checker keeps count
//! of who holds what from the first operation of a scenario on, its set-up included.

use std::collections::BTreeMap;

use seamlock_sync::{Action, Name, Outcome};

use crate::access::{AWAIT, Access, Class};
use crate::clock::{Clock, MAX_THREADS};
use crate::log::Log;

/// The thread number of a scenario's set-up.
pub(crate) const SETUP: u8 = MAX_THREADS as u8;
/// Nobody.
pub(crate) const NOBODY: u8 = u8::MAX;
/// No event.
pub(crate) const NONE: u32 = u32::MAX;

/// Who holds an object, and how often it was given back or notified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shadow {
    /// Who holds it alone.
    pub(crate) writer: u8,
    /// How often each thread shares it.
    pub(crate) readers: [u8; MAX_THREADS + 1],
    /// The sum of `readers`.
    pub(crate) shared: u16,
    /// Notifications of a queue, releases of a lock, or writes to a cell.
    pub(crate) turns: u64,
}

impl Shadow {
    pub(crate) const FREE: Shadow = Shadow {
        writer: NOBODY,
        readers: [0; MAX_THREADS + 1],
        shared: 0,
        turns: 0,
    };

    /// Whether an operation that may block can go on; `arg` is the turn that a waiter has seen.
    #[inline]
    pub(crate) fn lets(&self, action: Action, arg: u64) -> bool {
        match action {
            Action::Lock | Action::LockKillable => self.writer == NOBODY && self.shared == 0,
            Action::LockShared => self.writer == NOBODY,
            Action::Wait
            | Action::WaitUninterruptible
            | Action::AwaitRelease
            | Action::AwaitChange => self.turns != arg,
            _ => true,
        }
    }

    /// The operation was done.
    #[inline]
    pub(crate) fn apply(&mut self, thread: u8, action: Action, outcome: Outcome) {
        if matches!(outcome, Outcome::Busy | Outcome::Interrupted) {
            return;
        }
        match action {
            Action::Lock | Action::LockKillable | Action::TryLock | Action::TryExclusive => {
                self.writer = thread;
            }
            Action::LockShared | Action::TryShared => self.share(thread),
            Action::Promote => {
                self.unshare(thread);
                self.writer = thread;
            }
            Action::Demote => {
                self.writer = NOBODY;
                self.share(thread);
                self.turns += 1;
            }
            Action::Unlock | Action::ReleaseExclusive => {
                self.writer = NOBODY;
                self.turns += 1;
            }
            Action::UnlockShared | Action::ReleaseShared => {
                self.unshare(thread);
                self.turns += 1;
            }
            Action::Notify => self.turns += 1,
            Action::Store | Action::Update | Action::Add => self.turns += 1,
            _ => {}
        }
    }

    fn share(&mut self, thread: u8) {
        self.readers[usize::from(thread)] += 1;
        self.shared += 1;
    }

    /// A hold may be given back by another thread than took it; the set-up's holds are.
    fn unshare(&mut self, thread: u8) {
        let mine = usize::from(thread);
        let holder = if self.readers[mine] > 0 {
            mine
        } else {
            usize::from(SETUP)
        };
        self.readers[holder] = self.readers[holder].saturating_sub(1);
        self.shared = self.shared.saturating_sub(1);
    }

    /// Who holds it, and whether alone.
    pub(crate) fn holders(&self) -> impl Iterator<Item = (u8, bool)> + '_ {
        let alone = (self.writer != NOBODY).then_some((self.writer, true));
        let sharing = (0..=SETUP).filter(|&t| self.readers[usize::from(t)] > 0);
        alone.into_iter().chain(sharing.map(|t| (t, false)))
    }
}

/// Whether the operation, having ended so, holds its object from now on.
pub(crate) fn acquires(action: Action, outcome: Outcome) -> bool {
    let takes = matches!(
        action,
        Action::Lock
            | Action::LockKillable
            | Action::TryLock
            | Action::TryExclusive
            | Action::LockShared
            | Action::TryShared
            | Action::Promote
            | Action::Demote
    );
    takes && !matches!(outcome, Outcome::Busy | Outcome::Interrupted)
}

/// Whether an operation of this kind can find that it has to wait.
#[inline]
pub(crate) fn blocking(action: Action) -> bool {
    matches!(
        action,
        Action::Lock
            | Action::LockKillable
            | Action::LockShared
            | Action::Wait
            | Action::WaitUninterruptible
            | Action::AwaitRelease
            | Action::AwaitChange
    )
}

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
    use seamlock_sync::Class as LockClass;

    use super::*;

    static LOCK: LockClass = LockClass::new("lock");

    #[test]
    fn a_lock_lets_a_writer_in_when_nobody_holds_it() {
        let mut shadow = Shadow::FREE;
        assert!(shadow.lets(Action::Lock, 0));
        shadow.apply(1, Action::LockShared, Outcome::Done);
        shadow.apply(2, Action::LockShared, Outcome::Done);
        assert!(shadow.lets(Action::LockShared, 0) && !shadow.lets(Action::Lock, 0));
        assert_eq!(
            shadow.holders().collect::<Vec<_>>(),
            [(1, false), (2, false)]
        );
        shadow.apply(1, Action::UnlockShared, Outcome::Done);
        shadow.apply(2, Action::UnlockShared, Outcome::Done);
        shadow.apply(3, Action::Lock, Outcome::Done);
        assert!(!shadow.lets(Action::LockShared, 0));
        assert_eq!(shadow.holders().collect::<Vec<_>>(), [(3, true)]);
    }

    #[test]
    fn a_refused_attempt_holds_nothing() {
        let mut shadow = Shadow::FREE;
        shadow.apply(1, Action::TryExclusive, Outcome::Done);
        shadow.apply(2, Action::TryShared, Outcome::Busy);
        assert_eq!(shadow.holders().collect::<Vec<_>>(), [(1, true)]);
        assert!(acquires(Action::TryExclusive, Outcome::Done));
        assert!(!acquires(Action::TryShared, Outcome::Busy));
    }

    #[test]
    fn a_waiter_goes_on_after_the_next_turn() {
        let mut shadow = Shadow::FREE;
        assert!(!shadow.lets(Action::Wait, 0));
        shadow.apply(1, Action::Notify, Outcome::Value(1));
        assert!(shadow.lets(Action::Wait, 0) && !shadow.lets(Action::Wait, 1));
    }

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
