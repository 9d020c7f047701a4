//! Clients in C, which wear the library as a VMM does.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The library that was built with this test.
fn library() -> PathBuf {
    let exe = std::env::current_exe().expect("a test has a path");
    let dirs = exe.ancestors().skip(1).take(2);
    let found = dirs
        .map(|dir| dir.join("libseamlock_preload.so"))
        .find(|path| path.is_file());
    found.expect("cargo builds the library before its tests")
}

/// A directory of this test's own.
fn fresh_dir(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("a directory in the target directory");
    dir
}

/// Compiles a client; None, after one line, where there is no C compiler.
fn compile(name: &str, dir: &Path) -> Option<PathBuf> {
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let (source, program) = (clients.join(name).with_extension("c"), dir.join(name));
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let flags = ["-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"];
    match Command::new(compiler)
        .args(flags)
        .arg(&program)
        .arg(source)
        .output()
    {
        Ok(done) => {
            assert!(
                done.status.success(),
                "{}",
                String::from_utf8_lossy(&done.stderr)
            );
            Some(program)
        }
        Err(_) => {
            println!("skipped: {name}, there is no C compiler");
            None
        }
    }
}

/// Runs a client that wears the library with these settings, in the directory `test`.
fn wear(test: &str, name: &str, settings: &str) -> Option<(Output, PathBuf)> {
    let dir = fresh_dir(test);
    let program = compile(name, &dir)?;
    let worn = dir.join("libseamlock_preload.so");
    std::fs::copy(library(), &worn).expect("a copy beside the settings");
    std::fs::write(dir.join("seamlock.json"), settings).expect("writable");
    let done = Command::new(program)
        .env("LD_PRELOAD", worn)
        .output()
        .expect("the client runs");
    Some((done, dir))
}

/// Runs the client that crashes in this way: its exit status and stderr, and what its record says.
fn crash(how: &str) -> Option<(Output, Option<seamlock_wear::Crash>)> {
    let dir = fresh_dir(&format!("crash-{how}"));
    let program = compile("crash", &dir)?;
    let worn = dir.join("libseamlock_preload.so");
    std::fs::copy(library(), &worn).expect("a copy beside the settings");
    std::fs::write(dir.join("seamlock.json"), "{}").expect("writable");
    let mut command = Command::new(program);
    let done = command.arg(how).env("LD_PRELOAD", worn).output();
    let records = seamlock_wear::read_records(&dir).expect("readable");
    let summary = seamlock_wear::Summary::of(&records);
    let crash = summary.processes[0].crash.clone();
    Some((done.expect("the client runs"), crash))
}

fn passes(name: &str) {
    let Some((done, _)) = wear(name, name, "{}") else {
        return;
    };
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{}: {said}", done.status);
    assert_eq!(String::from_utf8_lossy(&done.stdout), "ok\n");
}

#[test]
fn descriptors_are_opened_duplicated_closed_and_inherited_as_the_kernels() {
    passes("descriptors");
}

#[test]
fn no_system_call_ever_names_dev_kvm() {
    let dir = fresh_dir("traced");
    let Some(program) = compile("descriptors", &dir) else {
        return;
    };
    let (worn, log) = (dir.join("libseamlock_preload.so"), dir.join("calls"));
    std::fs::copy(library(), &worn).expect("a copy beside the settings");
    std::fs::write(dir.join("seamlock.json"), "{}").expect("writable");
    let traced = Command::new("strace")
        .args(["-f", "-e", "trace=%file", "-o"])
        .arg(&log)
        .arg("-E")
        .arg(format!("LD_PRELOAD={}", worn.display()))
        .arg(program)
        .output();
    let calls = std::fs::read_to_string(&log).unwrap_or_default();
    if traced.is_err() || !calls.contains("execve") {
        println!("skipped: system calls, there is no strace or it may not trace");
        return;
    }
    assert!(traced.is_ok_and(|done| done.status.success()));
    // The client opens it by every name and function there is.
    let real: Vec<&str> = calls
        .lines()
        .filter(|call| call.contains("/dev/kvm"))
        .collect();
    assert_eq!(real, Vec::<&str>::new());
}

#[test]
fn kvm_run_ends_for_every_signal_and_loses_none() {
    passes("running");
}

#[test]
fn memory_faults_and_lives_as_long_as_the_kernel_says() {
    passes("memory");
}

#[test]
fn eventfds_are_wired_as_the_kernel_does() {
    passes("eventfds");
}

#[test]
fn the_record_tells_what_was_built() {
    let Some((done, dir)) = wear("record", "memory", "{}") else {
        return;
    };
    assert!(done.status.success());
    let records = seamlock_wear::read_records(&dir).expect("readable");
    let finalized = records
        .iter()
        .flat_map(|record| &record.events)
        .filter(|event| matches!(event, seamlock_wear::Event::Finalized { mrtd, .. } if mrtd.len() == 96))
        .count();
    assert_eq!(
        finalized, 41,
        "one TD for the guest_memfd, forty for the lifetimes"
    );
}

#[test]
fn a_machine_lives_until_the_last_call_into_it_returns() {
    let Some((done, dir)) = wear("closing", "closing", "{}") else {
        return;
    };
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{}: {said}", done.status);
    let records = seamlock_wear::read_records(&dir).expect("readable");
    let summary = seamlock_wear::Summary::of(&records);
    let process = &summary.processes[0];
    assert_eq!(process.bugs, Vec::<String>::new());
    assert_eq!(process.vms.len(), 5);
    assert!(process.vms.iter().all(|vm| vm.ended && vm.left.is_empty()));
    // The order of a record is that of what happened: each TD ended after its KVM_RUN.
    let order = records[0].events.iter().filter_map(|event| match event {
        seamlock_wear::Event::Refused(refusal) if refusal.call == "KVM_RUN" => Some("returned"),
        seamlock_wear::Event::Ended { .. } => Some("ended"),
        _ => None,
    });
    assert_eq!(order.collect::<Vec<_>>(), ["returned", "ended"].repeat(5));
}

#[test]
fn every_exit_is_driven_by_a_line_of_a_script_and_completed() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/script.txt");
    let settings = format!(r#"{{"script": "{}"}}"#, script.display());
    let Some((done, dir)) = wear("script", "script", &settings) else {
        return;
    };
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{}: {said}", done.status);
    let records = seamlock_wear::read_records(&dir).expect("readable");
    let step = |event: &seamlock_wear::Event| match event {
        seamlock_wear::Event::Step { text, seen, .. } => Some(format!("{text}: {seen}")),
        _ => None,
    };
    let events = records.iter().flat_map(|record| &record.events);
    let seen: Vec<_> = events.filter_map(step).collect();
    assert_eq!(seen, STEPS);
}

#[test]
fn arbitrary_ioctls_with_real_pointers_break_nothing_and_leave_nothing() {
    let Some((done, dir)) = wear("fuzz", "fuzz", "{}") else {
        return;
    };
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{}: {said}", done.status);
    let records = seamlock_wear::read_records(&dir).expect("readable");
    let events = || records.iter().flat_map(|record| &record.events);
    let count = |is: fn(&seamlock_wear::Event) -> bool| events().filter(|event| is(event)).count();
    let made = count(|event| matches!(event, seamlock_wear::Event::Vm { .. }));
    let ended = count(|event| matches!(event, seamlock_wear::Event::Ended { .. }));
    let leaking = count(
        |event| matches!(event, seamlock_wear::Event::Ended { left, .. } if !left.is_empty()),
    );
    // A VM that another thread closes at once may be gone before it is noted that it was made.
    assert!(
        made > 3 && ended >= made,
        "{ended} of {made} VMs ended: {said}"
    );
    assert_eq!(leaking, 0);
    assert_eq!(
        count(|event| matches!(event, seamlock_wear::Event::Bug { .. })),
        0
    );
}

#[test]
fn a_vmm_that_crashes_ends_as_without_us_and_is_told_where() {
    let Some((done, crash)) = crash("null") else {
        return;
    };
    assert_eq!(done.status.signal(), Some(11));
    let crash = crash.expect("a report");
    assert!(crash.is_null_pointer_of("crash"), "{crash}");
    assert_eq!((crash.address, crash.inside), (Some(1), false));
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(
        said.contains(&format!("seamlock: the VMM crashed: {crash}")),
        "{said}"
    );
}

#[test]
fn a_signal_that_was_sent_and_one_that_the_vmm_handles_are_no_crash() {
    let Some((sent, crash_of_sent)) = crash("sent") else {
        return;
    };
    assert_eq!((sent.status.signal(), crash_of_sent), (Some(11), None));
    let Some((handled, crash_of_handled)) = crash("handled") else {
        return;
    };
    assert_eq!((handled.status.code(), crash_of_handled), (Some(3), None));
    assert_eq!(
        String::from_utf8_lossy(&handled.stdout),
        "its own handler\n"
    );
}

/// What the guest saw of each line of `script.txt`; the last one shuts it down.
const STEPS: &[&str] = &[
    "out 0x3f8 1 0x141: ok",
    "in 0x60 2: ok, 0xabcd",
    "write 0xfec00000 4 0x1122334455: ok",
    "read 0xfed00000 8: ok, 0x1122334455667788",
    "map 0x100000 3M shared: ok",
    "map 0x100000 4K private: status 0x1, next 0x100000",
    "hypercall 12 0x100000 1 0x10: ok, 0x100000 0x1 0x10 0x0 0x0",
    "quote 0x1000 8K: ok",
    "info 1: ok, 0x2 0x0 0x0 0x0",
    "notify 0x40: ok",
    "rdmsr 0x12345: ok, 0x9",
    "wrmsr 0x12345 7: status 0x8000000000000000",
    "touch 0x5000 write: entered again",
    "touch 0x6000 read shared: entered again",
    "accept 0x5000: TDX_SUCCESS",
    "exit 75: entered again",
    "exit 74: entered again",
    "exit 0 0 0x80000202: entered again",
    "return 0 0 0 0 0x80000b0e: entered again",
    "return 0x80000021: entered again",
    "exit 3: entered again",
    "halt: ok",
    "fatal 3 out of luck: ok",
];
