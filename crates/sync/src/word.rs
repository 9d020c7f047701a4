//! The TDX module's lock words: one attempt, no queue, no wait.
//!
//! Source: TDX module 1.5, `common/helpers/tdx_locks.h`. A failed attempt may leave a mark in the
//! word, and what it leaves is part of the behaviour: a host that found a word busy sets the
//! host-priority bit, which makes the guest yield until a host call has had the word; a failed shared
//! attempt leaves its reader count, which the exclusive holder's release wipes.
//!
//! The words carry no name, to stay as small as the real ones: the caller names them per operation.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering::SeqCst};

use crate::hook::{Action, Outcome, watched};
use crate::name::Name;

/// How a word is wanted or held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Together with other shared holders.
    Shared,
    /// Alone.
    Exclusive,
}

/// Why an attempt by the guest side failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// Somebody holds the word.
    Held,
    /// A host call found the word busy before and goes first.
    HostPriority,
}

/// What a word holds, for people and for tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WordView {
    /// Held by one party alone.
    pub exclusive: bool,
    /// A host call found the word busy and has not had it since.
    pub host_priority: bool,
    /// Number of shared holders; with `exclusive` set, stray counts of failed attempts.
    pub readers: u16,
}

fn outcome(ok: &bool) -> Outcome {
    if *ok { Outcome::Done } else { Outcome::Busy }
}

fn outcome_guest(r: &Result<(), Busy>) -> Outcome {
    outcome(&r.is_ok())
}

const EXCLUSIVE: u16 = 1;
const HOST_PRIORITY: u16 = 2;
const HP_READER: u16 = 4;
const READER: u16 = 2;

/// A shared/exclusive word with host priority: bit 0 exclusive, bit 1 host priority, bits 15:2 the
/// number of readers. Every PAMT entry (so TDR, TDVPR and all pages), `OP_STATE`, RTMR.
#[derive(Debug, Default)]
pub struct SharexHp(AtomicU16);

impl SharexHp {
    /// A free word.
    pub const fn new() -> SharexHp {
        SharexHp(AtomicU16::new(0))
    }

    /// One attempt by a host call in the given mode.
    #[inline]
    #[track_caller]
    pub fn try_acquire(&self, mode: Mode, name: Name) -> bool {
        match mode {
            Mode::Shared => self.try_shared(name),
            Mode::Exclusive => self.try_exclusive(name),
        }
    }

    /// One attempt by a host call to share the word.
    #[inline]
    #[track_caller]
    pub fn try_shared(&self, name: Name) -> bool {
        watched(Action::TryShared, name, 0, || self.shared(), outcome)
    }

    #[inline]
    fn shared(&self) -> bool {
        let old = self.0.fetch_add(HP_READER, SeqCst);
        if old & EXCLUSIVE != 0 {
            // The count stays: the holder's release wipes it.
            self.0.fetch_or(HOST_PRIORITY, SeqCst);
            return false;
        }
        if old & HOST_PRIORITY != 0 {
            self.0.fetch_and(!HOST_PRIORITY, SeqCst);
        }
        true
    }

    /// One attempt by a host call to have the word alone.
    #[inline]
    #[track_caller]
    pub fn try_exclusive(&self, name: Name) -> bool {
        watched(Action::TryExclusive, name, 0, || self.exclusive(), outcome)
    }

    #[inline]
    fn exclusive(&self) -> bool {
        match self.0.compare_exchange(0, EXCLUSIVE, SeqCst, SeqCst) {
            Ok(_) => true,
            Err(HOST_PRIORITY) => self
                .0
                .compare_exchange(HOST_PRIORITY, EXCLUSIVE, SeqCst, SeqCst)
                .is_ok(),
            Err(_) => {
                self.0.fetch_or(HOST_PRIORITY, SeqCst);
                false
            }
        }
    }

    /// One attempt by the only shared holder to have the word alone.
    #[inline]
    #[track_caller]
    pub fn promote(&self, name: Name) -> bool {
        watched(Action::Promote, name, 0, || self.promoted(), outcome)
    }

    fn promoted(&self) -> bool {
        match self
            .0
            .compare_exchange(HP_READER, EXCLUSIVE, SeqCst, SeqCst)
        {
            Ok(_) => true,
            Err(held) if held == HP_READER | HOST_PRIORITY => self
                .0
                .compare_exchange(held, EXCLUSIVE, SeqCst, SeqCst)
                .is_ok(),
            Err(_) => {
                self.0.fetch_or(HOST_PRIORITY, SeqCst);
                false
            }
        }
    }

    /// Gives a hold back.
    #[inline]
    #[track_caller]
    pub fn release(&self, mode: Mode, name: Name) {
        match mode {
            Mode::Shared => self.release_shared(name),
            Mode::Exclusive => self.release_exclusive(name),
        }
    }

    /// Gives a shared hold back.
    #[inline]
    #[track_caller]
    pub fn release_shared(&self, name: Name) {
        let drop_reader = || {
            self.0.fetch_sub(HP_READER, SeqCst);
        };
        watched(Action::ReleaseShared, name, 0, drop_reader, |()| {
            Outcome::Done
        });
    }

    /// Gives an exclusive hold back: the host-priority bit stays, stray readers are wiped.
    #[inline]
    #[track_caller]
    pub fn release_exclusive(&self, name: Name) {
        let keep_priority = || {
            self.0.fetch_and(HOST_PRIORITY, SeqCst);
        };
        watched(Action::ReleaseExclusive, name, 0, keep_priority, |()| {
            Outcome::Done
        });
    }

    /// One attempt by the guest side, which yields to a host call that was refused before.
    #[track_caller]
    pub fn guest_try(&self, mode: Mode, name: Name) -> Result<(), Busy> {
        let action = match mode {
            Mode::Shared => Action::TryShared,
            Mode::Exclusive => Action::TryExclusive,
        };
        watched(action, name, 1, || self.guest(mode), outcome_guest)
    }

    fn guest(&self, mode: Mode) -> Result<(), Busy> {
        match mode {
            Mode::Shared => {
                let old = self.0.fetch_add(HP_READER, SeqCst);
                if old & HOST_PRIORITY != 0 {
                    // The real module subtracts here without looking again; the same race with a
                    // holder that releases in between is kept out by not wrapping below zero.
                    let back = |word: u16| word.checked_sub(HP_READER);
                    let _ = self.0.fetch_update(SeqCst, SeqCst, back);
                    return Err(Busy::HostPriority);
                }
                if old & EXCLUSIVE != 0 {
                    Err(Busy::Held)
                } else {
                    Ok(())
                }
            }
            Mode::Exclusive => match self.0.compare_exchange(0, EXCLUSIVE, SeqCst, SeqCst) {
                Ok(_) => Ok(()),
                Err(HOST_PRIORITY) => Err(Busy::HostPriority),
                Err(_) => Err(Busy::Held),
            },
        }
    }

    /// What the word holds now. Unseen by any hook.
    pub fn view(&self) -> WordView {
        let word = self.0.load(SeqCst);
        WordView {
            exclusive: word & EXCLUSIVE != 0,
            host_priority: word & HOST_PRIORITY != 0,
            readers: word >> 2,
        }
    }
}

/// A shared/exclusive word: bit 0 exclusive, bits 15:1 the number of readers. The module's global
/// lock, KOT, the S-EPT tree, the TD epoch.
#[derive(Debug, Default)]
pub struct Sharex(AtomicU16);

impl Sharex {
    /// A free word.
    pub const fn new() -> Sharex {
        Sharex(AtomicU16::new(0))
    }

    /// One attempt in the given mode. A failed shared attempt leaves its count.
    #[inline]
    #[track_caller]
    pub fn try_acquire(&self, mode: Mode, name: Name) -> bool {
        match mode {
            Mode::Shared => {
                let share = || self.0.fetch_add(READER, SeqCst) & EXCLUSIVE == 0;
                watched(Action::TryShared, name, 0, share, outcome)
            }
            Mode::Exclusive => {
                let take = || {
                    self.0
                        .compare_exchange(0, EXCLUSIVE, SeqCst, SeqCst)
                        .is_ok()
                };
                watched(Action::TryExclusive, name, 0, take, outcome)
            }
        }
    }

    /// Gives a hold back; an exclusive release wipes stray readers.
    #[inline]
    #[track_caller]
    pub fn release(&self, mode: Mode, name: Name) {
        match mode {
            Mode::Shared => {
                let back = || {
                    self.0.fetch_sub(READER, SeqCst);
                };
                watched(Action::ReleaseShared, name, 0, back, |()| Outcome::Done);
            }
            Mode::Exclusive => {
                let back = || self.0.store(0, SeqCst);
                watched(Action::ReleaseExclusive, name, 0, back, |()| Outcome::Done);
            }
        }
    }

    /// What the word holds now. Unseen by any hook.
    pub fn view(&self) -> WordView {
        let word = self.0.load(SeqCst);
        WordView {
            exclusive: word & EXCLUSIVE != 0,
            host_priority: false,
            readers: word >> 1,
        }
    }
}

/// A word that one party holds or nobody does: a TDMR's entry, CACHE.WB of a package.
#[derive(Debug, Default)]
pub struct MutexWord(AtomicU8);

impl MutexWord {
    /// A free word.
    pub const fn new() -> MutexWord {
        MutexWord(AtomicU8::new(0))
    }

    /// One attempt.
    #[inline]
    #[track_caller]
    pub fn try_acquire(&self, name: Name) -> bool {
        let take = || self.0.compare_exchange(0, 1, SeqCst, SeqCst).is_ok();
        watched(Action::TryExclusive, name, 0, take, outcome)
    }

    /// Gives the word back.
    #[inline]
    #[track_caller]
    pub fn release(&self, name: Name) {
        watched(
            Action::ReleaseExclusive,
            name,
            0,
            || self.0.store(0, SeqCst),
            |()| Outcome::Done,
        );
    }

    /// What the word holds now. Unseen by any hook.
    pub fn view(&self) -> WordView {
        WordView {
            exclusive: self.0.load(SeqCst) != 0,
            ..WordView::default()
        }
    }
}

/// The lock inside a secure-EPT entry: bit 11 exclusive, bit 52 host priority.
///
/// It lives in the entry's own 64-bit word, so the methods take that word.
#[derive(Debug)]
pub struct EntryLock;

impl EntryLock {
    /// The lock bit.
    pub const LOCK: u64 = 1 << 11;
    /// The host-priority bit.
    pub const HOST_PRIORITY: u64 = 1 << 52;

    /// One attempt by a host call.
    #[inline]
    #[track_caller]
    pub fn try_host(entry: &AtomicU64, name: Name) -> bool {
        let take = || {
            if entry.fetch_or(EntryLock::LOCK, SeqCst) & EntryLock::LOCK != 0 {
                entry.fetch_or(EntryLock::HOST_PRIORITY, SeqCst);
                return false;
            }
            entry.fetch_and(!EntryLock::HOST_PRIORITY, SeqCst);
            true
        };
        watched(Action::TryExclusive, name, 0, take, outcome)
    }

    /// One attempt by the guest side.
    #[track_caller]
    pub fn try_guest(entry: &AtomicU64, name: Name) -> Result<(), Busy> {
        let take = || {
            let old = entry.fetch_or(EntryLock::LOCK, SeqCst);
            if old & EntryLock::LOCK != 0 {
                return Err(Busy::Held);
            }
            if old & EntryLock::HOST_PRIORITY != 0 {
                entry.fetch_and(!EntryLock::LOCK, SeqCst);
                return Err(Busy::HostPriority);
            }
            Ok(())
        };
        watched(Action::TryExclusive, name, 1, take, outcome_guest)
    }

    /// Gives the entry back.
    #[inline]
    #[track_caller]
    pub fn release(entry: &AtomicU64, name: Name) {
        let back = || {
            entry.fetch_and(!EntryLock::LOCK, SeqCst);
        };
        watched(Action::ReleaseExclusive, name, 0, back, |()| Outcome::Done);
    }

    /// What the entry's lock bits hold now.
    pub fn view(entry: u64) -> WordView {
        WordView {
            exclusive: entry & EntryLock::LOCK != 0,
            host_priority: entry & EntryLock::HOST_PRIORITY != 0,
            readers: 0,
        }
    }
}
