//! Which operations commute.
//!
//! Two operations of different threads on one object *conflict* when their order can be told from
//! what they return, from what is left behind, or from who can go on afterwards. Everything else
//! commutes, and the checker runs only one of the two orders. The relation looks at the operations
//! alone and never at how they ended, so that it is the same in every run.
//!
//! | | changes alone | gives back alone | shares | gives back shared | counts | awaits |
//! |---|---|---|---|---|---|---|
//! | changes alone | x | x | x | x | x | |
//! | gives back alone | x | x | x | x | x | x |
//! | shares | x | x | | | x | |
//! | gives back shared | x | x | | | x | x |
//! | counts | x | x | x | x | | x |
//! | awaits | | x | | x | x | |
//!
//! # The mark that a refused host call leaves
//!
//! A refused host call sets the host-priority bit of a `sharex_hp` word, and the next one that gets
//! the word clears it. No host call's outcome depends on that bit: exclusive succeeds on 0 and on the
//! bit alone, promotion on one reader with or without it, shared on anything not held alone. Two
//! shared host attempts therefore commute, marks included: both add one reader, and either order
//! leaves the same bit. Only the guest side looks at the bit, so a *guest* attempt, even a shared one,
//! counts as a change (the hook sees it as a try with argument 1).

use seamlock_sync::{Action, Op};

/// No object.
pub(crate) const NOTHING: u32 = u32::MAX;

/// What an operation does to its object, as far as others can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Takes, tries or writes, alone.
    Exclusive,
    /// Gives back what was held alone.
    Release,
    /// Takes, tries or reads, together with others.
    Shared,
    /// Gives a shared hold back.
    ReleaseShared,
    /// Adds to a count that nobody who counts sees.
    Count,
    /// Waits for anybody to give back.
    Await,
}

pub(crate) const EXCLUSIVE: u8 = 1 << Class::Exclusive as u8;
pub(crate) const RELEASE: u8 = 1 << Class::Release as u8;
pub(crate) const SHARED: u8 = 1 << Class::Shared as u8;
pub(crate) const RELEASE_SHARED: u8 = 1 << Class::ReleaseShared as u8;
pub(crate) const COUNT: u8 = 1 << Class::Count as u8;
pub(crate) const AWAIT: u8 = 1 << Class::Await as u8;

impl Class {
    /// The classes that this one conflicts with.
    #[inline]
    pub(crate) const fn conflicts(self) -> u8 {
        match self {
            Class::Exclusive => EXCLUSIVE | RELEASE | SHARED | RELEASE_SHARED | COUNT,
            Class::Release => EXCLUSIVE | RELEASE | SHARED | RELEASE_SHARED | COUNT | AWAIT,
            Class::Shared => EXCLUSIVE | RELEASE | COUNT,
            Class::ReleaseShared => EXCLUSIVE | RELEASE | COUNT | AWAIT,
            Class::Count => EXCLUSIVE | RELEASE | SHARED | RELEASE_SHARED | AWAIT,
            Class::Await => RELEASE | RELEASE_SHARED | COUNT,
        }
    }

    /// The bit of this class.
    #[inline]
    pub(crate) const fn bit(self) -> u8 {
        1 << self as u8
    }

    /// The class of an operation on its own object.
    pub(crate) fn of(op: &Op) -> Class {
        match op.action {
            Action::Lock
            | Action::LockKillable
            | Action::TryLock
            | Action::TryExclusive
            | Action::Promote
            | Action::Store
            | Action::Update => Class::Exclusive,
            // A guest's attempt sees the host-priority mark, which shared host attempts clear.
            Action::TryShared if op.arg != 0 => Class::Exclusive,
            Action::Unlock | Action::ReleaseExclusive | Action::Demote => Class::Release,
            Action::LockShared
            | Action::TryShared
            | Action::Load
            | Action::Wait
            | Action::WaitUninterruptible
            | Action::AwaitChange
            | Action::Enter
            | Action::Leave
            | Action::Point => Class::Shared,
            Action::UnlockShared | Action::ReleaseShared => Class::ReleaseShared,
            Action::Notify | Action::Add => Class::Count,
            Action::AwaitRelease => Class::Await,
        }
    }
}

/// An operation's effect on one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) object: u32,
    pub(crate) class: Class,
}

/// All effects of one operation: on its object, and, for a wait that a signal may end, on the
/// thread's signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accesses {
    pub(crate) first: Access,
    pub(crate) signal: u32,
}

impl Accesses {
    /// The effects, first the object's.
    #[inline]
    pub(crate) fn list(&self) -> impl Iterator<Item = Access> + use<> {
        let signal = Access {
            object: self.signal,
            class: Class::Shared,
        };
        [Some(self.first), (self.signal != NOTHING).then_some(signal)]
            .into_iter()
            .flatten()
    }

    /// Whether the order of the two can be told.
    #[inline]
    pub(crate) fn conflict(&self, other: &Accesses) -> bool {
        if self.first.object == other.first.object {
            return self.first.class.conflicts() & other.first.class.bit() != 0;
        }
        if self.signal & other.signal == NOTHING {
            return false;
        }
        // Signals are only ever posted as a count, and read by those whom they may wake.
        let posts = |a: &Accesses, b: &Accesses| {
            a.signal == b.first.object && b.first.class.conflicts() & SHARED != 0
        };
        posts(self, other) || posts(other, self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Class; 6] = [
        Class::Exclusive,
        Class::Release,
        Class::Shared,
        Class::ReleaseShared,
        Class::Count,
        Class::Await,
    ];

    #[test]
    fn conflicts_are_mutual() {
        for a in ALL {
            for b in ALL {
                let one = a.conflicts() & b.bit() != 0;
                let other = b.conflicts() & a.bit() != 0;
                assert_eq!(one, other, "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn different_objects_never_conflict_and_a_signal_conflicts_with_whom_it_wakes() {
        let on = |object, class| Accesses {
            first: Access { object, class },
            signal: NOTHING,
        };
        let lock = on(1, Class::Exclusive);
        assert!(lock.conflict(&lock));
        assert!(!lock.conflict(&on(2, Class::Exclusive)));
        let killable = Accesses { signal: 7, ..lock };
        assert!(killable.conflict(&on(7, Class::Count)));
        assert!(on(7, Class::Count).conflict(&killable));
        assert!(!killable.conflict(&on(8, Class::Count)));
    }
}
