//! Proves or refutes a locking discipline by running the real code under every interleaving that
//! matters.
//!
//! A [`Scenario`] builds fresh state and a few threads. Every operation of the threads on a lock, a
//! lock word, a shared cell or a wait queue of `seamlock-sync` is announced to the scheduler, which
//! decides who goes on. [`check`] first makes random walks, which refute fast, then runs exactly one
//! execution of every Mazurkiewicz trace, which proves:
//!
//! ```
//! use std::rc::Rc;
//!
//! use seamlock_check::{Options, Setup, Verdict, check};
//! use seamlock_sync::{Class, Mutex};
//!
//! static LOCK: Class = Class::new("lock");
//!
//! let scenario = |setup: &mut Setup| {
//!     let lock = Rc::new(Mutex::new(LOCK.only(), 0));
//!     for name in ["a", "b"] {
//!         let lock = lock.clone();
//!         setup.thread(name, move || *lock.lock() += 1);
//!     }
//! };
//! let report = check(&scenario, &Options::default()).unwrap();
//! assert!(matches!(report.verdict, Verdict::Proved { traces: 2 }));
//! ```
//!
//! # What is covered
//!
//! Sequential consistency; scenarios that end; up to [`MAX_THREADS`] threads. Two operations that
//! commute are run in one order only, so an oracle must judge by what is the same in both: see
//! [`Oracle`]. Blocking locks are not fair: any waiter may be the next.
//!
//! # What a scenario must not do
//!
//! Depend on time, on addresses, on anything left from the execution before, or on state that threads
//! share without a watched operation. Each replayed step is compared with what was announced the last
//! time, and a difference is an error. While a deadlocked execution is taken down its threads unwind
//! one after the other; a `Drop` that waits for a lock which another of them holds would hang.

mod access;
mod announce;
mod budget;
mod check;
mod clock;
mod columns;
mod coroutine;
mod counterexample;
mod describe;
mod dfs;
mod dpor;
mod engine;
mod explain;
mod follow;
pub mod fuzz;
mod linear;
mod log;
mod object;
mod outline;
mod print;
pub mod programs;
mod races;
mod reverse;
mod scenario;
mod sched;
mod schedule;
mod shadow;
mod shrink;
mod story;
mod strategy;
mod thread;
mod verdict;
mod wakeup;
mod walk;

pub use budget::Budget;
pub use check::{Effort, Options, Report, Survey, check, survey};
pub use clock::MAX_THREADS;
pub use counterexample::{Counterexample, Hold, Shown, Story, Waiting};
pub use dpor::Faults;
pub use explain::{Replayed, replay};
pub use follow::Divergence;
pub use outline::{Row, What};
pub use scenario::{Holder, Oracle, Reporter, Scenario, Setup, Step, ThreadId, View, Violation};
pub use schedule::Schedule;
pub use shrink::shrink;
pub use story::{Legend, Span, Telling, Told};
pub use verdict::{CheckError, Limit, Verdict};
pub use walk::WalkKind;
