//! `seamlock check`: exit codes, replays, files.

use std::collections::{BTreeMap, BTreeSet};
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
    assert!(text.contains("operation 0, of "), "{text}");
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

/// Runs the command; returns its exit code and what it complained of.
fn complaint(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_seamlock"))
        .arg("check")
        .args(arguments)
        .output()
        .expect("it starts");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), text)
}

#[test]
fn a_replay_line_that_was_changed_is_told_from_code_that_was_changed() {
    let (_, text) = check(&[&SLOTS[..], &["--json"]].concat());
    let line = cells(&text)[0]["replay"]
        .as_str()
        .expect("a line")
        .to_owned();
    let (name, schedule) = line.split_once(' ').expect("a schedule");
    let last = line.rfind('#').expect("a hash");
    let other_hash = format!("{}#0000000000000000", &line[..last]);
    let (code, text) = check(&["--replay", &other_hash]);
    assert!(text.contains("all together not its hash"), "{text}");
    assert_eq!(code, Some(1), "it goes wrong all the same");
    for (discipline, size) in [("v6.16", ""), ("v7.3", ":ready=2")] {
        let (scene, _) = name.split_once('@').expect("a discipline");
        let elsewhere = format!("{scene}{size}@{discipline} {schedule}");
        let (code, text) = check(&["--replay", &elsewhere]);
        assert!(matches!(code, Some(1 | 3)), "{text}");
        assert!(text.contains("came as it says; operation "), "{text}");
        let command =
            format!("seamlock check --scenario '{scene}{size}' --discipline {discipline}");
        assert!(text.contains(&command), "{text}");
    }
    let nobody = line.replacen(" finalize*", " nobody*", 1);
    let (_, text) = check(&["--replay", &nobody]);
    assert!(text.contains("there is no thread of this name"), "{text}");
    // However it is cut off, there is an answer.
    for cut in (0..line.len())
        .filter(|cut| line.is_char_boundary(*cut))
        .step_by(7)
    {
        let (code, text) = complaint(&["--replay", &line[..cut]]);
        let hash_cut = cut > last + 1;
        assert!(
            code == Some(2) || hash_cut && code == Some(1),
            "{cut}: {code:?} {text}"
        );
        assert!(
            hash_cut || text.starts_with("error: not a "),
            "{cut}: {text}"
        );
    }
}

#[test]
fn what_there_is_not_is_refused_with_what_there_is() {
    let place = file("no-such-folder/report.html");
    let place = place.to_str().expect("UTF-8");
    for (arguments, told) in [
        (&["--scenario", "nosuch"][..], "R1a, R1b"),
        (&["--scenario", "R4/nosuch"], "init-punch, init-poison"),
        (&["--scenario", "R4:vcpu1"], "NAME=NUMBER"),
        (
            &["--scenario", "R4/init-punch:bread=1"],
            "ready, raw, pages, vcpu1, punch",
        ),
        (&["--discipline", "nosuch"], "v7.3, sealed"),
        (&["--sweep", "--discipline", "nosuch"], "v7.3, sealed"),
        (&["--sweep", "--only", "nosuch"], "runnable"),
        (&["--sweep", "--only", "nosuch/mem"], "runnable"),
        (&["--sweep", "--only", "runnable/nosuch"], "punch-other"),
        (
            &["--sweep", "--discipline", "seed", "--only", "mem"],
            "nothing to sweep under seed",
        ),
        (&["--scenario", "R1a", "--report", place], "can't write"),
        (&["--sweep", "--budget", "0"], "from 1 to"),
        (&["--sweep", "--budget", "-1"], "from 1 to"),
        (&["--sweep", "--total", "0"], "from 1 to"),
        (&["--jobs", "0"], "from 1 to 1024"),
        (&["--jobs", "99999999999999999999"], "from 1 to 1024"),
        (&["--budget-executions", "0"], "from 1 to"),
        (&["--seed", "x"], "a whole number"),
        (
            &["--scenario", "R4/init-punch:vcpu1=8,punch=8"],
            "12870 orders",
        ),
        (
            &["--sweep", "--only", "runnable/run0+run0+run0+run0"],
            "3 times at most",
        ),
        (&["--replay", "R1a@v7.3 #0"], "not a replay line"),
        (&["--replay", "R1a/mem-init@nosuch #0"], "v7.3, sealed"),
        (
            &["--replay", "sweep:runnable/mem+nosuch@v7.3 #0"],
            "punch-other",
        ),
    ] {
        let (code, text) = complaint(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {text}");
        assert!(text.contains(told), "{arguments:?}: {text}");
        assert!(!text.contains("panicked"), "{text}");
    }
}

/// The rules of the format: every thread is named, times do not go back, and on each thread an event
/// that begins within another ends within it.
fn is_well_formed(events: &[Value]) {
    let number = |event: &Value, key: &str| event[key].as_u64().expect("a number");
    let thread = |event: &Value| (number(event, "pid"), number(event, "tid"));
    let timed = |event: &&Value| event["ph"] != "M";
    let names = events.iter().filter(|event| event["name"] == "thread_name");
    let named: BTreeSet<(u64, u64)> = names.map(thread).collect();
    let mut ends: BTreeMap<(u64, u64), Vec<u64>> = BTreeMap::new();
    let mut now = (0, 0);
    for event in events.iter().filter(timed) {
        let phase = event["ph"].as_str().expect("a phase");
        assert!(["X", "i"].contains(&phase), "{event}");
        assert!(
            named.contains(&thread(event)),
            "{event} is on no named thread"
        );
        let at = (number(event, "pid"), number(event, "ts"));
        assert!(at >= now, "{event} comes too late");
        now = at;
        let open = ends.entry(thread(event)).or_default();
        open.retain(|end| *end > at.1);
        let until = at.1 + event["dur"].as_u64().unwrap_or(0);
        assert!(
            open.iter().all(|end| until <= *end),
            "{event} does not nest"
        );
        open.push(until);
    }
}

#[test]
fn a_trace_is_chrome_events_that_nest_and_end_with_the_violation() {
    let path = file("trace.json");
    check(&[&SLOTS[..], &["--trace", path.to_str().expect("UTF-8")]].concat());
    let text = std::fs::read_to_string(&path).expect("a trace");
    let trace: Value = serde_json::from_str(&text).expect("JSON");
    let events = trace["traceEvents"].as_array().expect("events");
    is_well_formed(events);
    let of = |phase: &str| events.iter().filter(|event| event["ph"] == phase).count();
    assert!(of("X") > 40 && of("M") >= 3);
    assert_eq!(of("i"), 1);
    let called = |name: &str| events.iter().any(|event| event["name"] == name);
    assert!(called("KVM_TDX_FINALIZE_VM") && called("TDH.MR.FINALIZE"));
    let last = events.last().expect("an event");
    assert_eq!(last["cat"], "violation");
}

#[test]
fn a_sweep_calls_what_it_finds_as_docs_findings_does() {
    let sweep = ["--sweep", "--only", "memory-partly/finalize+punch"];
    let (_, text) = check(&[&sweep[..], &["--json"]].concat());
    let lines = cells(&text);
    let all: BTreeSet<&str> = lines.iter().filter_map(|l| l["finding"].as_str()).collect();
    assert_eq!(all, BTreeSet::from(["F1", "F2"]));
    let (_, text) = check(&sweep);
    assert!(
        text.contains("F2 of docs/findings.md: FINALIZE_VM"),
        "{text}"
    );
    assert!(text.contains(" F1"), "{text}");
    // Races that it does not describe are not taken for those that it does.
    let only = ["--sweep", "--only", "vcpus-partly/init-vcpu+finalize"];
    let old = ["--discipline", "slots", "--json"];
    let (_, text) = check(&[&only[..], &old].concat());
    let lines = cells(&text);
    let all: BTreeSet<&str> = lines.iter().filter_map(|l| l["finding"].as_str()).collect();
    assert!(
        !all.is_empty() && all.iter().all(|name| name.starts_with('U')),
        "{all:?}"
    );
}

#[test]
fn a_sweep_that_is_ended_early_proves_nothing_of_what_it_did_not_run() {
    let sweep = Command::new(env!("CARGO_BIN_EXE_seamlock"))
        .args(["check", "--sweep", "--triples", "--discipline", "sealed"])
        .args(["--jobs", "1"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("it starts");
    let interrupt = ["-INT".to_owned(), sweep.id().to_string()];
    // Whenever it comes, there is one of two ends.
    std::thread::sleep(std::time::Duration::from_millis(700));
    let sent = Command::new("kill").args(interrupt).status();
    assert!(sent.expect("kill").success());
    let output = sweep.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stdout);
    match output.status.code() {
        Some(3) => assert!(text.contains(" not run;"), "{text}"),
        None => assert!(text.is_empty(), "before it was ready: {text}"),
        other => panic!("{other:?}: {text}"),
    }
}

#[test]
fn a_sweep_is_reported_with_its_matrix_and_each_finding() {
    let (page, trace) = (file("sweep.html"), file("sweep.json"));
    let sweep = ["--sweep", "--only", "memory-partly/finalize+punch"];
    let files = [
        "--report",
        page.to_str().expect("UTF-8"),
        "--trace",
        trace.to_str().expect("UTF-8"),
    ];
    let (code, text) = check(&[&sweep[..], &files].concat());
    assert_eq!(code, Some(1));
    assert!(text.contains("-> 1 vCPU, 1 page, 2 operations"), "{text}");
    let page = std::fs::read_to_string(&page).expect("a page");
    let links = page.matches("href=\"#f").count();
    let findings = page.matches("class=\"finding\"").count();
    // From both halves of the matrix to the first one, and from the list to each.
    assert!(
        findings >= 3 && links == findings + 2,
        "{findings} findings, {links} links"
    );
    for inside in [
        "class=\"matrix\"",
        "KVM_TDX_FINALIZE_VM",
        "sweep:memory-partly/",
    ] {
        assert!(page.contains(inside), "{inside}");
    }
    let trace = std::fs::read_to_string(&trace).expect("a trace");
    let trace: Value = serde_json::from_str(&trace).expect("JSON");
    let events = trace["traceEvents"].as_array().expect("events");
    is_well_formed(events);
    let violations = events.iter().filter(|event| event["ph"] == "i").count();
    assert_eq!(violations, findings);
}
