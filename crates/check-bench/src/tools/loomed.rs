//! loom's objects. Each operation is one atomic access, as it is one step for us.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64 as Count, Ordering::Relaxed};
use std::time::Duration;

use loom::sync::Mutex;
use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};

use seamlock_check::programs::api::Api;
use seamlock_sync::{Mode, Name};

use super::{How, panicking};
use crate::programs::Program;

struct Loom;

impl Api for Loom {
    type Mutex = Mutex<()>;
    type Word = AtomicUsize;
    type Cell = AtomicU64;

    fn mutex(_: Name) -> Mutex<()> {
        Mutex::new(())
    }

    fn locked<R>(mutex: &Mutex<()>, act: impl FnOnce() -> R) -> R {
        let _held = mutex.lock();
        act()
    }

    fn word(_: Name) -> AtomicUsize {
        AtomicUsize::new(0)
    }

    fn try_word(word: &AtomicUsize, mode: Mode) -> bool {
        match mode {
            Mode::Shared => word.fetch_add(2, SeqCst) & 1 == 0,
            Mode::Exclusive => word.compare_exchange(0, 1, SeqCst, SeqCst).is_ok(),
        }
    }

    fn release(word: &AtomicUsize, mode: Mode) {
        match mode {
            Mode::Shared => {
                word.fetch_sub(2, SeqCst);
            }
            Mode::Exclusive => word.store(0, SeqCst),
        }
    }

    fn cell(_: Name, value: u64) -> AtomicU64 {
        AtomicU64::new(value)
    }

    fn load(cell: &AtomicU64) -> u64 {
        cell.load(SeqCst)
    }

    fn store(cell: &AtomicU64, value: u64) {
        cell.store(value, SeqCst);
    }

    fn fetch_add(cell: &AtomicU64, amount: u64) -> u64 {
        cell.fetch_add(amount, SeqCst)
    }
}

/// Threads that loom can take, the main one included.
const MOST: usize = 5;

pub(super) fn run(program: &Program, bound: Option<usize>, limit: Duration) -> (How, u64) {
    if program
        .threads::<seamlock_check::programs::api::Ours>(panicking())
        .len()
        > MOST
    {
        return (How::Cannot, 0);
    }
    let count = Arc::new(Count::new(0));
    let (counted, program) = (count.clone(), program.clone());
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = bound;
    builder.max_branches = 100_000;
    builder.max_duration = Some(limit);
    let model = move || {
        counted.fetch_add(1, Relaxed);
        let mut threads = program.threads::<Loom>(panicking());
        // The main thread is one of the few.
        let last = threads.pop();
        let spawn = |(_, body): (_, Box<dyn FnOnce() + Send>)| loom::thread::spawn(body);
        let spawned: Vec<_> = threads.into_iter().map(spawn).collect();
        if let Some((_, body)) = last {
            body();
        }
        for thread in spawned {
            let _ = thread.join();
        }
    };
    let ran = catch_unwind(AssertUnwindSafe(|| builder.check(model)));
    (
        if ran.is_ok() {
            How::Explored
        } else {
            How::Found
        },
        count.load(Relaxed),
    )
}
