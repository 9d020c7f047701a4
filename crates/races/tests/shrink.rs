//! Scenes at other sizes than their own, and how they are shrunk.

use std::collections::BTreeSet;

use seamlock_check::{Counterexample, Options, Schedule, Setup, Verdict, WalkKind, check, replay};
use seamlock_kvm::Discipline;
use seamlock_kvm::discipline::by_name;
use seamlock_races::sweep::{Cell, OPERATIONS};
use seamlock_races::{RACES, Setting, Shrunk, Size, Staged, race, shrink};

fn options() -> Options {
    let mut options = Options {
        walks: vec![(WalkKind::Uniform, 60), (WalkKind::Pct { depth: 3 }, 40)],
        ..Options::default()
    };
    options.budget.executions = 20_000;
    options
}

fn scene(id: &str, name: &str) -> Setting {
    let mut scenes = race(id).expect("a race").scenes.iter();
    let found = scenes.find(|scene| scene.name == name);
    Setting::from(*found.expect("a scene"))
}

fn staged(setting: Setting, discipline: &'static Discipline) -> Staged {
    Staged::new(setting, discipline).expect("a TD")
}

/// The first thing that goes wrong in a setting of this size.
fn refute(own: &Setting, size: &str, discipline: &'static Discipline) -> Counterexample {
    let staged = staged(own.with_size(size).expect("a size"), discipline);
    let report = check(&|setup: &mut Setup| staged.build(setup), &options()).expect("a check");
    match report.verdict {
        Verdict::Refuted(example) => *example,
        verdict => panic!("{size}: {verdict}"),
    }
}

/// The same, shrunk.
fn shrunk(
    own: &Setting,
    size: &str,
    discipline: &'static Discipline,
) -> (Counterexample, Counterexample, Shrunk) {
    let found = refute(own, size, discipline);
    let from = own.with_size(size).expect("a size").size();
    let (small, shrunk) =
        shrink(own, from, discipline, found.clone(), &options()).expect("a sound check");
    (found, small, shrunk)
}

/// Whether the violation is in any interleaving of a setting; every one is run.
fn is_open(
    own: &Setting,
    size: &Size,
    discipline: &'static Discipline,
    of: &Counterexample,
) -> bool {
    if own.fits(size).is_err() {
        return false;
    }
    let Ok(staged) = Staged::new(own.sized(size), discipline) else {
        return false;
    };
    let only = (of.violation.oracle.to_string(), of.violation.cause.clone());
    let options = Options {
        only: Some(only),
        ..options()
    };
    let report = check(&|setup: &mut Setup| staged.build(setup), &options).expect("a check");
    match report.verdict {
        Verdict::Proved { .. } => false,
        Verdict::Refuted(_) => true,
        Verdict::NotExhausted { .. } => panic!("{size}: not exhausted"),
    }
}

#[test]
fn a_scene_that_is_too_large_is_shrunk_to_what_its_race_needs() {
    let before = by_name("v6.16").expect("a discipline");
    let own = scene("R4", "init-punch");
    let (found, small, shrunk) = shrunk(&own, "ready=3,raw=2,pages=4,vcpu1=2,punch=3", before);
    assert_eq!(small.violation.oracle, found.violation.oracle);
    assert_eq!(small.violation.cause, found.violation.cause);
    let least = Size {
        ready: 1,
        raw: 1,
        pages: 1,
        times: vec![1, 1],
    };
    assert_eq!(shrunk.to, least, "{shrunk}");
    assert!(shrunk.tried <= 60, "{shrunk}");
    let text = shrunk.to_string();
    assert!(
        text.starts_with("5 vCPUs, 4 pages, 5 operations in 2 threads -> "),
        "{text}"
    );
    assert!(text.contains("2 vCPUs, 1 page, 2 operations"), "{text}");
    for smaller in least.smaller() {
        assert!(
            !is_open(&own, &smaller, before, &small),
            "{smaller} is enough"
        );
    }
}

#[test]
fn a_cell_of_the_sweep_loses_operations_vcpus_and_pages_that_its_finding_does_not_need() {
    let now = by_name("v7.3").expect("a discipline");
    let cell: Cell = "memory-partly/mem+finalize+punch".parse().expect("a cell");
    let own = cell.setting().expect("a size");
    let (_, small, shrunk) = shrunk(&own, "ready=3,pages=3,finalize=2", now);
    assert_eq!(
        shrunk.to.total(),
        1 + 1 + 2,
        "{}: {shrunk}",
        small.violation
    );
    assert_eq!(
        shrunk.to.times.iter().filter(|times| **times > 0).count(),
        2
    );
}

#[test]
fn the_schedule_of_the_shrunk_form_replays_to_its_violation() {
    let before = by_name("v6.16").expect("a discipline");
    let own = scene("R4", "init-punch");
    let (_, small, shrunk) = shrunk(&own, "raw=3,pages=2,punch=2", before);
    let setting = own.with_size(&shrunk.text).expect("its own text");
    assert_eq!(setting.size(), shrunk.to);
    let staged = staged(setting, before);
    let schedule: Schedule = small.schedule.to_string().parse().expect("a schedule");
    let build = |setup: &mut Setup| staged.build(setup);
    let again = replay(&build, &schedule, 20_000).expect("a replay");
    assert_eq!(again.diverged, None);
    assert_eq!(again.violations.first(), Some(&small.violation));
}

#[test]
fn shrinking_again_comes_to_the_same() {
    let before = by_name("v6.16").expect("a discipline");
    let own = scene("R2a", "finalize-init");
    let one = || {
        let (_, small, shrunk) = shrunk(&own, "ready=4,raw=2", before);
        (small.schedule.to_string(), shrunk)
    };
    assert_eq!(one(), one());
}

#[test]
fn a_thread_with_two_operations_is_compared_with_orders_that_keep_its_own() {
    let now = by_name("v7.3").expect("a discipline");
    for size in ["mem=2", "vcpu1=2", "mem=2,vcpu1=2,ready=2"] {
        let setting = scene("R1a", "mem-init").with_size(size).expect("a size");
        let staged = staged(setting, now);
        let report = check(&|setup: &mut Setup| staged.build(setup), &options()).expect("a check");
        let proved = matches!(report.verdict, Verdict::Proved { .. });
        assert!(proved, "{size}: {}", report.verdict);
    }
}

#[test]
fn a_size_is_read_as_it_was_written_and_one_that_cannot_be_is_refused() {
    let own = scene("R4", "init-punch");
    for text in [
        "",
        "ready=3",
        "raw=2,pages=4",
        "ready=2,raw=0,pages=3,vcpu1=2,punch=0",
    ] {
        let setting = own.with_size(text).expect("a size");
        assert_eq!(own.text_of(&setting.size()), text);
    }
    for (text, why) in [
        ("ready", "NAME=NUMBER"),
        ("ready=x", "number"),
        ("nobody=1", "ready, raw, pages, vcpu1, punch"),
        ("ready=99", "at most"),
        ("pages=9999", "at most"),
        ("punch=9", "at most"),
        ("ready=0", "no page"),
        (
            "ready=0,raw=0,pages=0",
            "nothing to do KVM_TDX_INIT_VCPU to",
        ),
    ] {
        let error = own.with_size(text).expect_err(text);
        assert!(error.contains(why), "{text}: {error}");
    }
    let killed: Cell = "runnable/load0+kill".parse().expect("a cell");
    let error = killed.setting().expect("a size").with_size("load0=0");
    assert!(error.is_err_and(|why| why.contains("no other thread")));
}

#[test]
fn no_thread_has_the_name_of_another_number() {
    let scenes = RACES.iter().flat_map(|race| race.scenes);
    let actors = scenes
        .flat_map(|scene| scene.actors)
        .map(|actor| actor.name);
    let names: BTreeSet<&str> = OPERATIONS
        .iter()
        .flat_map(|o| o.names)
        .chain(actors)
        .collect();
    for name in names {
        assert!(!["ready", "raw", "pages"].contains(&name));
        assert!(!name.contains([',', '=', ':', '@', ' ']), "{name}");
    }
}
