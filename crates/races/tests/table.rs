//! Every race under every discipline, and mutants that must be missed.

use std::collections::BTreeSet;

use seamlock_check::{Options, Setup, Story, Verdict, WalkKind, What, check, survey};
use seamlock_kvm::discipline::{DISCIPLINES, Kind, by_name};
use seamlock_races::sweep::Cell;
use seamlock_races::{COLUMNS, Finding, RACES, Staged, check_race, race};
use seamlock_sync::Outcome;

fn options() -> Options {
    let mut options = Options {
        walks: vec![(WalkKind::Uniform, 60), (WalkKind::Pct { depth: 3 }, 40)],
        ..Options::default()
    };
    options.budget.executions = 20_000;
    options
}

/// Whether it is refuted; None when that is not known.
fn refuted(id: &str, discipline: &str) -> Option<bool> {
    let discipline = by_name(discipline).expect("a discipline");
    let race = race(id).expect("a race");
    match check_race(race, None, discipline, &options())
        .expect("a sound check")
        .finding
    {
        Finding::Proved { .. } => Some(false),
        Finding::Refuted { .. } => Some(true),
        Finding::NotExhausted { .. } | Finding::NoTd(_) => None,
    }
}

#[test]
fn every_race_is_open_where_it_is_known_and_proved_closed_elsewhere() {
    let mut wrong = Vec::new();
    for race in RACES {
        for discipline in COLUMNS {
            let found = refuted(race.id, discipline);
            let expected = race.expected(discipline);
            if expected.is_some() && found != expected {
                wrong.push((race.id, *discipline, found));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// For every mutant what shows that something is missing: a race of the catalogue, or a cell of the
/// sweep where no known race does.
const MUTANTS: &[(&str, &str)] = &[
    ("no-vcpu-mutexes", "R1b"),
    ("no-vcpu-mutexes", "R1c"),
    ("no-vcpu-mutexes", "R2c"),
    ("finalize-unguarded", "R2c"),
    ("no-in-flight-check", "R3"),
    ("no-mmu-lock", "R4"),
    ("init-vcpu-unguarded", "R10"),
    ("guardslots", "R1a"),
    ("guardslots", "R6"),
    ("sev-unchecked", "R8"),
    ("no-slots-lock", "vcpus-partly/mem+slot-delete"),
    ("no-kvm-lock", "vcpus-partly/create+finalize"),
];

#[test]
fn what_a_mutant_leaves_out_is_missed() {
    for (mutant, place) in MUTANTS {
        let found = match place.parse::<Cell>() {
            Ok(cell) => {
                let mutant = by_name(mutant).expect("a discipline");
                let swept = cell.check(mutant, 2_000, 1).expect("a sound check");
                Some(!swept.findings.is_empty())
            }
            Err(_) => refuted(place, mutant),
        };
        assert_eq!(found, Some(true), "{place} under {mutant}");
    }
    for mutant in DISCIPLINES.iter().filter(|d| d.kind == Kind::Mutant) {
        let known = MUTANTS.iter().any(|(name, _)| *name == mutant.name);
        assert!(known, "nothing refutes {}", mutant.name);
    }
}

#[test]
fn testing_the_state_again_under_slots_lock_closes_r2b_in_slots() {
    assert_eq!(refuted("R2b", "slots"), Some(true));
    assert_eq!(refuted("R2b", "slots-retest"), Some(false));
}

#[test]
fn under_the_mail_as_posted_there_is_no_td_to_race_on() {
    let seed = by_name("seed").expect("a discipline");
    for race in RACES.iter().filter(|race| !["R7", "R8"].contains(&race.id)) {
        let checked = check_race(race, None, seed, &options()).expect("a sound check");
        assert!(matches!(checked.finding, Finding::NoTd(_)), "{}", race.id);
    }
}

#[test]
fn a_leaf_that_get_cpuid_loses_silently_is_found() {
    let scene = race("R1b").expect("a race").scenes[0];
    let staged = Staged::new(scene, by_name("v6.16").expect("a discipline")).expect("a TD");
    let options = Options {
        walks: vec![(WalkKind::Uniform, 300)],
        prove: false,
        ..options()
    };
    let survey = survey(&|setup: &mut Setup| staged.build(setup), &options, 8).expect("a check");
    let causes: BTreeSet<&str> = survey
        .findings
        .iter()
        .map(|example| example.violation.cause.as_str())
        .collect();
    let silent = "KVM_TDX_GET_CPUID returns success with less than it should";
    assert!(causes.contains(silent), "{causes:?}");
}

#[test]
fn no_counterexample_is_wider_than_a_page_or_names_a_thing_by_its_number_alone() {
    for (race, discipline) in RACES
        .iter()
        .flat_map(|race| race.open_in.iter().map(move |d| (race, d)))
    {
        let with = by_name(discipline).expect("a discipline");
        let checked = check_race(race, None, with, &options()).expect("a sound check");
        let Finding::Refuted { example, .. } = checked.finding else {
            panic!("{} is open in {discipline}", race.id);
        };
        let text = Story(&example).to_string();
        for line in text.lines() {
            assert!(
                line.chars().count() <= 120,
                "{} {discipline}\n{line}",
                race.id
            );
            assert!(!line.contains("[0x"), "{} {discipline}\n{line}", race.id);
        }
    }
}

#[test]
fn a_counterexample_tells_what_a_state_is_and_where_a_task_goes_on() {
    let texts = |cell: &str, discipline| {
        let cell: Cell = cell.parse().expect("a cell");
        let discipline = by_name(discipline).expect("a discipline");
        let swept = cell.check(discipline, 300, 1).expect("a sound check");
        let told = swept
            .findings
            .iter()
            .map(|found| Story(&found.example).to_string());
        told.collect::<String>()
    };
    let moved = texts("vcpus-partly/init-vcpu+migrate", "v7.3");
    for words in [
        "init-vcpu on CPU 3",
        "init-vcpu is wanted on CPU 5",
        "preempted: goes on on CPU 5",
        "to_tdx(vcpu1)->state is VCPU_TD_STATE_UNINITIALIZED",
        "lock irqs off on CPU 3  [tdx_flush_vp_on_cpu]",
    ] {
        assert!(moved.contains(words), "{words:?} is not in\n{moved}");
    }
    assert_eq!(
        moved.matches("wanted on CPU").count(),
        moved.matches("goes on on CPU").count()
    );
    let lost = texts("before-finalize/finalize+offline1", "v7.3");
    assert!(lost.contains("pages and its HKID until reboot"), "{lost}");
    let stuck = texts("runnable/prefault0+slot-delete", "v6.16");
    assert!(
        stuck.contains("slot-delete waits: synchronize_srcu"),
        "{stuck}"
    );
}

#[test]
fn a_counterexample_is_what_its_schedule_replays_to() {
    let scene = race("R2b").expect("a race").scenes[0];
    let staged = Staged::new(scene, by_name("slots").expect("a discipline")).expect("a TD");
    let build = |setup: &mut Setup| staged.build(setup);
    let report = check(&build, &options()).expect("a check");
    let Verdict::Refuted(example) = report.verdict else {
        panic!("R2b is open in slots: {}", report.verdict);
    };
    let schedule = example.schedule.to_string().parse().expect("a schedule");
    let again = seamlock_check::replay(&build, &schedule, 20_000).expect("a replay");
    assert_eq!(again.diverged, None);
    assert_eq!(again.violations.first(), Some(&example.violation));
}

#[test]
fn a_counterexample_tells_which_call_lost_which_operand_to_whom() {
    let scene = race("R10'").expect("a race").scenes[0];
    let staged = Staged::new(scene, by_name("slots").expect("a discipline")).expect("a TD");
    let report = check(&|setup: &mut Setup| staged.build(setup), &options()).expect("a check");
    let Verdict::Refuted(example) = report.verdict else {
        panic!("R10' is open in slots: {}", report.verdict);
    };
    let text = example.to_string();
    // A column may break a line.
    let unbroken = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for words in [
        "KVM_TDX_INIT_VCPU",
        "TDH.VP.ADDCX × 5",
        "TDH.VP.FLUSH, has TDR shared …",
        "BUSY: try exclusive TDR, held by vcpu0 (shared) in TDH.VP.FLUSH",
        "TDH.VP.INIT → TDX_OPERAND_BUSY(TDR)",
        "lock (killable) vcpu1->mutex [kvm_vcpu_ioctl]",
        "vcpu0 is in KVM_GET_TSC_KHZ, TDH.VP.FLUSH",
        "vcpu1 holds vcpu1->mutex, kvm->slots_lock",
    ] {
        assert!(unbroken.contains(words), "{words:?} is not in\n{text}");
    }
    let shorter = text.lines().count() * 3;
    assert!(shorter < example.steps.len(), "{text}");
    let busy = example
        .outline()
        .into_iter()
        .find(|row| row.what == What::Busy);
    assert_eq!(
        busy.map(|row| example.steps[row.first].outcome),
        Some(Outcome::Busy)
    );
}
