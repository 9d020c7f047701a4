//! Locks that can be watched.
//!
//! Three families, and one rule for each:
//!
//! * [`Mutex`] and [`RwLock`] block. They are KVM's locks (`kvm->lock`, `slots_lock`, `mmu_lock`, …).
//! * [`SharexHp`], [`Sharex`], [`MutexWord`] and [`EntryLock`] never block. They are the TDX module's
//!   lock words, bit for bit: an attempt succeeds or is busy, and a busy attempt may leave a mark.
//! * [`Shared`] is a cell that is read or written without a lock, and [`WaitQueue`] is a condition
//!   that a thread sleeps on.
//!
//! All of them have a [`Name`] that means the same in every run, and every operation on them is
//! announced to the thread's [`Hook`] when one is installed: the checker schedules by it, lockdep and
//! the trace listen to it. Without a hook an operation costs one test of a thread-local flag.
//!
//! A lock that only protects Rust memory and exists neither in the TDX module nor in the kernel is a
//! [`Private`]: no hook ever sees it, and nothing that a hook sees may happen while it is held.

#![forbid(unsafe_code)]
// This is the door that clippy.toml sends everybody else to.
#![allow(clippy::disallowed_types)]

mod cell;
mod hook;
mod mutex;
mod name;
mod private;
mod rwlock;
mod section;
mod wait;
mod word;

pub use cell::{Plain, Shared, Word};
pub use hook::{Action, Hook, Op, Outcome, Verdict, announce, hooked, install, install_global};
pub use mutex::{Interrupted, Mutex, MutexGuard};
pub use name::{Class, Name};
pub use private::Private;
pub use rwlock::{ReadGuard, RwLock, WriteGuard};
pub use section::{Section, relax, relax_until_changed};
pub use wait::WaitQueue;
pub use word::{Busy, EntryLock, Mode, MutexWord, Sharex, SharexHp, WordView};
