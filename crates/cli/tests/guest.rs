//! `seamlock launch --script`: a guest without a VMM around it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn script(name: &str, text: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("guest-{name}"));
    std::fs::write(&path, text).expect("a file for tests");
    path
}

fn launch(script: &Path, options: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seamlock"));
    command
        .arg("launch")
        .args(options)
        .arg("--script")
        .arg(script);
    command.output().expect("seamlock starts")
}

fn json(script: &Path, options: &[&str]) -> Value {
    let output = launch(script, &[&["--json"], options].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

fn seen(report: &Value) -> Vec<String> {
    let steps = report["steps"].as_array().expect("steps");
    let text = |step: &Value, name: &str| step[name].as_str().unwrap_or_default().to_owned();
    let tell = |step: &Value| format!("{}: {}", text(step, "text"), text(step, "seen"));
    steps.iter().map(tell).collect()
}

const SCRIPT: &str = "\
out 0x3f8 1 0x41
in 0x60 2
write 0xfec00000 4 1
read 0xfec00010 4
map 0x200000 4M shared
map 0x200000 4M private
touch 0x1000000 write shared
accept 0x2000000
extend 0 0x810000 an event
info 1
quote 0x1000000 4K
vcpu 1: notify 0x40
";

#[test]
fn every_step_is_answered_and_the_rest_of_the_launch_is_the_same() {
    let path = script("all", SCRIPT);
    let report = json(&path, &["--vcpus", "2"]);
    assert_eq!(
        seen(&report),
        [
            "out 0x3f8 1 0x41: ok",
            "in 0x60 2: ok, 0xffff",
            "write 0xfec00000 4 1: ok",
            "read 0xfec00010 4: ok, 0xffffffff",
            "map 0x200000 4M shared: ok",
            "map 0x200000 4M private: ok",
            "touch 0x1000000 write shared: entered again",
            "accept 0x2000000: TDX_SUCCESS",
            "extend 0 0x810000 an event: TDX_SUCCESS",
            "info 1: ok, 0x0 0x0 0x0 0x0",
            "quote 0x1000000 4K: status 0x8000000000000003",
            "notify 0x40: status 0x8000000000000003",
        ]
    );
    let ended = |i: usize| report["ended"][i]["by"].as_str().map(str::to_owned);
    assert_eq!(
        (ended(0), ended(1)),
        (Some("halts".to_owned()), Some("halts".to_owned()))
    );
    assert_ne!(report["rtmrs"][0], report["rtmrs"][1]);
    assert_eq!(report["pages_leaked"], 0);
    let without = json(&script("nothing", "# nothing\n"), &["--vcpus", "2"]);
    assert_eq!(report["mrtd"], without["mrtd"]);
    assert!(without.get("steps").is_none());
    assert_eq!(json(&path, &["--vcpus", "2"]), report, "the same each time");
}

#[test]
fn what_ends_the_td_ends_the_script() {
    for (text, by) in [
        ("shutdown\n", "KVM_EXIT_SHUTDOWN"),
        ("reset\n", "a reset"),
        ("fatal 0 out of luck\n", "KVM_EXIT_SYSTEM_EVENT"),
        ("exit 3\n", "KVM_EXIT_INTERNAL_ERROR"),
    ] {
        let path = script("ends", &format!("{text}vcpu 1: out 0x80 1 1\n"));
        let report = json(&path, &["--vcpus", "2"]);
        assert_eq!(report["ended"].as_array().map(Vec::len), Some(1), "{text}");
        assert_eq!(report["ended"][0]["by"], by);
        assert_eq!(report["pages_leaked"], 0);
    }
}

#[test]
fn a_script_that_cannot_be_done_is_refused_in_one_line() {
    let nowhere = Path::new("/no/such/script");
    let wrong = script("wrong", "out 0x3f8 1 0x41\njump\n");
    let vcpu = script("vcpu", "\nvcpu 1: halt\n");
    for (path, part) in [
        (nowhere, "No such file"),
        (&wrong, "line 2"),
        (&vcpu, "line 2: vCPU 1"),
    ] {
        let output = launch(path, &[]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
        assert!(errors.contains(part), "{errors}");
    }
}
