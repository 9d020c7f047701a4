//! What the checker says of disciplines that are known to be right or wrong, and of odd scenarios.

use std::cell::Cell;
use std::rc::Rc;

use seamlock_check::programs::guard::{Guard, Policy};
use seamlock_check::{
    Budget, CheckError, Counterexample, Limit, Options, Oracle, Schedule, Setup, Step, Verdict,
    View, Violation, check, replay, shrink, survey,
};
use seamlock_sync::{
    Action, Class, Mode, Mutex, Outcome, RwLock, Shared, SharexHp, WaitQueue, announce, relax,
};

static LOCK: Class = Class::new("lock");
static WORD: Class = Class::new("word");
static CELL: Class = Class::new("cell");
static QUEUE: Class = Class::new("queue");
static SIGNAL: Class = Class::new("signal");

fn verdict(scenario: impl Fn(&mut Setup), options: &Options) -> Verdict {
    check(&scenario, options).unwrap().verdict
}

fn refuted(scenario: impl Fn(&mut Setup)) -> Counterexample {
    match verdict(scenario, &Options::default()) {
        Verdict::Refuted(example) => *example,
        verdict => panic!("{verdict}"),
    }
}

fn guard(model: Guard) -> impl Fn(&mut Setup) {
    move |setup: &mut Setup| model.build(setup)
}

#[test]
fn each_wrong_discipline_is_refuted_for_its_own_reason() {
    let cases = [
        (
            Guard::full(Policy::Before, 2).with_finalize(),
            "found TDR busy",
        ),
        (Guard::full(Policy::Slots, 2).with_flush(), "found TDR busy"),
        (
            Guard::full(Policy::Slots, 1).with_finalize().with_create(),
            "a vCPU was published",
        ),
        (
            Guard::full(Policy::NoCheck, 4)
                .with_finalize()
                .with_create(),
            "a vCPU was published",
        ),
        (Guard::full(Policy::NoVcpus, 2), "found TDR busy"),
        (
            Guard::full(Policy::GuardSlots, 4),
            "threads wait for slots_lock, vcpu->mutex",
        ),
    ];
    for (model, wanted) in cases {
        let example = refuted(guard(model));
        assert!(
            example.violation.cause.contains(wanted),
            "{model:?}\n{example}"
        );
        assert!(example.schedule.switches() <= 3, "{example}");
        // Without the walks the search alone finds it too.
        let search = Options {
            walks: Vec::new(),
            ..Options::default()
        };
        assert!(
            matches!(verdict(guard(model), &search), Verdict::Refuted(_)),
            "{model:?}"
        );
    }
}

#[test]
fn before_the_series_every_seamcall_can_be_refused() {
    let model = Guard::small(Policy::Before, 1).with_finalize();
    let found = survey(&guard(model), &Options::default(), 100).unwrap();
    assert!(found.explored.is_ok());
    let causes: Vec<&str> = found
        .findings
        .iter()
        .map(|e| e.violation.cause.as_str())
        .collect();
    for leaf in [
        "VP.CREATE",
        "VP.ADDCX",
        "VP.INIT",
        "MNG.RD",
        "MR.FINALIZE",
        "PAGE.ADD",
        "MR.EXTEND",
    ] {
        assert!(
            causes.iter().any(|cause| cause.starts_with(leaf)),
            "{leaf}: {causes:?}"
        );
    }
}

#[test]
fn a_counterexample_is_replayed_from_its_text() {
    let model = Guard::full(Policy::NoVcpus, 2);
    let example = refuted(guard(model));
    let schedule: Schedule = example.schedule.to_string().parse().unwrap();
    let again = replay(&guard(model), &schedule, 10_000).unwrap();
    assert_eq!(again.diverged, None);
    assert_eq!(again.violations[0], example.violation);
    assert_eq!(again.example.unwrap().to_string(), example.to_string());

    let changed = Guard {
        policy: Policy::Guard,
        ..model
    };
    let again = replay(&guard(changed), &schedule, 10_000).unwrap();
    let diverged = again.diverged.unwrap();
    assert!(
        diverged.step > 0 && again.violations.is_empty(),
        "{diverged}"
    );
}

#[test]
fn a_counterexample_gets_smaller_with_its_scenario() {
    let smaller = |model: &Guard| {
        let with = |change: fn(&mut Guard)| {
            let mut less = *model;
            change(&mut less);
            (less != *model).then_some(less)
        };
        let changes: [fn(&mut Guard); 4] = [
            |m| m.vcpus = m.vcpus.saturating_sub(1),
            |m| m.pages = m.pages.saturating_sub(1),
            |m| m.extends /= 2,
            |m| m.addcx /= 2,
        ];
        changes.into_iter().filter_map(with).collect()
    };
    let violates = |model: &Guard| match check(&guard(*model), &Options::default())?.verdict {
        Verdict::Refuted(example) => Ok::<_, CheckError>(Some(example)),
        _ => Ok(None),
    };
    let start = Guard::full(Policy::GuardSlots, 3);
    let (model, example) = shrink(start, smaller, violates).unwrap().unwrap();
    assert_eq!((model.vcpus, model.pages, model.addcx), (1, 0, 0));
    assert_eq!(example.violation.oracle, "deadlock");
    let text = example.to_string();
    assert!(text.contains("waits for slots_lock, held by mem"), "{text}");
}

#[test]
fn the_same_seed_gives_the_same_answer() {
    let model = Guard::full(Policy::Before, 3).with_finalize();
    let text = || refuted(guard(model)).to_string();
    assert_eq!(text(), text());
}

#[test]
fn a_budget_that_ends_is_no_proof() {
    let model = Guard::small(Policy::Guard, 3).with_finalize();
    let budget = Budget {
        executions: 100,
        ..Budget::default()
    };
    let options = Options {
        walks: Vec::new(),
        budget,
        ..Options::default()
    };
    match verdict(guard(model), &options) {
        Verdict::NotExhausted {
            executions: 100,
            why: Limit::Executions,
        } => {}
        verdict => panic!("{verdict}"),
    }
    let walks = Options {
        prove: false,
        ..Options::default()
    };
    match verdict(guard(model), &walks) {
        Verdict::NotExhausted {
            why: Limit::WalksOnly,
            ..
        } => {}
        verdict => panic!("{verdict}"),
    }
}

#[test]
fn an_execution_that_does_not_end_is_no_proof() {
    let scenario = |setup: &mut Setup| {
        let cell = Rc::new(Shared::new(CELL.only(), 0));
        setup.thread("spins", move || while cell.load() == 0 {});
    };
    let budget = Budget {
        executions: 10,
        steps: 100,
        ..Budget::default()
    };
    let options = Options {
        walks: Vec::new(),
        budget,
        ..Options::default()
    };
    match verdict(scenario, &options) {
        Verdict::NotExhausted {
            why: Limit::Steps, ..
        } => {}
        verdict => panic!("{verdict}"),
    }
}

#[test]
fn a_retry_loop_waits_for_the_release_instead_of_spinning() {
    let scenario = |setup: &mut Setup| {
        let word = Rc::new(SharexHp::new());
        for name in ["a", "b", "c"] {
            let word = word.clone();
            setup.thread(name, move || {
                while !word.try_exclusive(WORD.only()) {
                    relax(WORD.only());
                }
                word.release_exclusive(WORD.only());
            });
        }
        setup.at_end(move || {
            let left = word.view();
            (left.exclusive || left.readers > 0).then(|| Violation::new("leak", "a word is held"))
        });
    };
    assert!(matches!(
        verdict(scenario, &Options::default()),
        Verdict::Proved { traces: 7.. }
    ));
}

#[test]
fn a_signal_ends_a_killable_wait_and_only_that() {
    let scenario = |setup: &mut Setup| {
        let lock = Rc::new(Mutex::new(LOCK.only(), ()));
        let queue = Rc::new(WaitQueue::new(QUEUE.only()));
        let (mutex, reporter) = (lock.clone(), setup.reporter());
        let waits = setup.thread("waits", move || {
            if mutex.lock_killable(None, || false).is_err() {
                reporter.report(Violation::new("test", "interrupted"));
            }
        });
        setup.signal(waits, SIGNAL.only());
        setup.thread("holds", move || {
            let _held = lock.lock();
            let _ = queue.wait_until(|| false, || false);
        });
        setup.thread("kills", || {
            announce(Action::Notify, SIGNAL.only(), 0);
        });
    };
    let found = survey(&scenario, &Options::default(), 10).unwrap();
    let causes: Vec<&str> = found
        .findings
        .iter()
        .map(|e| e.violation.cause.as_str())
        .collect();
    // The holder sleeps for ever; the killable waiter never does.
    assert!(
        causes.contains(&"interrupted") && causes.contains(&"threads wait for queue"),
        "{causes:?}"
    );
    assert_eq!(causes.len(), 2, "{causes:?}");
}

#[test]
fn a_lock_that_the_set_up_holds_is_held_when_the_threads_start() {
    let scenario = |setup: &mut Setup| {
        let lock = Rc::new(RwLock::new(LOCK.only(), ()));
        let held: &'static RwLock<()> = Box::leak(Box::new(RwLock::new(LOCK.at(1), ())));
        let guard = held.read();
        let other = lock.clone();
        setup.thread("gives back", move || {
            let _first = other.write();
            drop(guard);
        });
        setup.thread("writes", move || drop((lock.read(), held.write())));
    };
    let example = refuted(scenario);
    assert_eq!(example.violation.oracle, "deadlock");
}

#[test]
fn what_threads_panic_with_is_the_violation() {
    let scenario = |setup: &mut Setup| {
        let lock = Rc::new(Mutex::new(LOCK.only(), 0));
        for name in ["a", "b"] {
            let lock = lock.clone();
            setup.thread(name, move || {
                let mut count = lock.lock();
                *count += 1;
                if *count == 2 {
                    std::panic::resume_unwind(Box::new("twice"));
                }
            });
        }
    };
    let example = refuted(scenario);
    assert_eq!(
        (&*example.violation.oracle, &*example.violation.cause),
        ("panic", "twice")
    );
}

#[test]
fn an_oracle_sees_every_step_and_who_holds_what() {
    struct Order;
    impl Oracle for Order {
        fn step(&mut self, view: &View<'_>, step: &Step<'_>) -> Option<Violation> {
            let taken = step.op.action == Action::Lock && step.outcome == Outcome::Done;
            let held = view.held_by(step.thread);
            let wrong = taken && step.op.name == LOCK.at(1) && held.contains(&LOCK.at(2));
            let who = view.thread_name(step.thread).to_owned();
            wrong.then(|| Violation::new("lock order", "1 inside 2").with_detail(who))
        }
    }
    let scenario = |setup: &mut Setup| {
        let locks = Rc::new([Mutex::new(LOCK.at(1), ()), Mutex::new(LOCK.at(2), ())]);
        setup.oracle(Order);
        setup.thread("wrong", move || drop((locks[1].lock(), locks[0].lock())));
    };
    let example = refuted(scenario);
    assert_eq!(
        example.violation.to_string(),
        "lock order: 1 inside 2 (wrong)"
    );
    assert_eq!(example.steps.len(), 2);
}

#[test]
fn a_scenario_that_is_not_the_same_each_time_is_an_error() {
    let runs = Cell::new(0);
    let scenario = |setup: &mut Setup| {
        runs.set(runs.get() + 1);
        let run = runs.get();
        let word = Rc::new(SharexHp::new());
        for name in ["a", "b"] {
            let word = word.clone();
            setup.thread(name, move || {
                let name = WORD.at(if run > 2 { 1 } else { 0 });
                if word.try_acquire(Mode::Shared, name) {
                    word.release(Mode::Shared, name);
                }
                if word.try_acquire(Mode::Exclusive, name) {
                    word.release(Mode::Exclusive, name);
                }
            });
        }
    };
    let options = Options {
        walks: Vec::new(),
        ..Options::default()
    };
    match check(&scenario, &options) {
        Err(CheckError::Nondeterministic {
            expected, found, ..
        }) => {
            assert!(
                expected.contains("word") && found.contains("word[0x1]"),
                "{expected} {found}"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_scenario_that_cannot_run_is_an_error() {
    let crowd = |setup: &mut Setup| {
        for _ in 0..16 {
            setup.thread("one of many", || ());
        }
    };
    assert_eq!(
        check(&crowd, &Options::default()).unwrap_err(),
        CheckError::TooManyThreads(16)
    );
    let stuck = |setup: &mut Setup| {
        let lock = Mutex::new(LOCK.only(), ());
        let _once = lock.lock();
        let _twice = lock.lock();
        setup.thread("never", || ());
    };
    assert!(matches!(
        check(&stuck, &Options::default()),
        Err(CheckError::Setup(_))
    ));
    let empty = |_: &mut Setup| ();
    assert!(matches!(
        verdict(empty, &Options::default()),
        Verdict::Proved { traces: 1 }
    ));
}

#[test]
fn what_commutes_is_run_in_one_order_only() {
    let traces = |scenario: &dyn Fn(&mut Setup)| match verdict(scenario, &Options::default()) {
        Verdict::Proved { traces } => traces,
        verdict => panic!("{verdict}"),
    };
    let three = |setup: &mut Setup, body: Rc<dyn Fn()>| {
        for name in ["a", "b", "c"] {
            let body = body.clone();
            setup.thread(name, move || body());
        }
    };
    let counted = |setup: &mut Setup| {
        let users = Shared::new(CELL.only(), 0u32);
        let body = move || {
            users.add(1);
            users.sub(1);
        };
        three(setup, Rc::new(body));
    };
    let read = |setup: &mut Setup| {
        let lock = RwLock::new(LOCK.only(), ());
        three(setup, Rc::new(move || drop((lock.read(), lock.read()))));
    };
    let shared = |setup: &mut Setup| {
        let word = SharexHp::new();
        let body = move || {
            assert!(word.try_shared(WORD.only()));
            word.release_shared(WORD.only());
        };
        three(setup, Rc::new(body));
    };
    let seen = |setup: &mut Setup| {
        let users = Shared::new(CELL.only(), 0u32);
        three(setup, Rc::new(move || assert!(users.fetch_add(1) < 3)));
    };
    assert_eq!(
        (traces(&counted), traces(&read), traces(&shared)),
        (1, 1, 1)
    );
    assert_eq!(traces(&seen), 6, "who sees what was there is ordered");
}

/// A CPU's list of vCPUs, and who takes it offline: looks at the list and does something under `other`
/// for each entry. Whether the look is under the list's lock is what the two tests differ in.
fn walks_a_list(setup: &mut Setup, under_the_lock: bool) {
    let list = Rc::new(Mutex::new(LOCK.at(1), ()));
    let entries = Rc::new(Cell::new(0));
    let other = Rc::new(Mutex::new(LOCK.at(2), ()));
    let (adds_to, added) = (list.clone(), entries.clone());
    setup.thread("adds", move || {
        let _list = adds_to.lock();
        added.set(1);
    });
    setup.thread("walks", move || {
        drop(other.lock());
        let held = under_the_lock.then(|| list.lock());
        let seen = entries.get();
        drop(held);
        for _ in 0..seen {
            drop(list.lock());
        }
        drop(other.lock());
    });
    // Has nothing to do with either, but changes the order in which they are run.
    setup.thread("beside", || {
        announce(Action::Store, CELL.at(1), 1);
    });
}

#[test]
fn a_list_that_is_walked_under_its_lock_is_no_riddle() {
    let verdict = verdict(|setup| walks_a_list(setup, true), &Options::default());
    assert!(
        matches!(verdict, Verdict::Proved { traces: 2 }),
        "{verdict}"
    );
}

#[test]
fn what_is_read_without_an_operation_is_told_as_the_scenarios_fault() {
    let unlocked = |setup: &mut Setup| walks_a_list(setup, false);
    let Err(error) = check(&unlocked, &Options::default()) else {
        panic!("the walk was not noticed");
    };
    let CheckError::Nondeterministic { thread, found, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(thread, "walks", "{error}");
    assert!(found.contains("lock[0x"), "{error}");
}
