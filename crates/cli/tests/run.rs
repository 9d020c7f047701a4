//! `seamlock run` as a user runs it.

use std::fs::Permissions;
use std::io::BufRead;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_seamlock"))
        .arg("run")
        .args(args)
        .output()
        .expect("it starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A client of the preload library's tests, compiled; None where there is no C compiler.
fn client(name: &str) -> Option<PathBuf> {
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("../preload/tests/clients");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("run-{name}"));
    let source = clients.join(name).with_extension("c");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let compiled = Command::new(compiler)
        .args(["-pthread", "-o"])
        .arg(&program)
        .arg(source)
        .status();
    if compiled.is_err() {
        println!("skipped: {name}, there is no C compiler");
        return None;
    }
    Some(program)
}

#[test]
fn the_exit_code_is_that_of_the_command() {
    assert_eq!(run(&["--", "sh", "-c", "exit 7"]).status.code(), Some(7));
    assert_eq!(
        run(&["--", "sh", "-c", "kill -KILL $$"]).status.code(),
        Some(137)
    );
    assert_eq!(run(&["--", "/no/such/program"]).status.code(), Some(2));
}

/// Starts `seamlock run` in a process group of its own, and waits until the command says that it runs.
fn started(command: &str) -> (std::process::Child, Pid) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_seamlock"))
        .args(["run", "--quiet", "--", "sh", "-c", command])
        .process_group(0)
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    let out = child.stdout.take().expect("piped");
    std::io::BufReader::new(out)
        .read_line(&mut line)
        .expect("a line");
    assert_eq!(line, "running\n");
    let pid = Pid::from_child(&child);
    (child, pid)
}

#[test]
fn a_signal_from_the_terminal_is_the_commands_and_one_that_is_sent_to_us_is_passed_on() {
    let (mut child, pid) = started("echo running; exec sleep 60");
    kill_process_group(pid, Signal::INT).expect("it runs");
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    let (mut child, pid) = started("echo running; exec sleep 60");
    kill_process(pid, Signal::TERM).expect("it runs");
    assert_eq!(child.wait().expect("it ends").code(), Some(143));
    // A command that ends by itself for it has the last word.
    let (mut child, pid) = started("trap 'exit 5' TERM; echo running; sleep 60 & wait");
    kill_process(pid, Signal::TERM).expect("it runs");
    assert_eq!(child.wait().expect("it ends").code(), Some(5));
}

#[test]
fn a_program_that_cannot_wear_the_library_is_refused_in_one_line() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, program) = (dir.join("static.c"), dir.join("static"));
    std::fs::write(&source, "int main(void) { return 3; }").expect("writable");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut compile = Command::new(compiler);
    compile.args(["-static", "-o"]).arg(&program).arg(&source);
    if !compile.status().is_ok_and(|status| status.success()) {
        println!("skipped: a static program, there is no C compiler with a static C library");
        return;
    }
    let program = program.to_str().expect("UTF-8");
    let refused = run(&["--", program]);
    assert_eq!(refused.status.code(), Some(2));
    let said = stderr(&refused);
    assert!(said.contains("is linked statically"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert_eq!(run(&["--", "env", program]).status.code(), Some(3));
}

/// That a program is refused, in one line that says this.
fn assert_refused(program: &Path, why: &str) {
    let program = program.to_str().expect("UTF-8");
    let refused = run(&["--", program]);
    assert_eq!(refused.status.code(), Some(2));
    let said = stderr(&refused);
    assert!(said.contains(why), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn a_32_bit_program_is_refused_in_one_line() {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("32-bit");
    let mut head = b"\x7fELF\x01\x01\x01".to_vec();
    head.resize(52, 0);
    std::fs::write(&program, head).expect("writable");
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("ours");
    assert_refused(&program, "is no 64-bit program");
}

#[test]
fn a_program_with_more_rights_than_its_caller_is_refused_in_one_line() {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("privileged");
    let real = std::fs::canonicalize("/bin/true").expect("coreutils");
    for (mode, uid, gid) in [(0o4755, Some(65534), None), (0o2755, None, Some(65534))] {
        let _ = std::fs::remove_file(&program);
        std::fs::copy(&real, &program).expect("writable");
        // Linux takes the bits off when the owner changes.
        let given = std::os::unix::fs::chown(&program, uid, gid)
            .and_then(|()| std::fs::set_permissions(&program, Permissions::from_mode(mode)));
        let there = given.and_then(|()| std::fs::metadata(&program));
        if !there.is_ok_and(|data| data.mode() & 0o7777 == mode) {
            println!("skipped: a program of another user needs root to be made");
            return;
        }
        assert_refused(&program, "runs with more rights than its caller");
    }
    // Of its own user it is a program like any other.
    std::os::unix::fs::chown(&program, None, Some(rustix::process::getegid().as_raw()))
        .and_then(|()| std::fs::set_permissions(&program, Permissions::from_mode(0o2755)))
        .expect("ours");
    let program = program.to_str().expect("UTF-8");
    assert_eq!(run(&["--", program]).status.code(), Some(0));
}

#[test]
fn a_command_that_needs_no_kvm_is_said_to_need_none() {
    let output = run(&["--", "true"]);
    assert_eq!(stderr(&output), "seamlock: nobody opened /dev/kvm\n");
    assert_eq!(stderr(&run(&["--quiet", "--", "true"])), "");
}

#[test]
fn what_cannot_be_done_is_said_before_anything_runs() {
    for (args, what) in [
        (["--inject", "KVM_JUMP=EIO"], "is neither a SEAMCALL"),
        (["--discipline", "v1.0"], "no discipline is called `v1.0`"),
        (["--script", "/no/such/script"], "/no/such/script: "),
        (["--lps", "0"], "must be 1 to 4096"),
    ] {
        let output = run(&[args[0], args[1], "--", "touch", "/no/such/place"]);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains(what), "{}", stderr(&output));
    }
}

#[test]
fn the_summary_the_json_and_the_trace_tell_of_the_same_run() {
    let Some(client) = client("eventfds") else {
        return;
    };
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (json, trace) = (dir.join("run.json"), dir.join("run.trace"));
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let (json_arg, trace_arg) = (text(&json), text(&trace));
    let args = [
        "--json",
        &json_arg,
        "--trace",
        &trace_arg,
        "--",
        &text(&client),
    ];
    let output = run(&args);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("VM 1: type 0"),
        "{}",
        stderr(&output)
    );
    let summary = std::fs::read(&json).expect("written");
    let summary: serde_json::Value = serde_json::from_slice(&summary).expect("JSON");
    let ioctls = summary["processes"][0]["ioctls"]
        .as_array()
        .expect("counts");
    let counted: u64 = ioctls
        .iter()
        .filter_map(|count| count["made"].as_u64())
        .sum();
    let lines = std::fs::read_to_string(&trace).expect("written");
    let traced = lines
        .lines()
        .filter(|line| line.contains(r#""kind":"ioctl""#))
        .count();
    assert_eq!(counted, traced as u64);
    assert!(counted > 20);
    let shown = std::fs::read(dir.join("run.trace.perfetto.json")).expect("written");
    let shown: serde_json::Value = serde_json::from_slice(&shown).expect("JSON");
    // One more names the process.
    assert_eq!(
        shown["traceEvents"].as_array().map(Vec::len),
        Some(lines.lines().count() + 1)
    );
}

#[test]
fn a_panic_of_ours_is_an_errno_and_a_line_and_the_vmm_goes_on() {
    let Some(client) = client("eventfds") else {
        return;
    };
    let client = client.to_str().expect("UTF-8");
    let output = run(&["--inject", "KVM_CREATE_VM=panic", "--", client]);
    // The client's own check fails, and it says so.
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    let bugs: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("panicked"))
        .collect();
    assert_eq!(
        bugs.len(),
        2,
        "one line as it happens, one in the summary: {said}"
    );
    assert!(
        bugs[0].starts_with("seamlock: bug: ioctl panicked: the run was asked to"),
        "{said}"
    );
    assert!(bugs[0].ends_with("; it returns EIO"), "{said}");
    assert!(bugs[0].contains("inject.rs:"), "it says where: {said}");
}

#[test]
fn injected_errors_reach_the_vmm_and_the_summary() {
    let Some(client) = client("eventfds") else {
        return;
    };
    let client = client.to_str().expect("UTF-8");
    let output = run(&["--inject", "KVM_CREATE_VM=ENOMEM", "--", client]);
    assert_eq!(output.status.code(), Some(1));
    let summary = stderr(&output);
    assert!(summary.contains("KVM_CREATE_VM: -ENOMEM 1x"), "{summary}");
}
