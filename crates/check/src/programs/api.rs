//! What the abstract programs are written against, so that other checkers can run the very same ones.

use std::borrow::Cow;
use std::sync::Arc;

use seamlock_sync::{Mode, Mutex, Name, Shared, SharexHp};

use crate::scenario::{Reporter, Setup, Violation};

/// A checker's own locks, words and cells.
pub trait Api: 'static {
    /// A blocking mutex.
    type Mutex: Send + Sync;
    /// A lock word that is shared or exclusive and never waits.
    type Word: Send + Sync;
    /// A cell that is read and written without a lock.
    type Cell: Send + Sync;

    /// A free mutex.
    fn mutex(name: Name) -> Self::Mutex;
    /// Runs `act` with the mutex held.
    fn locked<R>(mutex: &Self::Mutex, act: impl FnOnce() -> R) -> R;
    /// A free word.
    fn word(name: Name) -> Self::Word;
    /// One attempt.
    fn try_word(word: &Self::Word, mode: Mode) -> bool;
    /// Gives a hold back.
    fn release(word: &Self::Word, mode: Mode);
    /// A cell with this value.
    fn cell(name: Name, value: u64) -> Self::Cell;
    /// Reads.
    fn load(cell: &Self::Cell) -> u64;
    /// Writes.
    fn store(cell: &Self::Cell, value: u64);
    /// Adds, modulo 2^64, and returns what was there before.
    fn fetch_add(cell: &Self::Cell, amount: u64) -> u64;
}

/// The threads of a program: their names and what they do.
pub type Threads = Vec<(Cow<'static, str>, Box<dyn FnOnce() + Send>)>;

/// What a program calls when something is wrong: which oracle says so, and what it is.
pub type Wrong = Arc<dyn Fn(&'static str, String) + Send + Sync>;

/// The objects of this checker.
#[derive(Debug)]
pub struct Ours;

impl Api for Ours {
    type Mutex = Mutex<()>;
    type Word = (SharexHp, Name);
    type Cell = Shared<u64>;

    fn mutex(name: Name) -> Mutex<()> {
        Mutex::new(name, ())
    }

    fn locked<R>(mutex: &Mutex<()>, act: impl FnOnce() -> R) -> R {
        let _held = mutex.lock();
        act()
    }

    fn word(name: Name) -> (SharexHp, Name) {
        (SharexHp::new(), name)
    }

    fn try_word(word: &(SharexHp, Name), mode: Mode) -> bool {
        word.0.try_acquire(mode, word.1)
    }

    fn release(word: &(SharexHp, Name), mode: Mode) {
        word.0.release(mode, word.1);
    }

    fn cell(name: Name, value: u64) -> Shared<u64> {
        Shared::new(name, value)
    }

    fn load(cell: &Shared<u64>) -> u64 {
        cell.load()
    }

    fn store(cell: &Shared<u64>, value: u64) {
        cell.store(value);
    }

    fn fetch_add(cell: &Shared<u64>, amount: u64) -> u64 {
        cell.fetch_add(amount)
    }
}

/// Makes a scenario of a program's threads.
pub(crate) fn add(setup: &mut Setup, threads: Threads) {
    for (name, body) in threads {
        setup.thread(name, body);
    }
}

/// Reports what is wrong as a violation.
pub(crate) fn reporting(reporter: Reporter) -> Wrong {
    Arc::new(move |oracle, cause| reporter.report(Violation::new(oracle, cause)))
}
