//! A thread of the run.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use seamlock_kvm::{Result, close};
use seamlock_sync::Private;
use seamlock_tdx_abi::kvm::{Errno, KVM_X86_SEV_ES_VM, KVM_X86_SEV_VM, KVM_X86_TDX_VM};

use super::client::{Client, MM};
use super::finding::{Blame, Finding};
use super::ops::{OPS, draw, is_impossible_ebusy};
use super::tally::Tally;
use super::world::{Open, Vm, World};

/// One thread.
pub struct Worker<'a> {
    pub world: &'a World,
    pub client: Client<'a>,
    pub rng: fastrand::Rng,
    pub tally: Tally,
    seat: usize,
    op: usize,
    slot: usize,
}

impl<'a> Worker<'a> {
    /// The thread of this seat.
    pub fn new(world: &'a World, seat: usize, seed: u64) -> Worker<'a> {
        world.watch.desk.sit(seat);
        Worker {
            world,
            client: Client::new(&world.files, &world.controls[seat], &world.sources),
            rng: fastrand::Rng::with_seed(seed),
            tally: Tally::default(),
            seat,
            op: 0,
            slot: 0,
        }
    }

    /// Makes so many calls.
    pub fn work(&mut self, calls: u64) {
        while self.tally.calls() < calls {
            self.step();
        }
    }

    fn step(&mut self) {
        self.disturb();
        self.slot = self.rng.usize(..self.world.slots.len());
        let Some(vm) = self.world.vm(self.slot) else {
            self.fill_slot();
            return;
        };
        vm.age.fetch_add(1, Relaxed);
        self.op = draw(&mut self.rng, vm.stage());
        self.world.watch.desk.begin(self.op, vm.kvm.number);
        let result = (OPS[self.op].run)(self, &vm);
        self.world.watch.desk.end();
        if let Some(Err(error)) = result
            && is_impossible_ebusy(self, &error)
        {
            let watch = &self.world.watch;
            let what = format!("{}: {error}", OPS[self.op].name);
            watch.findings.add(Finding {
                blame: Blame::Discipline,
                site: error.site.to_owned(),
                ..watch.finding("no WARN_ON_ONCE", vm.kvm.number, what)
            });
        }
    }

    /// Signals and migrations, of this thread and of others.
    fn disturb(&mut self) {
        let others = self.world.controls.len();
        if self.rng.u32(..8) != 0 {
            self.client.control.clear_signals();
        }
        match self.rng.u32(..16) {
            0..4 => self.world.migrate(self.seat, self.rng.usize(..)),
            4 => self
                .world
                .migrate(self.rng.usize(..others), self.rng.usize(..)),
            5 => self
                .world
                .signal(self.rng.usize(..others), self.rng.u32(..4) == 0),
            _ => {}
        }
    }

    fn fill_slot(&mut self) {
        self.op = 0;
        self.world.watch.desk.begin(0, 0);
        let kvm = self.world.kvm.file.clone();
        let vm_type = match self.world.amd {
            true => [KVM_X86_SEV_VM, KVM_X86_SEV_ES_VM][self.rng.usize(..8).min(1)],
            false => KVM_X86_TDX_VM,
        };
        let mut made = None;
        let result = self.timed(|client| {
            let (fd, file) = client.create_vm(&kvm, vm_type)?;
            made = Some(Open { fd, file });
            Ok(0)
        });
        self.world.watch.desk.end();
        if let Err(error) = result
            && error.is(Errno::EMFILE)
        {
            // Another thread has a VM that is being closed.
            std::thread::yield_now();
        }
        let Some(vm) = made.clone().and_then(Vm::new) else {
            return;
        };
        let vm = Arc::new(vm);
        let taken = self.world.slots[self.slot].with(|slot| {
            let free = slot.is_none();
            if free {
                *slot = Some(vm);
            }
            free
        });
        if let Some(open) = made.filter(|_| !taken) {
            self.close(&open);
        }
    }

    /// Makes the call of the operation that the thread is at, and notes it.
    pub fn timed(&mut self, call: impl FnOnce(&Client<'a>) -> Result<i64>) -> Result<i64> {
        let start = Instant::now();
        let result = call(&self.client);
        self.tally
            .note(self.op, start.elapsed(), result.as_ref().err());
        result
    }

    /// Whether the VM is still in its slot, so that whoever closes it will find what is put there.
    pub fn is_current(&self, vm: &Arc<Vm>) -> bool {
        let there = self.world.vm(self.slot);
        there.is_some_and(|there| Arc::ptr_eq(&there, vm))
    }

    /// Takes the VM out of its slot. Whether this thread did.
    pub fn take_from_slot(&self, vm: &Arc<Vm>) -> bool {
        self.world.slots[self.slot].with(|slot| {
            let mine = slot.as_ref().is_some_and(|there| Arc::ptr_eq(there, vm));
            if mine {
                *slot = None;
            }
            mine
        })
    }

    /// Any of some descriptors.
    pub fn any_of(&mut self, all: &Private<Vec<Open>>) -> Option<Open> {
        let choice = self.rng.usize(..);
        all.with(|all| all.get(choice % all.len().max(1)).cloned())
    }

    /// close(2), as the operation that the thread is at.
    pub fn timed_close(&mut self, open: &Open) -> Result<i64> {
        let fd = open.fd;
        self.timed(|client| close(&client.task(MM), fd).map(|()| 0))
    }

    /// close(2) on the side.
    pub fn close(&mut self, open: &Open) {
        let _ = close(&self.client.task(MM), open.fd);
    }
}
