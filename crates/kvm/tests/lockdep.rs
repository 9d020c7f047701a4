//! Lockdep on whole calls: what a launch takes, and what it reports of a wrong order.

mod vmm;

use std::sync::Arc;

use seamlock_kvm::arch::{self, Arch};
use seamlock_kvm::discipline::Step;
use seamlock_kvm::lockdep::{Lockdep, Rule};
use seamlock_kvm::tdx::VmStateGuard;
use seamlock_kvm::{Discipline, Options, discipline};
use seamlock_tdx_abi::kvm::*;
use vmm::{Vmm, boot_with};

fn boot(discipline: &'static Discipline) -> (Vmm, Arc<Lockdep>) {
    let lockdep = Lockdep::new();
    let options = Options {
        discipline,
        lockdep: Some(lockdep.clone()),
        ..Options::default()
    };
    (boot_with(options), lockdep)
}

/// A launch on one thread, with a move between CPUs, a run, and everything taken apart again.
fn launch(vmm: &Vmm) {
    let td = vmm.build(2);
    let mut region = KvmTdxInitMemRegion {
        source_addr: vmm.process.map_copy(&[7; 8192]),
        gpa: 0x10_0000,
        nr_pages: 2,
    };
    vmm.control.migrate(1);
    vmm.load(td.vcpus[0], &mut region, true)
        .expect("INIT_MEM_REGION");
    vmm.finalize(&td).expect("FINALIZE_VM");
    let mut range = KvmPreFaultMemory {
        gpa: 0x20_0000,
        size: 4096,
        ..Default::default()
    };
    vmm.ioctl_with(td.vcpus[0], KVM_PRE_FAULT_MEMORY, &mut range)
        .expect("PRE_FAULT_MEMORY");
    vmm.control.signal(false);
    assert_eq!(vmm.ioctl(td.vcpus[0], KVM_RUN, 0), Err(Errno::EINTR));
    vmm.control.clear_signals();
    vmm.attributes(td.vm, 0x20_0000, 4096, 0)
        .expect("SET_MEMORY_ATTRIBUTES");
    vmm.slot(&td, 0, 0, 0).expect("the slot goes");
    vmm.drop_td(&td);
}

#[test]
fn a_launch_under_v7_3_breaks_no_rule() {
    let (vmm, lockdep) = boot(&discipline::V7_3);
    launch(&vmm);
    let breaches = lockdep.breaches();
    let text: String = breaches.iter().map(ToString::to_string).collect();
    assert!(breaches.is_empty(), "{text}");
    let seen = lockdep.observed();
    let guard = seen.steps().find(|step| {
        step.outer.title() == "vcpu->mutex" && step.inner.title() == "kvm->slots_lock"
    });
    assert!(guard.is_some_and(|step| step.inner.site.file().ends_with("tdx/guard.rs")));
}

/// The order of the mail's `tdx_acquire_vm_state_locks`.
const SEED_GUARD: &[Step] = &[
    Step::KvmLock,
    Step::SlotsLock,
    Step::RefuseCreationInFlight,
    Step::AllVcpuMutexes,
];

#[test]
fn the_order_of_the_mails_guard_is_an_inversion_on_one_thread() {
    let (mut vmm, lockdep) = boot(&discipline::V7_3);
    vmm.breaches_expected = true;
    let td = vmm.build(2);
    let kvm = vmm.host.live_vms().pop().expect("a TD");
    {
        let _entered = vmm.host.enter();
        let task = vmm.process.task(&vmm.control);
        drop(VmStateGuard::acquire(&task, &kvm, SEED_GUARD).expect("nobody else is there"));
    }
    drop(kvm);
    vmm.drop_td(&td);
    let breaches = lockdep.breaches();
    let rules: Vec<_> = breaches
        .iter()
        .map(|b| (b.rule, b.acquired.title()))
        .collect();
    let vcpu = "vcpu->mutex".to_owned();
    assert_eq!(
        rules,
        [(Rule::Inversion, vcpu.clone()), (Rule::Cycle, vcpu)]
    );
    let inversion = breaches[0].to_string();
    assert!(inversion.contains("declared vcpu->mutex > kvm->slots_lock (locking.rst)"));
    // INIT_VCPU, under v7.3's guard, had taken them the other way round.
    let circle = &breaches[1].circle;
    assert_eq!(circle.len(), 1);
    assert_eq!(circle[0].inner.title(), "kvm->slots_lock");
}

/// Code that takes `slots_lock` inside of `vcpu->mutex`: a first KVM_RUN on AMD and on arm64.
fn run_elsewhere(arch: &'static dyn Arch, lockdep: &Arc<Lockdep>) {
    let lockdep = Some(lockdep.clone());
    let mut vmm = boot_with(Options {
        arch,
        lockdep,
        ..Options::default()
    });
    vmm.breaches_expected = true;
    let vm = vmm.ioctl(vmm.kvm, KVM_CREATE_VM, 0).expect("a VM") as i32;
    if arch.has_x86_tables() {
        vmm.enable_cap(vm, KVM_CAP_SPLIT_IRQCHIP, 24)
            .expect("a split irqchip");
    } else {
        vmm.ioctl(vm, KVM_CREATE_IRQCHIP, 0).expect("a vGIC");
    }
    let vcpu = vmm.ioctl(vm, KVM_CREATE_VCPU, 0).expect("a vCPU") as i32;
    vmm.control.signal(false);
    assert_eq!(vmm.ioctl(vcpu, KVM_RUN, 0), Err(Errno::EINTR));
}

#[test]
fn code_that_exists_takes_slots_lock_inside_the_vcpu_mutex_as_declared() {
    for (arch, file) in [
        (&arch::AMD as &dyn Arch, "avic.rs"),
        (&arch::ARM64, "arm64.rs"),
    ] {
        let lockdep = Lockdep::new();
        run_elsewhere(arch, &lockdep);
        let text: String = lockdep.breaches().iter().map(ToString::to_string).collect();
        assert!(text.is_empty(), "{text}");
        let seen = lockdep.observed();
        let mut inner = seen.steps().filter(|s| s.outer.title() == "vcpu->mutex");
        let slots = inner.find(|s| s.inner.title() == "kvm->slots_lock");
        assert!(
            slots.is_some_and(|s| s.inner.site.file().ends_with(file)),
            "{}",
            arch.name()
        );
    }
}

#[test]
fn the_mails_order_and_existing_code_form_a_circle_that_one_thread_shows() {
    for (arch, file) in [
        (&arch::AMD as &dyn Arch, "avic.rs"),
        (&arch::ARM64, "arm64.rs"),
    ] {
        let lockdep = Lockdep::new();
        run_elsewhere(arch, &lockdep);
        let mut vmm = boot_with(Options {
            lockdep: Some(lockdep.clone()),
            ..Options::default()
        });
        vmm.breaches_expected = true;
        let td = vmm.create_td();
        let kvm = vmm.host.live_vms().pop().expect("a TD");
        vmm.init_vm(&td).expect("INIT_VM");
        vmm.ioctl(td.vm, KVM_CREATE_VCPU, 0).expect("a vCPU");
        {
            let _entered = vmm.host.enter();
            let task = vmm.process.task(&vmm.control);
            drop(VmStateGuard::acquire(&task, &kvm, SEED_GUARD).expect("nobody else is there"));
        }
        let breaches = lockdep.breaches();
        let circle = breaches
            .iter()
            .find(|b| b.rule == Rule::Cycle)
            .expect("a circle");
        assert!(circle.acquired.site.file().ends_with("guard.rs"));
        assert!(
            circle.circle[0].inner.site.file().ends_with(file),
            "{circle}"
        );
    }
}
