//! The number of traces of abstract lock programs is known in closed form.

use seamlock_check::programs::guard::{Guard, Policy};
use seamlock_check::programs::sections::Sections;
use seamlock_check::{Options, Setup, Verdict, check};

fn prove_only() -> Options {
    Options {
        walks: Vec::new(),
        ..Options::default()
    }
}

fn traces(scenario: &dyn Fn(&mut Setup), options: &Options) -> (u64, u64) {
    let report = check(&|setup: &mut Setup| scenario(setup), options).unwrap();
    match report.verdict {
        Verdict::Proved { traces } => (traces, report.effort.executions),
        verdict => panic!("{verdict}"),
    }
}

fn exact(model: Guard) {
    for random in [false, true] {
        let options = Options {
            random,
            ..prove_only()
        };
        let wanted = model.traces().unwrap();
        let build = |setup: &mut Setup| model.build(setup);
        assert_eq!(traces(&build, &options), (wanted, wanted), "{model:?}");
    }
}

#[test]
fn three_threads_with_two_sections_on_one_mutex_take_ninety_executions() {
    let model = Sections {
        threads: 3,
        sections: 2,
    };
    assert_eq!(model.traces(), 90);
    assert_eq!(
        traces(&|setup: &mut Setup| model.build(setup), &prove_only()),
        (90, 90)
    );
    for (threads, sections) in [(1, 5), (2, 1), (2, 4), (4, 1), (3, 3), (4, 2)] {
        let model = Sections { threads, sections };
        let wanted = model.traces();
        let found = traces(&|setup: &mut Setup| model.build(setup), &prove_only());
        assert_eq!(found, (wanted, wanted), "{model:?}");
    }
}

#[test]
fn under_the_guard_every_vcpu_thread_multiplies_the_traces() {
    for vcpus in 1..=4 {
        let small = Guard::small(Policy::Guard, vcpus);
        for model in [small, Guard::full(Policy::Guard, vcpus)] {
            exact(model);
            exact(model.with_finalize());
        }
        exact(small.with_create());
        exact(Guard { ioctls: 1, ..small }.with_finalize());
    }
}

#[test]
fn with_a_vcpu_being_created_the_guard_has_the_known_number_of_traces() {
    for vcpus in 0..=3 {
        exact(
            Guard::small(Policy::Guard, vcpus)
                .with_finalize()
                .with_create(),
        );
    }
    for vcpus in 1..=3 {
        let model = Guard {
            ioctls: 1,
            ..Guard::small(Policy::Guard, vcpus)
        };
        exact(model.with_finalize().with_create());
        exact(model.with_create());
    }
}

#[test]
fn the_guard_with_four_vcpus_at_full_size_is_proved() {
    let model = Guard::full(Policy::Guard, 4).with_finalize().with_create();
    assert_eq!(model.traces(), Some(14_744));
    exact(model);
}

#[test]
fn with_one_lock_around_everything_all_orders_of_sections_differ() {
    for vcpus in 1..=3 {
        exact(Guard::small(Policy::Slots, vcpus).with_finalize());
    }
}
