//! What is open in v7.3, by its source: one thread and a migration, or PUNCH_HOLE beside FINALIZE_VM.

mod vmm;

use std::cell::Cell;
use std::rc::Rc;

use seamlock_kvm::bug::What;
use seamlock_kvm::discipline::{Discipline, SEALED, V7_3};
use seamlock_kvm::gmem::{FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE};
use seamlock_kvm::{Bug, Control, Options, fallocate};
use seamlock_sync::{Action, Hook, Op, Outcome, Verdict, install};
use seamlock_tdx_abi::kvm::*;
use seamlock_tdx_abi::{Leaf, TdxStatus};
use vmm::{Reply, Vmm, boot_with};
use zerocopy::IntoBytes;

/// Does something once, after the thread's first operation that fits.
struct After<P: Fn(&Op) -> bool, F: FnOnce()>(P, Cell<Option<F>>);

impl<P: Fn(&Op) -> bool, F: FnOnce()> Hook for After<P, F> {
    fn before(&self, _: &Op) -> Verdict {
        Verdict::Go
    }

    fn after(&self, op: &Op, _: Outcome) {
        if (self.0)(op)
            && let Some(f) = self.1.take()
        {
            f();
        }
    }
}

fn with_in_between<T>(
    fits: impl Fn(&Op) -> bool + 'static,
    between: impl FnOnce() + 'static,
    call: impl FnOnce() -> T,
) -> T {
    let hook = After(fits, Cell::new(Some(between)));
    let before = install(Some(Rc::new(hook)));
    let result = call();
    install(before);
    result
}

fn boot(discipline: &'static Discipline) -> Rc<Vmm> {
    Rc::new(boot_with(Options {
        discipline,
        ..Options::default()
    }))
}

fn failed(bugs: &[Bug]) -> Option<(Leaf, TdxStatus)> {
    match bugs.first().map(|bug| &bug.what) {
        Some(What::Seamcall { leaf, status, .. }) => Some((*leaf, status.code())),
        _ => None,
    }
}

/// INIT_VCPU whose thread is moved as soon as it gives mmu_lock back, right after TDH.VP.INIT.
fn init_vcpu_that_migrates(discipline: &'static Discipline) -> (Rc<Vmm>, vmm::Td) {
    let vmm = boot(discipline);
    let mut td = vmm.create_td();
    vmm.init_vm(&td).expect("INIT_VM");
    let vcpu = vmm.create_vcpu(&mut td, 0).expect("a vCPU") as i32;
    vmm.set_cpuid(vcpu).expect("CPUID");
    let machine = vmm.clone();
    let given_back =
        |op: &Op| op.action == Action::Unlock && op.name.class.name() == "kvm->mmu_lock";
    let reply = with_in_between(
        given_back,
        move || machine.control.migrate(1),
        || vmm.init_vcpu(vcpu),
    );
    // A failed TDH.VP.WR is no error of the ioctl.
    assert_eq!(reply, Ok(0));
    (vmm, td)
}

#[test]
fn init_vcpu_that_migrates_after_vp_init_bugs_the_vm_and_loses_its_hkid() {
    let (vmm, td) = init_vcpu_that_migrates(&V7_3);
    let bugs = vmm.host.live_vms()[0].bugs();
    let expected = (Leaf::VP_WR, TdxStatus::VCPU_ASSOCIATED);
    assert_eq!(failed(&bugs), Some(expected));
    vmm.drop_td(&td);
    assert!(!vmm.host.teardowns()[0].hkid_returned);
}

#[test]
fn a_vcpu_that_is_initialised_with_vp_init_is_flushed_when_it_migrates() {
    let (vmm, td) = init_vcpu_that_migrates(&SEALED);
    assert!(vmm.host.live_vms()[0].bugs().is_empty());
    assert_eq!(vmm.finalize(&td), Ok(0));
    vmm.drop_td(&td);
    let end = &vmm.host.teardowns()[0];
    assert_eq!(
        (end.hkid_returned, end.pages_leaked, end.bugs),
        (true, 0, 0)
    );
}

#[test]
fn punch_hole_that_tested_the_state_before_finalize_vm_fails_to_remove_its_page() {
    let vmm = boot(&V7_3);
    let td = vmm.build(1);
    let mut region = KvmTdxInitMemRegion {
        source_addr: vmm.process.map(4096),
        gpa: 0,
        nr_pages: 1,
    };
    assert_eq!(vmm.load(td.vcpus[0], &mut region, true), Ok(0));
    let (machine, vm) = (vmm.clone(), td.vm);
    let tests_state =
        |op: &Op| op.action == Action::Load && op.name.class.name() == "kvm_tdx->state";
    let finalize = move || {
        let cmd = KvmTdxCmd {
            id: TdxCmdId::KVM_TDX_FINALIZE_VM.0,
            ..KvmTdxCmd::default()
        };
        let arg = machine.process.map_copy(cmd.as_bytes());
        let process = &machine.process;
        let reply = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let control = Control::on(1);
                let task = process.task(&control);
                seamlock_kvm::ioctl_fd(&task, vm, KVM_MEMORY_ENCRYPT_OP, arg)
            });
            thread.join().expect("no panic")
        });
        assert_eq!(reply.map_err(|error| error.errno), Ok(0));
    };
    let hole = with_in_between(tests_state, finalize, || {
        let mode = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE;
        fallocate(&vmm.process.task(&vmm.control), td.gmem, mode, 0, 4096)
    });
    assert!(hole.is_ok());
    let bugs = vmm.host.live_vms()[0].bugs();
    let expected = (Leaf::MEM_PAGE_REMOVE, TdxStatus::TLB_TRACKING_NOT_DONE);
    assert_eq!(failed(&bugs), Some(expected));
}

/// KVM_PRE_FAULT_MEMORY of a finalized TD on a vCPU that was created, and not initialised.
fn prefault_before_init_vcpu(discipline: &'static Discipline) -> (Rc<Vmm>, Reply) {
    let vmm = boot(discipline);
    let mut td = vmm.build(1);
    vmm.create_vcpu(&mut td, 1).expect("a vCPU");
    assert_eq!(vmm.finalize(&td), Ok(0));
    let mut range = KvmPreFaultMemory {
        size: 0x1000,
        ..Default::default()
    };
    let reply = vmm.ioctl_with(td.vcpus[1], KVM_PRE_FAULT_MEMORY, &mut range);
    (vmm, reply)
}

#[test]
fn prefaulting_a_vcpu_that_init_vcpu_never_saw_bugs_the_vm() {
    let (vmm, reply) = prefault_before_init_vcpu(&V7_3);
    assert_eq!(reply, Err(Errno::EIO));
    let bugs = vmm.host.live_vms()[0].bugs();
    let expected = (Leaf::VP_WR, TdxStatus::PAGE_METADATA_INCORRECT);
    assert_eq!(failed(&bugs), Some(expected));
    assert!(bugs[0].site.contains("tdx_load_mmu_pgd") && bugs[0].fatal);
}

#[test]
fn sealed_refuses_to_prefault_a_vcpu_that_init_vcpu_never_saw() {
    let (vmm, reply) = prefault_before_init_vcpu(&SEALED);
    assert_eq!(reply, Err(Errno::EINVAL));
    assert!(vmm.host.live_vms()[0].bugs().is_empty());
}
