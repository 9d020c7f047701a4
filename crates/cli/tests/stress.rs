//! `seamlock stress` as a user runs it, for a short time.

use std::process::{Command, Output};

use serde_json::Value;

fn stress(arguments: &[&str]) -> (Output, Value) {
    let out = Command::new(env!("CARGO_BIN_EXE_seamlock"))
        .args(["stress", "--json"])
        .args(arguments)
        .output()
        .expect("the binary is built");
    let report = serde_json::from_slice(&out.stdout).expect("one JSON object");
    (out, report)
}

fn races(report: &Value) -> Vec<&str> {
    let findings = report["findings"].as_array().expect("a list");
    let race = |finding: &'_ Value| finding["race"].as_str().map(str::to_owned);
    let known = findings.iter().filter_map(race);
    known.map(|race| &*race.leak()).collect()
}

#[test]
fn v7_3_has_nothing_but_what_is_known_of_it() {
    let (out, report) = stress(&["--seconds", "3", "--lockdep"]);
    assert_eq!(out.status.code(), Some(0), "{}", report["findings"]);
    let known = report["known"].as_object().expect("races");
    // FINALIZE_VM without a vCPU needs no second thread.
    assert!(known["F5"]["times"].as_u64().expect("it is met") > 0);
    assert!(known.contains_key("R14"));
    assert!(report["calls"].as_u64().expect("a number") > 1000);
    assert!(report["replays"].as_u64().expect("a number") > 0);
}

#[test]
fn sealed_has_nothing_and_knows_of_nothing() {
    let (out, report) = stress(&["--discipline", "sealed", "--seconds", "3", "--lockdep"]);
    assert_eq!(out.status.code(), Some(0), "{}", report["findings"]);
    assert_eq!(report["known"].as_object().expect("races").len(), 0);
    assert!(report["replays"].as_u64().expect("a number") > 0);
}

#[test]
fn strict_makes_findings_of_what_is_known_of_the_kernel() {
    let (out, report) = stress(&["--strict", "--seconds", "60", "--fail-fast"]);
    assert_eq!(out.status.code(), Some(1));
    let found = races(&report);
    let documented = |race: &&str| ["R11", "R12", "R13", "R14", "F5", "F7", "F8"].contains(race);
    assert!(found.iter().any(documented), "{}", report["findings"]);
}

#[test]
fn what_v6_16_does_wrong_with_one_thread_is_found_in_the_first_round() {
    let arguments = ["--discipline", "v6.16", "--seconds", "60", "--fail-fast"];
    let (out, report) = stress(&arguments);
    assert_eq!(out.status.code(), Some(1));
    assert!(races(&report).contains(&"R5"), "{}", report["findings"]);
}

#[test]
fn v6_16_shows_r1_in_seconds() {
    // R5 needs no second thread, and would end the run at once.
    let arguments = [
        "--discipline",
        "v6.16",
        "--seconds",
        "120",
        "--fail-fast",
        "--allow",
        "R5",
    ];
    let (out, report) = stress(&arguments);
    assert_eq!(out.status.code(), Some(1));
    let found = races(&report);
    let of_the_tdr = |race: &&str| race.starts_with("R1") || race.starts_with("R2");
    assert!(found.iter().any(of_the_tdr), "{}", report["findings"]);
}

/// That a discipline is refuted by this race, as soon as threads meet.
fn assert_refuted(discipline: &str, race: &str) {
    // One VM of many vCPUs, so that all threads meet in it.
    let arguments = [
        "--discipline",
        discipline,
        "--seconds",
        "600",
        "--fail-fast",
    ];
    let (out, report) = stress(&[&arguments[..], &["--vms", "1", "--vcpus", "16"]].concat());
    assert_eq!(out.status.code(), Some(1));
    assert!(races(&report).contains(&race), "{}", report["findings"]);
}

#[test]
fn a_guard_that_does_not_look_for_vcpus_in_creation_is_refuted() {
    assert_refuted("no-in-flight-check", "R3");
}

#[test]
fn vp_init_outside_of_mmu_lock_is_refuted() {
    assert_refuted("no-mmu-lock", "R4");
}

#[test]
fn the_seed_that_reads_8_bytes_of_each_command_grants_none() {
    let (out, report) = stress(&["--discipline", "seed", "--seconds", "1"]);
    assert_eq!(out.status.code(), Some(1));
    let what = report["findings"][0]["what"].as_str().expect("a text");
    assert!(what.starts_with("KVM_TDX_INIT_VM: none of"), "{what}");
}
