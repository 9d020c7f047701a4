//! Options with values that make no sense: one line, exit code 2, no panic, and nothing left behind.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn seamlock() -> Command {
    Command::new(env!("CARGO_BIN_EXE_seamlock"))
}

/// A folder of this test's own, empty.
fn folder(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("writable");
    dir
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// That it was refused: 2, with one line, or a hint at `--help`.
fn assert_refused(output: &Output, what: &[OsString]) {
    let said = said(output);
    assert_eq!(output.status.code(), Some(2), "{what:?}: {said}");
    let lines = said.lines().filter(|line| !line.is_empty()).count();
    let is_usage = said.contains("For more information, try '--help'");
    assert!(lines == 1 || is_usage, "{what:?}: {said}");
}

fn bytes(value: &[u8]) -> OsString {
    OsStr::from_bytes(value).to_owned()
}

/// Values of which no number and no name is one.
const NONSENSE: &[&[u8]] = &[
    b"",
    b"-1",
    b"1.5",
    b"zz",
    b" ",
    b"\n",
    b"\xff\xfe",
    b"99999999999999999999999",
    b"0x",
];

#[test]
fn no_option_that_takes_a_number_or_a_name_takes_nonsense() {
    let dir = folder("nonsense");
    let rows: &[(&[&str], &[&str], &[&str])] = &[
        (
            &["run"],
            &["--discipline", "--lps", "--machine-memory", "--inject"],
            &["--", "true"],
        ),
        (&["launch"], &["--vcpus", "--memory", "--discipline"], &[]),
        (&["measure"], &["--order", "--expect", "--memory"], &[]),
        (&["locks"], &["--discipline", "--for"], &[]),
        (&["diff"], &["--td"], &["a", "b"]),
        (&["vectors"], &["--leaf", "--first", "--jobs"], &["."]),
        (
            &["check"],
            &[
                "--scenario",
                "--discipline",
                "--budget-executions",
                "--seed",
                "--jobs",
            ],
            &[],
        ),
        (
            &["check", "--sweep"],
            &["--budget", "--total", "--only"],
            &[],
        ),
        (&["check"], &["--replay"], &[]),
        (&["disciplines"], &["--from"], &[]),
        (
            &["stress"],
            &[
                "--discipline",
                "--seconds",
                "--threads",
                "--vms",
                "--vcpus",
                "--seed",
            ],
            &[],
        ),
    ];
    for (command, options, rest) in rows {
        for option in *options {
            for value in NONSENSE {
                let mut pair = OsString::from(option);
                pair.push("=");
                pair.push(bytes(value));
                if *option == "--discipline" && command[0] == "run" && value.is_empty() {
                    // The settings' word for the default.
                    continue;
                }
                let mut args: Vec<OsString> = command.iter().map(OsString::from).collect();
                args.push(pair);
                args.extend(rest.iter().map(OsString::from));
                let output = seamlock().current_dir(&dir).args(&args).output();
                assert_refused(&output.expect("it starts"), &args);
            }
        }
    }
    let left = std::fs::read_dir(&dir).expect("it is there").count();
    assert_eq!(left, 0, "nothing is left behind");
}

#[test]
fn numbers_that_are_too_large_or_too_small_are_refused() {
    for args in [
        "vectors --jobs 0 .",
        "vectors --jobs 4294967296 .",
        "vectors --jobs 18446744073709551615 .",
        "launch --vcpus 0",
        "launch --vcpus 577",
        "launch --memory 0",
        "launch --memory 99999999999G",
        "stress --threads 0",
        "stress --threads 257",
        "stress --vms 0",
        "stress --vcpus 65",
        "run --lps 0 -- true",
        "run --lps 4294967295 -- true",
        "run --machine-memory 0 -- true",
        "run --machine-memory 18446744073709551615 -- true",
        "diff --td 0 a b",
    ] {
        let args: Vec<OsString> = args.split(' ').map(OsString::from).collect();
        assert_refused(&seamlock().args(&args).output().expect("it starts"), &args);
    }
}

#[test]
fn files_that_cannot_be_read_or_written_are_told_in_one_line() {
    let dir = folder("nonsense-files");
    let (folder, full) = (dir.to_str().expect("UTF-8"), "/dev/full");
    let missing = "/no/such/place/file";
    let rows: &[(&[&str], &[&str])] = &[
        (&["abi", "--render"], &[]),
        (&["abi", "--check"], &[]),
        (&["locks", "--render"], &[]),
        (&["locks", "--check"], &[]),
        (
            &[
                "check",
                "--scenario",
                "R7",
                "--discipline",
                "v7.3",
                "--report",
            ],
            &[],
        ),
        (
            &[
                "check",
                "--scenario",
                "R7",
                "--discipline",
                "v7.3",
                "--trace",
            ],
            &[],
        ),
        (&["run", "--json"], &["--quiet", "--", "true"]),
        (&["run", "--trace"], &["--quiet", "--", "true"]),
        (&["run", "--script"], &["--quiet", "--", "true"]),
        (&["launch"], &[]),
        (&["measure"], &[]),
        (&["measure", "--expect"], &[]),
        (&["diff"], &[missing]),
    ];
    for (command, rest) in rows {
        for file in [folder, missing, full] {
            // A device that takes nothing, of which endless zeros can be read; a trace of nothing is empty.
            if file == full && command.contains(&"--trace") && command[0] == "run" {
                continue;
            }
            let args: Vec<OsString> = command
                .iter()
                .chain([&file])
                .chain(*rest)
                .map(OsString::from)
                .collect();
            assert_refused(&seamlock().args(&args).output().expect("it starts"), &args);
        }
    }
    assert_eq!(std::fs::read_dir(&dir).expect("it is there").count(), 0);
}

#[test]
fn a_name_that_is_no_text_is_a_file_like_any_other() {
    let dir = folder("nonsense-names");
    let args = [
        "check",
        "--scenario",
        "R7",
        "--discipline",
        "v7.3",
        "--report",
    ];
    let output = seamlock()
        .current_dir(&dir)
        .args(args)
        .arg(bytes(b"\xff\xfe"))
        .output()
        .expect("it starts");
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let report = std::fs::read(dir.join(bytes(b"\xff\xfe"))).expect("written");
    assert!(!report.is_empty());
}

const PRINTERS: &[&str] = &[
    "launch",
    "launch --json",
    "measure",
    "measure --json",
    "locks",
    "locks --json",
    "locks --dot",
    "abi",
    "explain 2",
    "disciplines",
    "disciplines --json",
    "check --scenario R7 --discipline v7.3",
    "check --scenario R7 --discipline v7.3 --json",
    "stress --seconds 0",
    "stress --seconds 0 --json",
];

#[test]
fn a_full_device_as_standard_output_is_one_line() {
    for printer in PRINTERS {
        let full = File::create("/dev/full").expect("Linux has it");
        let args: Vec<OsString> = printer.split(' ').map(OsString::from).collect();
        let output = seamlock()
            .args(&args)
            .stdout(full)
            .output()
            .expect("it starts");
        assert_refused(&output, &args);
        assert!(said(&output).contains("No space left"), "{}", said(&output));
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    for printer in PRINTERS {
        let mut child = seamlock()
            .args(printer.split(' '))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(said(&output), "", "{printer}");
        assert_eq!(output.status.code(), Some(0), "{printer}");
    }
}
