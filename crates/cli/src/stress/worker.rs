//! A thread of the run.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use seamlock_kvm::file::Kind;
use seamlock_kvm::{File, Result, close};
use seamlock_sync::Private;
use seamlock_tdx_abi::kvm::{Errno, KVM_X86_SEV_ES_VM, KVM_X86_SEV_VM, KVM_X86_TDX_VM};

use super::client::{Client, MM};
use super::finding::{Blame, Finding};
use super::ops::{OPS, is_impossible_ebusy};
use super::pace::Pace;
use super::tally::Tally;
use super::temper::Temper;
use super::world::{Open, Vm, World};

/// One thread.
pub struct Worker<'a> {
    pub world: &'a World,
    pub client: Client<'a>,
    pub rng: fastrand::Rng,
    pub tally: Tally,
    pace: Rc<Pace>,
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
            pace: Pace::new(&world.watch, seat, !seed),
            tally: Tally::default(),
            seat,
            op: 0,
            slot: 0,
        }
    }

    /// Makes so many calls.
    pub fn work(&mut self, calls: u64) {
        let pace = self.pace.clone();
        pace.keep(|| {
            while self.tally.calls() < calls {
                self.step();
            }
        });
    }

    fn step(&mut self) {
        self.disturb();
        self.slot = self.rng.usize(..self.world.slots.len());
        let Some(vm) = self.world.vm(self.slot) else {
            self.fill_slot();
            return;
        };
        vm.age.fetch_add(1, Relaxed);
        self.op = vm.temper.choose(&mut self.rng, vm.stage());
        self.begin(vm.kvm.number);
        let result = (OPS[self.op].run)(self, &vm);
        self.end();
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

    fn begin(&self, vm: u64) {
        self.world.watch.desk.begin(self.op, vm);
        self.pace.begin(self.op);
    }

    fn end(&self) {
        self.pace.end();
        self.world.watch.desk.end();
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
        self.begin(0);
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
        self.end();
        if let Err(error) = result
            && error.is(Errno::EMFILE)
        {
            // Another thread has a VM that is being closed.
            std::thread::yield_now();
        }
        let temper = Temper::draw(&mut self.rng, self.world.shape.vcpus);
        let Some(vm) = made.clone().and_then(|open| Vm::new(open, temper)) else {
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

    /// A vCPU of a VM that the TDX module has, or has not; at times any, of which KVM refuses what it is
    /// wanted for.
    pub fn vcpu(&mut self, vm: &Vm, initialised: bool) -> Option<Arc<File>> {
        let fits = |open: &Open| match open.file.kind() {
            Kind::Vcpu(vcpu) => vcpu.tdvpr().is_some() == initialised,
            _ => false,
        };
        let open = match self.rng.u32(..8) {
            0 => self.any_of(&vm.vcpus),
            _ => {
                let all = vm.vcpus.with(|vcpus| vcpus.clone());
                let fit: Vec<_> = all.into_iter().filter(fits).collect();
                let choice = self.rng.usize(..);
                fit.get(choice % fit.len().max(1)).cloned()
            }
        };
        open.map(|open| open.file)
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
