//! What holds of a machine at rest does not hold in the middle of a call. A call that stops there is one
//! that was never finished, and the audit, which then looks, says so.

use std::cell::Cell;
use std::rc::Rc;

use seamlock_kvm::fallocate;
use seamlock_kvm::gmem::{FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE};
use seamlock_kvm::sev::{KVM_SEV_INIT2, SevCmd, SevInit};
use seamlock_kvm::task::Files;
use seamlock_sync::{Action, Hook, Op, Outcome, Verdict, install};
use seamlock_tdx_abi::PAGE_SIZE;
use seamlock_tdx_abi::kvm::*;
use zerocopy::{FromZeros, IntoBytes};

use super::*;

/// Calls back once, after an operation on an object of this class.
struct After {
    action: Action,
    class: &'static str,
    then: Cell<Option<Box<dyn FnOnce()>>>,
}

impl Hook for After {
    fn before(&self, _op: &Op) -> Verdict {
        Verdict::Go
    }

    fn after(&self, op: &Op, _outcome: Outcome) {
        if op.action == self.action
            && op.name.class.name() == self.class
            && let Some(then) = self.then.take()
        {
            then();
        }
    }
}

/// Runs `f`, and `then` in the middle of it.
fn with_a_stop<R>(
    (action, class): (Action, &'static str),
    then: impl FnOnce() + 'static,
    f: impl FnOnce() -> R,
) -> R {
    let then = Cell::new(Some(Box::new(then) as Box<dyn FnOnce()>));
    let before = install(Some(Rc::new(After {
        action,
        class,
        then,
    })));
    let result = f();
    install(before);
    result
}

/// What was found so far.
fn told(world: &World) -> Vec<(&'static str, String)> {
    let all = world.watch.findings.all();
    all.into_iter()
        .map(|found| (found.check, found.what))
        .collect()
}

#[test]
fn a_guest_memfd_that_is_locked_is_told() {
    let (world, vm) = world_with_a_td();
    let world = Arc::new(world);
    let gmem = vm.gmems.with(|gmems| gmems[0].clone());
    let there = world.clone();
    let audit = move || {
        let control = Control::on(0);
        Audit {
            world: &there,
            control,
        }
        .locks();
    };
    let control = Control::on(0);
    let client = Client::new(&world.files, &control, &world.sources);
    let mode = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE;
    let punch = || fallocate(&client.task(MM), gmem.fd, mode, 0, PAGE_SIZE);
    let held = (Action::Lock, "filemap_invalidate_lock");
    assert_eq!(with_a_stop(held, audit, punch), Ok(()));
    assert_found(&told(&world), "no guest_memfd is locked", "is held");
}

#[test]
fn a_descriptor_that_nobody_closes_is_told() {
    let world = Arc::new(boot());
    let there = world.clone();
    let open_another = move || {
        there
            .files
            .install(&there.kvm.file)
            .map(drop)
            .expect("room");
    };
    let closing = (Action::Store, "descriptor");
    let found = with_a_stop(closing, open_another, || findings(&world));
    assert_found(&found, "no descriptor leaks", "1 descriptors are left");
}

#[test]
fn a_guest_that_has_left_its_vm_by_half_is_told_to_be_in_two() {
    let world = Arc::new(boot_with(true));
    let control = Control::on(0);
    let client = Client::new(&world.files, &control, &world.sources);
    let create = || {
        client
            .create_vm(&world.kvm.file, KVM_X86_SEV_VM)
            .expect("a VM")
    };
    let ((from, source), (_, target)) = (create(), create());
    let init = SevCmd {
        id: KVM_SEV_INIT2,
        data: client.store_data(SevInit::new_zeroed().as_bytes()),
        ..SevCmd::default()
    };
    client
        .with(&source, KVM_MEMORY_ENCRYPT_OP, &init)
        .expect("a guest");
    let cap = KvmEnableCap {
        cap: KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM,
        args: [from as u64, 0, 0, 0],
        ..KvmEnableCap::new_zeroed()
    };
    let there = world.clone();
    let audit = move || {
        let control = Control::on(0);
        Audit {
            world: &there,
            control,
        }
        .sev_guests();
    };
    let taken = (Action::Store, "sev->asid");
    let moved = with_a_stop(taken, audit, || client.with(&target, KVM_ENABLE_CAP, &cap));
    assert_eq!(moved, Ok(0));
    let found = told(&world);
    assert_found(&found, "an SEV guest is in one VM", "is in two VMs");
    assert_eq!(found.len(), 1, "{found:?}");
}
