//! `seamlock check`: exit codes, replays, files.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

/// Runs the command; returns its exit code and what it printed.
fn check(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_seamlock"))
        .arg("check")
        .args(arguments)
        .output()
        .expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), text)
}

fn cells(text: &str) -> Vec<Value> {
    let line = |line: &str| serde_json::from_str(line).expect("JSON");
    text.lines().map(line).collect()
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

const SLOTS: [&str; 4] = ["--scenario", "R2b", "--discipline", "slots"];

#[test]
fn exit_codes_tell_proofs_refutations_and_budgets_that_ran_out_apart() {
    let on = |race, more: &[&str]| check(&[&["--scenario", race, "--json"], more].concat());
    let (code, text) = on("R1a", &[]);
    assert_eq!(
        (code, &cells(&text)[0]["verdict"]),
        (Some(0), &"proved".into())
    );
    let (code, text) = on("R2b", &["--discipline", "slots"]);
    assert_eq!(
        (code, &cells(&text)[0]["verdict"]),
        (Some(1), &"refuted".into())
    );
    let (code, text) = on("R3", &["--budget-executions", "101"]);
    let verdict = &cells(&text)[0]["verdict"];
    assert_eq!((code, verdict), (Some(3), &"not exhausted".into()));
    assert_eq!(check(&["--scenario", "R99"]).0, Some(2));
}

#[test]
fn the_answers_do_not_depend_on_the_number_of_threads() {
    let answers = |jobs| {
        let (code, text) = check(&["--all", "--discipline", "slots", "--json", "--jobs", jobs]);
        assert_eq!(code, Some(0), "{text}");
        let mut cells = cells(&text);
        for cell in &mut cells {
            cell["ms"] = 0.into();
        }
        cells
    };
    let alone = answers("1");
    assert_eq!(alone.len(), 16);
    assert_eq!(alone, answers("3"));
}

#[test]
fn a_replay_compares_every_operation_and_says_where_it_leaves_the_schedule() {
    let (_, text) = check(&[&SLOTS[..], &["--json"]].concat());
    let line = cells(&text)[0]["replay"]
        .as_str()
        .expect("a replay line")
        .to_owned();
    let (code, text) = check(&["--replay", &line]);
    assert_eq!(code, Some(1));
    assert!(
        text.contains("operations of the schedule came as it says"),
        "{text}"
    );
    assert!(
        text.contains("TDH.VP.CREATE → TDX_OP_STATE_INCORRECT"),
        "{text}"
    );
    // The first digit of the first run, and so the first operation, is another one.
    let at = line.find(':').expect("a run") + 1;
    let digit = if line.as_bytes()[at] == b'0' {
        "1"
    } else {
        "0"
    };
    let (code, text) = check(&["--replay", &[&line[..at], digit, &line[at + 1..]].concat()]);
    assert_eq!(code, Some(3));
    assert!(text.contains("at step 0 thread"), "{text}");
    assert_eq!(
        check(&["--replay", "R2b/finalize-init@slots nonsense"]).0,
        Some(2)
    );
    assert_eq!(check(&["--replay", "R2b/nowhere@slots #0"]).0, Some(2));
}

#[test]
fn a_report_needs_nothing_but_itself_and_shows_each_finding() {
    let path = file("report.html");
    let (code, _) = check(&[&SLOTS[..], &["--report", path.to_str().expect("UTF-8")]].concat());
    assert_eq!(code, Some(1));
    let page = std::fs::read_to_string(&path).expect("a page");
    for outside in ["http:", "https:", "src=", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    for inside in [
        "<svg",
        "R2b",
        "TDH.VP.CREATE",
        "kvm-&gt;slots_lock",
        "--replay 'R2b/",
    ] {
        assert!(page.contains(inside), "{inside}");
    }
}

#[test]
fn a_trace_is_chrome_events_that_nest_and_end_with_the_violation() {
    let path = file("trace.json");
    check(&[&SLOTS[..], &["--trace", path.to_str().expect("UTF-8")]].concat());
    let text = std::fs::read_to_string(&path).expect("a trace");
    let trace: Value = serde_json::from_str(&text).expect("JSON");
    let events = trace["traceEvents"].as_array().expect("events");
    let of = |phase: &str| events.iter().filter(|event| event["ph"] == phase).count();
    assert!(of("X") > 40 && of("M") >= 3);
    assert_eq!((of("b"), of("i")), (of("e"), 1));
    let called = |name: &str| events.iter().any(|event| event["name"] == name);
    assert!(called("KVM_TDX_FINALIZE_VM") && called("TDH.MR.FINALIZE"));
    let last = events.last().expect("an event");
    assert_eq!(last["cat"], "violation");
}
