//! The checker explores what plain depth-first search explores, and is caught when it does not.

use seamlock_check::Faults;
use seamlock_check::fuzz::{Mix, Summary, compare_many};

const LIMIT: u64 = 10_000;

fn run(seed: u64, count: u64, mix: Mix, faults: Faults) -> Summary {
    let summary = compare_many(seed, count, mix, LIMIT, faults);
    println!("{mix:?} {faults:?}: {summary}");
    summary
}

#[test]
fn random_programs_have_the_same_traces_states_and_deadlocks() {
    for (seed, count, mix) in [
        (1, 100, Mix::Everything),
        (10_001, 60, Mix::Locks),
        (20_001, 60, Mix::Words),
    ] {
        let summary = run(seed, count, mix, Faults::default());
        for mismatch in &summary.mismatches {
            println!("{mismatch}");
        }
        assert!(summary.mismatches.is_empty());
        assert!(summary.compared > count / 2 && summary.traces > 2 * summary.compared);
    }
}

#[test]
fn deliberate_faults_are_caught() {
    let none = Faults::default();
    let faults = [
        Faults {
            no_blocked_race: true,
            ..none
        },
        Faults {
            no_lock_race: true,
            ..none
        },
        Faults {
            weak_initials: true,
            ..none
        },
    ];
    for faults in faults {
        let summary = run(30_001, 80, Mix::Locks, faults);
        assert!(!summary.mismatches.is_empty(), "{faults:?} was not noticed");
    }
}
