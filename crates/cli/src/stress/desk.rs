//! What each thread is doing now.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::known::HOTPLUG;
use super::ops::OPS;

/// What the hand is at that has no CPU to take offline.
const ROUND_END: &str = "the end of the round";
/// What a thread does that does nothing.
const IDLE: usize = usize::MAX;

thread_local! {
    static SEAT: Cell<usize> = const { Cell::new(IDLE) };
}

/// What a thread does or did to which VM, and when on the desk's clock.
#[derive(Debug)]
struct Deed {
    op: AtomicUsize,
    vm: AtomicU64,
    at: AtomicU64,
}

impl Deed {
    fn none() -> Deed {
        Deed {
            op: AtomicUsize::new(IDLE),
            vm: AtomicU64::new(0),
            at: AtomicU64::new(0),
        }
    }

    fn set(&self, op: usize, vm: u64, at: u64) {
        self.vm.store(vm, Relaxed);
        self.at.store(at, Relaxed);
        self.op.store(op, Relaxed);
    }

    fn name(&self) -> Option<&'static str> {
        OPS.get(self.op.load(Relaxed)).map(|op| op.name)
    }
}

/// One thread.
#[derive(Debug)]
struct Seat {
    /// What it does, since when.
    now: Deed,
    /// What it did before, until when.
    before: Deed,
    calls: AtomicU64,
}

/// All threads.
#[derive(Debug)]
pub struct Desk {
    seats: Vec<Seat>,
    clock: AtomicU64,
    /// A CPU is being taken offline, since when; 0 while none is.
    offline_since: AtomicU64,
    /// Until when one was, last.
    offline_until: AtomicU64,
}

/// What the calling thread does to a VM, and what others do to it.
pub struct Around {
    /// The caller's operation.
    pub doing: &'static str,
    /// What goes on now.
    pub beside: Vec<&'static str>,
    /// That, and what has ended since the caller's operation began.
    pub lately: Vec<&'static str>,
}

impl Desk {
    /// So many threads, idle.
    pub fn new(threads: usize) -> Desk {
        let seat = |_| Seat {
            now: Deed::none(),
            before: Deed::none(),
            calls: AtomicU64::new(0),
        };
        Desk {
            seats: (0..threads).map(seat).collect(),
            clock: AtomicU64::new(1),
            offline_since: AtomicU64::new(0),
            offline_until: AtomicU64::new(0),
        }
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Relaxed)
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
            seat.now.set(op, vm, self.tick());
        }
    }

    /// It is over.
    pub fn end(&self) {
        if let Some(seat) = self.own_seat() {
            let (op, vm) = (seat.now.op.load(Relaxed), seat.now.vm.load(Relaxed));
            seat.before.set(op, vm, self.tick());
            seat.now.op.store(IDLE, Relaxed);
            seat.calls.fetch_add(1, Relaxed);
        }
    }

    /// Takes a CPU offline by `f`, in view of the others.
    pub fn offline<R>(&self, f: impl FnOnce() -> R) -> R {
        self.offline_since.store(self.tick(), Relaxed);
        let result = f();
        self.offline_until.store(self.tick(), Relaxed);
        self.offline_since.store(0, Relaxed);
        result
    }

    /// Calls of all threads, which stands still when they hang.
    pub fn calls(&self) -> u64 {
        self.seats.iter().map(|seat| seat.calls.load(Relaxed)).sum()
    }

    /// What each thread is at: the operation and the VM.
    pub fn doing(&self) -> Vec<(usize, &'static str, u64)> {
        let at = |(i, seat): (usize, &Seat)| Some((i, seat.now.name()?, seat.now.vm.load(Relaxed)));
        self.seats.iter().enumerate().filter_map(at).collect()
    }

    /// What the calling thread does. Who has no seat takes CPUs offline, and looks at everything when the
    /// round is over.
    pub fn own(&self) -> &'static str {
        let name = self.own_seat().and_then(|seat| seat.now.name());
        let offline = self.offline_since.load(Relaxed) != 0;
        name.unwrap_or(if offline { HOTPLUG } else { ROUND_END })
    }

    /// What the calling thread does, and what the others do to the same VM.
    pub fn around(&self, vm: u64) -> Around {
        let own = self.own_seat();
        let since = match own {
            Some(seat) => seat.now.at.load(Relaxed),
            None => self.offline_since.load(Relaxed),
        };
        let others = || {
            let is_other = |seat: &&Seat| own.is_none_or(|own| !std::ptr::eq(*seat, own));
            self.seats.iter().filter(is_other)
        };
        let on_it = |deed: &Deed| deed.name().filter(|_| deed.vm.load(Relaxed) == vm);
        let mut beside: Vec<_> = others().filter_map(|seat| on_it(&seat.now)).collect();
        let mut lately = beside.clone();
        let ended = |deed: &&Deed| deed.at.load(Relaxed) > since;
        lately.extend(
            others()
                .map(|seat| &seat.before)
                .filter(ended)
                .filter_map(on_it),
        );
        if own.is_some() && self.offline_since.load(Relaxed) != 0 {
            beside.push(HOTPLUG);
        }
        if own.is_some() && (beside.contains(&HOTPLUG) || self.offline_until.load(Relaxed) > since)
        {
            lately.push(HOTPLUG);
        }
        for list in [&mut beside, &mut lately] {
            list.sort_unstable();
            list.dedup();
        }
        Around {
            doing: self.own(),
            beside,
            lately,
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
    fn what_ended_since_an_operation_began_is_told_lately_and_not_beside() {
        let desk = Desk::new(3);
        let at = |seat, f: &dyn Fn()| {
            desk.sit(seat);
            f();
        };
        at(1, &|| {
            desk.begin(op("fallocate"), 7);
            desk.end();
        });
        at(0, &|| desk.begin(op("KVM_TDX_INIT_VCPU"), 7));
        at(1, &|| {
            desk.begin(op("fallocate(PUNCH_HOLE)"), 7);
            desk.end();
        });
        at(2, &|| desk.begin(op("munmap"), 8));
        at(IDLE, &|| desk.offline(|| assert_eq!(desk.own(), HOTPLUG)));
        desk.sit(0);
        let around = desk.around(7);
        assert_eq!(around.doing, "KVM_TDX_INIT_VCPU");
        assert!(around.beside.is_empty(), "{:?}", around.beside);
        assert_eq!(around.lately, [HOTPLUG, "fallocate(PUNCH_HOLE)"]);
    }
}
