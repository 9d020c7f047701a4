//! What each thread is doing now.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::known::HOTPLUG;
use super::ops::OPS;

/// What a thread does that does nothing.
const IDLE: usize = usize::MAX;

thread_local! {
    static SEAT: Cell<usize> = const { Cell::new(IDLE) };
}

/// One thread.
#[derive(Debug)]
struct Seat {
    op: AtomicUsize,
    vm: AtomicU64,
    calls: AtomicU64,
}

/// All threads.
#[derive(Debug)]
pub struct Desk {
    seats: Vec<Seat>,
    /// A CPU is being taken offline.
    pub offline: AtomicBool,
}

impl Desk {
    /// So many threads, idle.
    pub fn new(threads: usize) -> Desk {
        let seat = |_| Seat {
            op: AtomicUsize::new(IDLE),
            vm: AtomicU64::new(0),
            calls: AtomicU64::new(0),
        };
        Desk {
            seats: (0..threads).map(seat).collect(),
            offline: AtomicBool::new(false),
        }
    }

    /// The calling thread takes this seat.
    pub fn sit(&self, seat: usize) {
        SEAT.set(seat);
    }

    /// The calling thread begins an operation on a VM.
    pub fn begin(&self, op: usize, vm: u64) {
        if let Some(seat) = self.seats.get(SEAT.get()) {
            seat.vm.store(vm, Relaxed);
            seat.op.store(op, Relaxed);
        }
    }

    /// It is over.
    pub fn end(&self) {
        if let Some(seat) = self.seats.get(SEAT.get()) {
            seat.op.store(IDLE, Relaxed);
            seat.calls.fetch_add(1, Relaxed);
        }
    }

    /// Calls of all threads, which stands still when they hang.
    pub fn calls(&self) -> u64 {
        self.seats.iter().map(|seat| seat.calls.load(Relaxed)).sum()
    }

    /// What each thread is at: the operation and the VM.
    pub fn doing(&self) -> Vec<(usize, &'static str, u64)> {
        let at = |(i, seat): (usize, &Seat)| {
            let op = OPS.get(seat.op.load(Relaxed))?;
            Some((i, op.name, seat.vm.load(Relaxed)))
        };
        self.seats.iter().enumerate().filter_map(at).collect()
    }

    /// What the calling thread does, and what the others do to the same VM.
    pub fn around(&self, vm: u64) -> (&'static str, Vec<&'static str>) {
        let own = SEAT.get();
        let mut doing = HOTPLUG;
        let mut beside = Vec::new();
        for (seat, name, on) in self.doing() {
            if seat == own {
                doing = name;
            } else if on == vm && !beside.contains(&name) {
                beside.push(name);
            }
        }
        if self.offline.load(Relaxed) && doing != HOTPLUG {
            beside.push(HOTPLUG);
        }
        (doing, beside)
    }
}
