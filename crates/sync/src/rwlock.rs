//! Blocking reader-writer locks with a name: `mmu_lock`, a guest_memfd's `filemap_invalidate_lock`,
//! `cpus_read_lock`.

use std::ops::{Deref, DerefMut};
use std::panic::Location;

use crate::hook::{self, Action, Op, Outcome, hooked};
use crate::name::Name;

/// A reader-writer lock of the kernel.
#[derive(Debug)]
pub struct RwLock<T> {
    name: Name,
    inner: parking_lot::RwLock<T>,
}

impl<T> RwLock<T> {
    /// Makes a lock of this name.
    pub const fn new(name: Name, value: T) -> RwLock<T> {
        RwLock {
            name,
            inner: parking_lot::RwLock::new(value),
        }
    }

    /// The lock's name.
    pub const fn name(&self) -> Name {
        self.name
    }

    /// Takes the lock together with other readers. A reader may take it again while it holds it, as
    /// the kernel's read side may.
    #[track_caller]
    pub fn read(&self) -> ReadGuard<'_, T> {
        let site = Location::caller();
        if hooked() {
            let op = self.op(Action::LockShared, site);
            hook::before(&op);
            let inner = self.inner.read_recursive();
            hook::after(&op, Outcome::Done);
            return ReadGuard {
                lock: self,
                inner: Some(inner),
                site,
            };
        }
        ReadGuard {
            lock: self,
            inner: Some(self.inner.read_recursive()),
            site,
        }
    }

    /// Takes the lock alone.
    #[track_caller]
    pub fn write(&self) -> WriteGuard<'_, T> {
        let site = Location::caller();
        if hooked() {
            let op = self.op(Action::Lock, site);
            hook::before(&op);
            let inner = self.inner.write();
            hook::after(&op, Outcome::Done);
            return WriteGuard {
                lock: self,
                inner: Some(inner),
                site,
            };
        }
        WriteGuard {
            lock: self,
            inner: Some(self.inner.write()),
            site,
        }
    }

    /// Whether somebody holds the lock now. For invariants and reports only.
    pub fn is_locked(&self) -> bool {
        self.inner.is_locked()
    }

    fn op(&self, action: Action, site: &'static Location<'static>) -> Op {
        Op {
            action,
            name: self.name,
            nest: None,
            arg: 0,
            site,
        }
    }
}

/// Proof that an [`RwLock`] is held for reading.
#[derive(Debug)]
pub struct ReadGuard<'a, T> {
    lock: &'a RwLock<T>,
    inner: Option<parking_lot::RwLockReadGuard<'a, T>>,
    site: &'static Location<'static>,
}

/// Proof that an [`RwLock`] is held for writing.
#[derive(Debug)]
pub struct WriteGuard<'a, T> {
    lock: &'a RwLock<T>,
    inner: Option<parking_lot::RwLockWriteGuard<'a, T>>,
    site: &'static Location<'static>,
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.inner {
            Some(inner) => inner,
            None => unreachable!("a guard has its lock until it is dropped"),
        }
    }
}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.inner {
            Some(inner) => inner,
            None => unreachable!("a guard has its lock until it is dropped"),
        }
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        match &mut self.inner {
            Some(inner) => inner,
            None => unreachable!("a guard has its lock until it is dropped"),
        }
    }
}

impl<T> Drop for ReadGuard<'_, T> {
    fn drop(&mut self) {
        if hooked() {
            let op = self.lock.op(Action::UnlockShared, self.site);
            hook::before(&op);
            self.inner = None;
            hook::after(&op, Outcome::Done);
        }
    }
}

impl<T> Drop for WriteGuard<'_, T> {
    fn drop(&mut self) {
        if hooked() {
            let op = self.lock.op(Action::Unlock, self.site);
            hook::before(&op);
            self.inner = None;
            hook::after(&op, Outcome::Done);
        }
    }
}
