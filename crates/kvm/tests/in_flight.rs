//! FINALIZE_VM by another thread, exactly when a command or a creation has tested the TD's state: what
//! each discipline makes of it.

mod vmm;

use std::cell::Cell;
use std::rc::Rc;

use seamlock_kvm::bug::What;
use seamlock_kvm::discipline::{self, CreateVcpu, DISCIPLINES, Discipline};
use seamlock_kvm::{Control, Options};
use seamlock_sync::{Action, Hook, Op, Outcome, Verdict, install};
use seamlock_tdx_abi::kvm::*;
use seamlock_tdx_abi::{Leaf, TdxStatus};
use vmm::{Reply, Td, Vmm, boot_with};
use zerocopy::IntoBytes;

fn under(discipline: &'static Discipline) -> Rc<Vmm> {
    let mut vmm = boot_with(Options {
        discipline,
        ..Options::default()
    });
    vmm.breaches_expected = true;
    Rc::new(vmm)
}

/// Does something once, when the thread has just read `kvm_tdx->state`.
struct AfterTheTest<F: FnOnce()>(Cell<Option<F>>);

impl<F: FnOnce()> Hook for AfterTheTest<F> {
    fn before(&self, _: &Op) -> Verdict {
        Verdict::Go
    }

    fn after(&self, op: &Op, _: Outcome) {
        if op.action == Action::Load
            && op.name.class.name() == "kvm_tdx->state"
            && let Some(f) = self.0.take()
        {
            f();
        }
    }
}

/// FINALIZE_VM on a thread of its own, which gives up a killable wait at once.
fn finalize_elsewhere(vmm: &Vmm, td: &Td) -> Reply {
    let cmd = KvmTdxCmd {
        id: TdxCmdId::KVM_TDX_FINALIZE_VM.0,
        flags: 0,
        data: 0,
        hw_error: 0,
    };
    let (process, vm) = (&vmm.process, td.vm);
    let arg = process.map_copy(cmd.as_bytes());
    let finalize = || {
        let control = Control::on(1);
        control.signal(true);
        let task = process.task(&control);
        seamlock_kvm::ioctl_fd(&task, vm, KVM_MEMORY_ENCRYPT_OP, arg)
    };
    let reply = std::thread::scope(|scope| scope.spawn(finalize).join().expect("no panic"));
    reply.map_err(|error| error.errno)
}

/// `call`, with FINALIZE_VM in between: what both answered.
fn with_finalize_in_between(
    vmm: &Rc<Vmm>,
    td: &Td,
    call: impl FnOnce(&Vmm) -> Reply,
) -> (Reply, Reply) {
    let finalized = Rc::new(Cell::new(Err(Errno::ENOSYS)));
    let (seen, machine, whose) = (finalized.clone(), vmm.clone(), td.clone());
    let hook = AfterTheTest(Cell::new(Some(move || {
        seen.set(finalize_elsewhere(&machine, &whose));
    })));
    let before = install(Some(Rc::new(hook)));
    let reply = call(vmm);
    install(before);
    (reply, finalized.get())
}

#[test]
fn a_vcpu_in_creation_is_published_in_a_finalized_td_unless_the_guard_looks_for_it() {
    // Where a creation holds kvm->lock throughout, FINALIZE_VM would wait for it.
    let open = |d: &&&Discipline| d.create_vcpu == CreateVcpu::UnlockedMiddle && d.name != "seed";
    for discipline in DISCIPLINES.iter().filter(open) {
        let vmm = under(discipline);
        let mut td = vmm.build(1);
        let (created, finalized) =
            with_finalize_in_between(&vmm, &td.clone(), |vmm| vmm.create_vcpu(&mut td, 1));
        let name = discipline.name;
        assert!(created.is_ok(), "{name}");
        let guarded = matches!(name, "seed-24" | "guardslots" | "v6.19" | "sev-unchecked");
        let expected = if guarded { Err(Errno::EBUSY) } else { Ok(0) };
        assert_eq!(finalized, expected, "{name}");
        let second = *td.vcpus.last().expect("just created");
        assert_eq!(vmm.set_cpuid(second), Ok(0));
        // In a finalized TD it can never be initialised.
        let expected = if guarded { Ok(0) } else { Err(Errno::EINVAL) };
        assert_eq!(vmm.init_vcpu(second), expected, "{name}");
    }
}

#[test]
fn init_vcpu_that_tested_the_state_before_finalize_bugs_the_vm_unless_it_tests_again() {
    let rows: [(&Discipline, Reply, Reply, usize); 5] = [
        (&discipline::V6_16, Err(Errno::EIO), Ok(0), 1),
        (&discipline::RETRY, Err(Errno::EIO), Ok(0), 1),
        (&discipline::SLOTS, Err(Errno::EIO), Ok(0), 1),
        (&discipline::SLOTS_RETEST, Err(Errno::EINVAL), Ok(0), 0),
        // The guard waits for this vCPU's mutex.
        (&discipline::SEED_24, Ok(0), Err(Errno::EINTR), 0),
    ];
    for (discipline, init, finalize, bugs) in rows {
        let vmm = under(discipline);
        let mut td = vmm.build(1);
        let second = vmm.create_vcpu(&mut td, 1).expect("a vCPU") as i32;
        assert_eq!(vmm.set_cpuid(second), Ok(0));
        let replies = with_finalize_in_between(&vmm, &td, |vmm| vmm.init_vcpu(second));
        assert_eq!(replies, (init, finalize), "{}", discipline.name);
        let found = vmm.host.live_vms()[0].bugs();
        assert_eq!(found.len(), bugs, "{}", discipline.name);
        for bug in found {
            let What::Seamcall { leaf, status, .. } = bug.what else {
                panic!("{bug}");
            };
            assert_eq!(leaf, Leaf::VP_CREATE);
            assert!(status.is(TdxStatus::OP_STATE_INCORRECT), "{status}");
        }
    }
}
