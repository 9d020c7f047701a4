//! What each thread is doing now.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::known::HOTPLUG;
use super::ops::OPS;

/// What the hand is at that has no CPU to take offline.
const ROUND_END: &str = "the end of the round";
/// What a thread does that does nothing.
const IDLE: usize = usize::MAX;

thread_local! {
    static SEAT: Cell<usize> = const { Cell::new(IDLE) };
}

/// One thread: what it does to which VM.
#[derive(Debug)]
struct Seat {
    op: AtomicUsize,
    vm: AtomicU64,
    calls: AtomicU64,
}

impl Seat {
    fn name(&self) -> Option<&'static str> {
        OPS.get(self.op.load(Relaxed)).map(|op| op.name)
    }
}

/// All threads.
#[derive(Debug)]
pub struct Desk {
    seats: Vec<Seat>,
    /// A CPU is being taken offline.
    offline: AtomicBool,
}

/// What the calling thread does to a VM, and what others do to it.
pub struct Around {
    /// The caller's operation.
    pub doing: &'static str,
    /// What goes on beside it.
    pub beside: Vec<&'static str>,
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

    fn own_seat(&self) -> Option<&Seat> {
        self.seats.get(SEAT.get())
    }

    /// The calling thread takes this seat.
    pub fn sit(&self, seat: usize) {
        SEAT.set(seat);
    }

    /// The calling thread begins an operation on a VM.
    pub fn begin(&self, op: usize, vm: u64) {
        if let Some(seat) = self.own_seat() {
            seat.vm.store(vm, Relaxed);
            seat.op.store(op, Relaxed);
        }
    }

    /// It is over.
    pub fn end(&self) {
        if let Some(seat) = self.own_seat() {
            seat.op.store(IDLE, Relaxed);
            seat.calls.fetch_add(1, Relaxed);
        }
    }

    /// Takes a CPU offline by `f`, in view of the others.
    pub fn offline<R>(&self, f: impl FnOnce() -> R) -> R {
        self.offline.store(true, Relaxed);
        let result = f();
        self.offline.store(false, Relaxed);
        result
    }

    /// Calls of all threads, which stands still when they hang.
    pub fn calls(&self) -> u64 {
        self.seats.iter().map(|seat| seat.calls.load(Relaxed)).sum()
    }

    /// What each thread is at: the operation and the VM.
    pub fn doing(&self) -> Vec<(usize, &'static str, u64)> {
        let at = |(i, seat): (usize, &Seat)| Some((i, seat.name()?, seat.vm.load(Relaxed)));
        self.seats.iter().enumerate().filter_map(at).collect()
    }

    /// What the calling thread does. Who has no seat takes CPUs offline, and looks at everything when the
    /// round is over.
    pub fn own(&self) -> &'static str {
        let name = self.own_seat().and_then(Seat::name);
        let offline = self.offline.load(Relaxed);
        name.unwrap_or(if offline { HOTPLUG } else { ROUND_END })
    }

    /// What the calling thread does, and what the others do to the same VM.
    pub fn around(&self, vm: u64) -> Around {
        let own = self.own_seat();
        let others = self.seats.iter().filter(|seat| {
            let is_own = own.is_some_and(|own| std::ptr::eq(*seat, own));
            !is_own && seat.vm.load(Relaxed) == vm
        });
        let mut beside: Vec<_> = others.filter_map(Seat::name).collect();
        if own.is_some() && self.offline.load(Relaxed) {
            beside.push(HOTPLUG);
        }
        beside.sort_unstable();
        beside.dedup();
        Around {
            doing: self.own(),
            beside,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(name: &str) -> usize {
        OPS.iter().position(|op| op.name == name).unwrap_or(IDLE)
    }

    #[test]
    fn what_others_do_to_the_same_vm_is_beside() {
        let desk = Desk::new(4);
        let at = |seat, f: &dyn Fn()| {
            desk.sit(seat);
            f();
        };
        at(1, &|| {
            desk.begin(op("fallocate"), 7);
            desk.end();
        });
        at(2, &|| desk.begin(op("munmap"), 8));
        at(3, &|| desk.begin(op("fallocate(PUNCH_HOLE)"), 7));
        at(0, &|| desk.begin(op("KVM_TDX_INIT_VCPU"), 7));
        let around = desk.around(7);
        assert_eq!(around.doing, "KVM_TDX_INIT_VCPU");
        assert_eq!(around.beside, ["fallocate(PUNCH_HOLE)"]);
        at(IDLE, &|| {
            desk.offline(|| assert_eq!(desk.own(), HOTPLUG));
            assert_eq!(desk.own(), ROUND_END);
        });
    }
}
