//! Blocking mutexes with a name.

use std::ops::{Deref, DerefMut};
use std::panic::Location;
use std::time::Duration;

use crate::hook::{self, Action, Op, Outcome, Verdict, hooked};
use crate::name::Name;

/// A fatal signal ended a killable wait: `-EINTR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted;

/// How often a killable wait looks for a signal. Nobody is woken by a signal, so it is a poll.
const SIGNAL_POLL: Duration = Duration::from_millis(2);

/// A mutex of the kernel.
#[derive(Debug)]
pub struct Mutex<T> {
    name: Name,
    inner: parking_lot::Mutex<T>,
}

impl<T> Mutex<T> {
    /// Makes a mutex of this name.
    pub const fn new(name: Name, value: T) -> Mutex<T> {
        Mutex {
            name,
            inner: parking_lot::Mutex::new(value),
        }
    }

    /// The mutex's name.
    pub const fn name(&self) -> Name {
        self.name
    }

    /// `mutex_lock`: waits as long as it takes.
    #[inline]
    #[track_caller]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.lock_nested(None)
    }

    /// `mutex_lock_nest_lock`: like [`lock`](Mutex::lock), where holding `nest` makes it safe to hold
    /// several mutexes of this class.
    #[inline]
    #[track_caller]
    pub fn lock_nested(&self, nest: Option<Name>) -> MutexGuard<'_, T> {
        if hooked() {
            let op = self.op(Action::Lock, nest);
            hook::before(&op);
            let inner = self.inner.lock();
            hook::after(&op, Outcome::Done);
            return self.guard(inner);
        }
        self.guard(self.inner.lock())
    }

    /// `mutex_lock_killable`: gives up when `killed` says that a fatal signal is pending.
    #[track_caller]
    pub fn lock_killable(
        &self,
        nest: Option<Name>,
        killed: impl Fn() -> bool,
    ) -> Result<MutexGuard<'_, T>, Interrupted> {
        self.take_killable(self.op(Action::LockKillable, nest), killed)
    }

    /// `mutex_lock_killable_nested`: as [`lock_killable`](Mutex::lock_killable), where another mutex of
    /// this class is held and `depth` tells the two apart (`SINGLE_DEPTH_NESTING` is 1).
    #[track_caller]
    pub fn lock_killable_at_depth(
        &self,
        depth: u8,
        killed: impl Fn() -> bool,
    ) -> Result<MutexGuard<'_, T>, Interrupted> {
        let op = Op {
            arg: u64::from(depth),
            ..self.op(Action::LockKillable, None)
        };
        self.take_killable(op, killed)
    }

    fn take_killable(
        &self,
        op: Op,
        killed: impl Fn() -> bool,
    ) -> Result<MutexGuard<'_, T>, Interrupted> {
        let hooked = hooked();
        if hooked && hook::before(&op) == Verdict::Interrupted {
            hook::after(&op, Outcome::Interrupted);
            return Err(Interrupted);
        }
        let taken = self.wait(killed);
        if hooked {
            let outcome = match &taken {
                Some(_) => Outcome::Done,
                None => Outcome::Interrupted,
            };
            hook::after(&op, outcome);
        }
        let inner = taken.ok_or(Interrupted)?;
        Ok(self.guard_at(inner, op.site))
    }

    fn wait(&self, killed: impl Fn() -> bool) -> Option<parking_lot::MutexGuard<'_, T>> {
        loop {
            // A free lock is taken even with a signal pending, as the kernel does.
            if let Some(inner) = self.inner.try_lock() {
                return Some(inner);
            }
            if killed() {
                return None;
            }
            if let Some(inner) = self.inner.try_lock_for(SIGNAL_POLL) {
                return Some(inner);
            }
        }
    }

    /// `mutex_trylock`: takes the mutex if it is free.
    #[track_caller]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let (op, hooked) = (self.op(Action::TryLock, None), hooked());
        if hooked {
            hook::before(&op);
        }
        let inner = self.inner.try_lock();
        if hooked {
            let outcome = match &inner {
                Some(_) => Outcome::Done,
                None => Outcome::Busy,
            };
            hook::after(&op, outcome);
        }
        inner.map(|inner| self.guard_at(inner, op.site))
    }

    /// Whether somebody holds the mutex now. For invariants and reports only.
    pub fn is_locked(&self) -> bool {
        self.inner.is_locked()
    }

    #[track_caller]
    fn op(&self, action: Action, nest: Option<Name>) -> Op {
        Op {
            action,
            name: self.name,
            nest,
            arg: 0,
            site: Location::caller(),
        }
    }

    #[track_caller]
    fn guard<'a>(&'a self, inner: parking_lot::MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.guard_at(inner, Location::caller())
    }

    fn guard_at<'a>(
        &'a self,
        inner: parking_lot::MutexGuard<'a, T>,
        site: &'static Location<'static>,
    ) -> MutexGuard<'a, T> {
        MutexGuard {
            mutex: self,
            inner: Some(inner),
            site,
        }
    }
}

/// Proof that a [`Mutex`] is held; gives it back when dropped.
#[derive(Debug)]
pub struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    // None only while it is being dropped.
    inner: Option<parking_lot::MutexGuard<'a, T>>,
    site: &'static Location<'static>,
}

impl<T> MutexGuard<'_, T> {
    /// The mutex's name.
    pub fn name(&self) -> Name {
        self.mutex.name
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.inner {
            Some(inner) => inner,
            None => unreachable!("a guard has its lock until it is dropped"),
        }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        match &mut self.inner {
            Some(inner) => inner,
            None => unreachable!("a guard has its lock until it is dropped"),
        }
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        if !hooked() {
            return;
        }
        let op = Op {
            action: Action::Unlock,
            name: self.mutex.name,
            nest: None,
            arg: 0,
            site: self.site,
        };
        hook::before(&op);
        self.inner = None;
        hook::after(&op, Outcome::Done);
    }
}
