use std::cell::RefCell;
use std::rc::Rc;

use seamlock_sync::{Hook, Mutex, RwLock, Section, Verdict, announce, install};

use super::*;
use crate::locks::*;
use crate::vm::Srcu;

/// Lockdep on this thread only, as a checker would have it.
struct Watch {
    lockdep: Arc<Lockdep>,
    held: RefCell<Held>,
}

impl Hook for Watch {
    fn before(&self, op: &Op) -> Verdict {
        self.lockdep.before(&self.held.borrow(), op);
        Verdict::Go
    }

    fn after(&self, op: &Op, outcome: Outcome) {
        self.lockdep.after(&mut self.held.borrow_mut(), op, outcome);
    }
}

/// What lockdep reports of `f`, as rule, held lock and wanted lock.
fn watched(f: impl FnOnce()) -> Vec<(Rule, String, String)> {
    breaches(f)
        .iter()
        .map(|b| (b.rule, b.against.title(), b.acquired.title()))
        .collect()
}

fn breaches(f: impl FnOnce()) -> Vec<Breach> {
    let lockdep = Lockdep::new();
    let watch = Rc::new(Watch {
        lockdep: lockdep.clone(),
        held: RefCell::default(),
    });
    let before = install(Some(watch.clone()));
    f();
    install(before);
    lockdep.leave(&mut watch.held.borrow_mut());
    lockdep.breaches()
}

fn found(rule: Rule, against: &str, acquired: &str) -> (Rule, String, String) {
    (rule, against.to_owned(), acquired.to_owned())
}

fn mutex(class: &'static seamlock_sync::Class, number: u64) -> Mutex<()> {
    Mutex::new(class.at(number), ())
}

fn killable(mutex: &Mutex<()>, nest: Option<seamlock_sync::Name>) -> bool {
    mutex.lock_killable(nest, || false).is_ok()
}

#[test]
fn locks_in_the_declared_order_are_no_breach() {
    let (vm, vcpu, slots) = (
        mutex(&VM_LOCK, 1),
        mutex(&VCPU_MUTEX, 1),
        mutex(&SLOTS_LOCK, 1),
    );
    let mmu = RwLock::new(MMU_LOCK.at(1), ());
    let reports = watched(|| {
        let _held = (vm.lock(), vcpu.lock(), slots.lock(), mmu.write());
    });
    assert_eq!(reports, []);
}

#[test]
fn an_inversion_tells_both_sites_and_what_is_declared() {
    let (vm, vcpu, slots) = (
        mutex(&VM_LOCK, 1),
        mutex(&VCPU_MUTEX, 1),
        mutex(&SLOTS_LOCK, 1),
    );
    let line = line!() + 2;
    let all = breaches(|| {
        let _held = (vm.lock(), slots.lock());
        let _inner = vcpu.lock();
    });
    let [breach] = &all[..] else {
        panic!("{all:?}")
    };
    assert_eq!(breach.rule, Rule::Inversion);
    assert_eq!(
        (breach.against.site.line(), breach.acquired.site.line()),
        (line, line + 1)
    );
    let text = breach.to_string();
    let file = file!();
    for part in [
        format!("taking   vcpu->mutex[0x1] at {file}:{}", line + 1),
        format!("holding  kvm->slots_lock[0x1] at {file}:{line}"),
        "declared vcpu->mutex > kvm->slots_lock (locking.rst)".to_owned(),
        format!("    kvm->lock[0x1] at {file}:{line}\n    kvm->slots_lock[0x1]"),
    ] {
        assert!(text.contains(&part), "{part}\n{text}");
    }
}

#[test]
fn all_vcpu_mutexes_may_be_held_under_the_vms_lock_that_is_named() {
    let (vm, other) = (mutex(&VM_LOCK, 1), mutex(&VM_LOCK, 2));
    let vcpus = [
        Mutex::new(VCPU_MUTEX.of(1, 0), ()),
        Mutex::new(VCPU_MUTEX.of(1, 1), ()),
    ];
    let all = |nest| {
        let _vm = vm.lock();
        let _held: Vec<_> = vcpus
            .iter()
            .map(|v| v.lock_killable(nest, || false))
            .collect();
    };
    assert_eq!(watched(|| all(Some(vm.name()))), []);
    let vcpu = "vcpu->mutex";
    assert_eq!(watched(|| all(None)), [found(Rule::Recursion, vcpu, vcpu)]);
    let nest_of_another_vm = watched(|| all(Some(other.name())));
    let expected = [
        found(Rule::Recursion, vcpu, vcpu),
        found(Rule::NestNotHeld, vcpu, vcpu),
    ];
    assert_eq!(nest_of_another_vm, expected);
}

#[test]
fn two_vms_can_be_locked_when_the_depth_tells_them_apart() {
    let (dst, src) = (mutex(&VM_LOCK, 1), mutex(&VM_LOCK, 2));
    let nested = watched(|| {
        let _dst = dst.lock();
        assert!(src.lock_killable_at_depth(1, || false).is_ok());
    });
    assert_eq!(nested, []);
    let flat = watched(|| {
        let _dst = dst.lock();
        assert!(killable(&src, None));
    });
    assert_eq!(flat, [found(Rule::Recursion, "kvm->lock", "kvm->lock")]);
}

#[test]
fn opposite_orders_of_one_thread_close_a_circle_that_names_all_four_sites() {
    let (list, tdx) = (mutex(&KVM_LOCK, 0), mutex(&TDX_LOCK, 0));
    let line = line!() + 2;
    let all = breaches(|| {
        drop((list.lock(), tdx.lock()));
        drop((tdx.lock(), list.lock()));
    });
    let circle = all.iter().find(|b| b.rule == Rule::Cycle).unwrap();
    assert_eq!(circle.circle.len(), 1);
    let seen = circle.circle[0];
    assert_eq!(
        (seen.outer.site.line(), seen.inner.site.line()),
        (line, line)
    );
    assert_eq!(
        (circle.against.title(), circle.acquired.title()),
        ("tdx_lock".into(), "kvm_lock".into())
    );
    assert_eq!(
        (circle.against.site.line(), circle.acquired.site.line()),
        (line + 1, line + 1)
    );
    assert!(circle.to_string().contains("seen     kvm_lock at "));
}

#[test]
fn a_circle_over_three_locks_is_found_though_no_two_are_inverted() {
    let (a, b, c) = (
        mutex(&KVM_LOCK, 0),
        mutex(&TDX_LOCK, 0),
        mutex(&APIC_MAP_LOCK, 1),
    );
    let all = breaches(|| {
        drop((a.lock(), b.lock()));
        drop((b.lock(), c.lock()));
        drop((c.lock(), a.lock()));
    });
    let circle = all.iter().find(|b| b.rule == Rule::Cycle).unwrap();
    let inner: Vec<&str> = circle
        .circle
        .iter()
        .map(|s| s.inner.name.class.name())
        .collect();
    assert_eq!(inner, ["tdx_lock", "kvm->arch.apic_map_lock"]);
}

#[test]
fn who_only_tries_a_lock_waits_for_nobody() {
    let (vcpu, slots) = (mutex(&VCPU_MUTEX, 1), mutex(&SLOTS_LOCK, 1));
    let reports = watched(|| {
        let _slots = slots.lock();
        assert!(vcpu.try_lock().is_some());
    });
    assert_eq!(reports, []);
}

#[test]
fn who_must_not_sleep_takes_no_mutex_and_is_not_preempted() {
    let (tdx, mmu) = (mutex(&TDX_LOCK, 0), RwLock::new(MMU_LOCK.at(1), ()));
    let irqs = mutex(&IRQS_OFF, 3);
    let preempt = || Section::enter(PREEMPT_OFF.only());
    let resched = || announce(Action::Point, cells::RESCHED.only(), 0);
    let under = |lock: &str| found(Rule::Atomic, lock, "tdx_lock");
    assert!(watched(|| drop((mmu.read(), tdx.lock()))).contains(&under("kvm->mmu_lock (read)")));
    assert!(watched(|| drop((irqs.lock(), tdx.lock()))).contains(&under("irqs off")));
    assert_eq!(
        watched(|| drop((preempt(), tdx.lock()))),
        [under("preempt off")]
    );
    assert_eq!(watched(|| drop((preempt(), mmu.write(), irqs.lock()))), []);
    let preempted = watched(|| {
        let _mmu = mmu.write();
        resched();
    });
    assert_eq!(
        preempted,
        [found(Rule::Atomic, "kvm->mmu_lock (write)", "cond_resched")]
    );
    assert_eq!(watched(|| drop((tdx.lock(), resched()))), []);
}

#[test]
fn interrupts_are_not_off_on_two_cpus_at_once() {
    let (here, there) = (mutex(&IRQS_OFF, 0), mutex(&IRQS_OFF, 1));
    let reports = watched(|| drop((here.lock(), there.lock())));
    assert_eq!(reports, [found(Rule::Recursion, "irqs off", "irqs off")]);
}

#[test]
fn an_srcu_read_section_keeps_out_what_waits_for_it() {
    let (srcu, slots, arch) = (
        Srcu::new(1),
        mutex(&SLOTS_LOCK, 1),
        mutex(&SLOTS_ARCH_LOCK, 1),
    );
    let (read, wait) = ("kvm->srcu", "kvm->srcu (synchronize)");
    assert_eq!(watched(|| drop((srcu.read(), arch.lock()))), []);
    assert_eq!(watched(|| drop((slots.lock(), srcu.synchronize()))), []);
    let inside = watched(|| drop((srcu.read(), slots.lock())));
    assert_eq!(inside, [found(Rule::Inversion, read, "kvm->slots_lock")]);
    let not_dropped = watched(|| drop((arch.lock(), srcu.synchronize())));
    assert_eq!(
        not_dropped,
        [found(Rule::Inversion, "kvm->slots_arch_lock", wait)]
    );
    // It would wait for ever, so the wait is announced and not done.
    let itself = watched(|| {
        let _read = srcu.read();
        announce(Action::Point, SRCU.at(1), GRACE_PERIOD);
    });
    assert_eq!(itself, [found(Rule::WaitInside, read, wait)]);
    let _ = (srcu.read(), srcu.read());
}

#[test]
fn readers_that_never_wait_close_no_circle() {
    let (srcu, list) = (Srcu::new(1), mutex(&KVM_LOCK, 0));
    let rules = |f: &dyn Fn()| -> Vec<Rule> { watched(f).iter().map(|r| r.0).collect() };
    let readers = rules(&|| {
        drop((srcu.read(), list.lock()));
        drop((list.lock(), srcu.read()));
    });
    assert!(!readers.contains(&Rule::Cycle));
    let with_a_wait = rules(&|| {
        drop((srcu.read(), list.lock()));
        drop((list.lock(), srcu.synchronize()));
    });
    assert!(with_a_wait.contains(&Rule::Cycle));
}

#[test]
fn an_mmu_notifier_takes_no_lock_that_a_change_of_memslots_holds() {
    let (slots, arch) = (mutex(&SLOTS_LOCK, 1), mutex(&SLOTS_ARCH_LOCK, 1));
    let mmu = RwLock::new(MMU_LOCK.at(1), ());
    let notifier = || Section::enter(MMU_NOTIFIER.at(1));
    let srcu = Srcu::new(1);
    assert_eq!(watched(|| drop((notifier(), srcu.read(), mmu.write()))), []);
    for (lock, name) in [(&slots, "kvm->slots_lock"), (&arch, "kvm->slots_arch_lock")] {
        let reports = watched(|| drop((notifier(), lock.lock())));
        assert_eq!(reports, [found(Rule::Inversion, "mmu_notifier", name)]);
    }
}

#[test]
fn a_breach_is_reported_once_for_its_two_classes() {
    let (vcpu, slots) = (mutex(&VCPU_MUTEX, 1), mutex(&SLOTS_LOCK, 1));
    let other = mutex(&VCPU_MUTEX, 2);
    let reports = watched(|| {
        for vcpu in [&vcpu, &vcpu, &other] {
            drop((slots.lock(), vcpu.lock()));
        }
    });
    assert_eq!(
        reports,
        [found(Rule::Inversion, "kvm->slots_lock", "vcpu->mutex")]
    );
}

#[test]
fn a_lock_that_is_taken_twice_or_kept_is_a_breach() {
    let mmu = RwLock::new(MMU_LOCK.at(1), ());
    let again = watched(|| drop((mmu.read(), mmu.read())));
    let (read, rule) = ("kvm->mmu_lock (read)", Rule::Recursion);
    assert_eq!(again, [found(rule, read, read)]);
    let slots = mutex(&SLOTS_LOCK, 1);
    let mut kept = None;
    let reports = watched(|| kept = Some(slots.lock()));
    assert_eq!(
        reports,
        [found(
            Rule::HeldAtReturn,
            "kvm->slots_lock",
            "kvm->slots_lock"
        )]
    );
    drop(kept);
}

#[test]
fn an_interrupted_or_busy_attempt_holds_nothing() {
    let slots = mutex(&SLOTS_LOCK, 1);
    let held = slots.lock();
    let reports = watched(|| {
        assert!(slots.try_lock().is_none());
        assert!(slots.lock_killable(None, || true).is_err());
    });
    assert_eq!(reports, []);
    drop(held);
}
