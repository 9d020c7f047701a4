//! Clients in C, which wear the library as a VMM does.

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
