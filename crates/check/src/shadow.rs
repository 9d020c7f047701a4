//! Who holds an object, and who has to wait for it.
//!
//! A blocking lock must be free before a thread is let into the real one, so the checker keeps count
//! of who holds what from the first operation of a scenario on, its set-up included.

use seamlock_sync::{Action, Outcome};

use crate::clock::MAX_THREADS;

/// The thread number of a scenario's set-up.
pub(crate) const SETUP: u8 = MAX_THREADS as u8;
/// Nobody.
pub(crate) const NOBODY: u8 = u8::MAX;

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
