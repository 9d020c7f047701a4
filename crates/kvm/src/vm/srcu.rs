//! `kvm->srcu`: readers that a writer waits for.
//!
//! # Locking
//! Two reader counts; a grace period turns new readers to the other count and waits for the old one
//! to drain.

use seamlock_sync::{Action, Name, Section, Shared, WaitQueue, announce};

use crate::lockdep::GRACE_PERIOD;
use crate::locks::{self, cells};

/// A sleepable RCU domain.
#[derive(Debug)]
pub struct Srcu {
    name: Name,
    phase: Shared<u32>,
    readers: [Shared<u32>; 2],
    drained: WaitQueue,
}

/// A read-side critical section.
#[derive(Debug)]
pub struct SrcuReader<'a> {
    srcu: &'a Srcu,
    phase: usize,
    _section: Section,
}

impl Srcu {
    /// The domain of a VM, without readers.
    pub fn new(vm: u64) -> Srcu {
        let readers = |phase| Shared::new(cells::SRCU_READERS.of(vm, phase), 0);
        Srcu {
            name: locks::SRCU.at(vm),
            phase: Shared::new(cells::SRCU_PHASE.at(vm), 0),
            readers: [readers(0), readers(1)],
            drained: WaitQueue::new(cells::SRCU_GRACE.at(vm)),
        }
    }

    /// `srcu_read_lock`.
    #[track_caller]
    pub fn read(&self) -> SrcuReader<'_> {
        let _section = Section::enter(self.name);
        let phase = (self.phase.load() & 1) as usize;
        self.readers[phase].add(1);
        SrcuReader {
            srcu: self,
            phase,
            _section,
        }
    }

    /// `synchronize_srcu`: waits until every section that was entered before has been left. Two turns,
    /// because a reader may have read the phase and not yet counted itself.
    #[track_caller]
    pub fn synchronize(&self) {
        announce(Action::Point, self.name, GRACE_PERIOD);
        for _ in 0..2 {
            let old = (self.phase.fetch_add(1) & 1) as usize;
            self.drained
                .wait_uninterruptible(|| self.readers[old].load() == 0);
        }
    }
}

impl Drop for SrcuReader<'_> {
    fn drop(&mut self) {
        // Whether it was the last is not looked at: readers that leave in either order are the same.
        self.srcu.readers[self.phase].sub(1);
        self.srcu.drained.notify();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grace_period_without_readers_ends_at_once() {
        let srcu = Srcu::new(1);
        srcu.synchronize();
        drop(srcu.read());
        srcu.synchronize();
        assert!(srcu.readers.iter().all(|r| r.peek() == 0));
    }
}
