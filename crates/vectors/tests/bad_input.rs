//! Damaged input is told by file, line and field; it never panics, and what is well is replayed.

use std::fs;
use std::path::{Path, PathBuf};

use seamlock_vectors::{InputError, Options, Report, replay};

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/errors.jsonl.xz")
}

fn unpacked() -> Vec<String> {
    let mut lines = seamlock_vectors::Lines::open(&sample()).unwrap();
    let mut all = Vec::new();
    while let Some(line) = lines.next_line().unwrap() {
        all.push(String::from_utf8(line.text).unwrap());
    }
    all
}

fn file(name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = folder.join(format!("bad-input-{name}"));
    fs::write(&path, bytes).unwrap();
    path
}

fn run(path: &Path) -> Report {
    replay(&[path.to_owned()], &Options::default(), &mut ())
}

fn only_error(report: &Report) -> &InputError {
    let [error] = report.errors.as_slice() else {
        panic!("not one error: {:?}", report.errors);
    };
    assert!(!report.passed());
    error
}

#[test]
fn a_truncated_xz_file_is_replayed_as_far_as_it_goes() {
    let packed = fs::read(sample()).unwrap();
    let path = file("truncated.jsonl.xz", &packed[..packed.len() / 2]);
    let report = run(&path);
    let error = only_error(&report);
    assert_eq!((&error.path, error.field.as_str()), (&path, ""));
    // The lines before the end are sequences, the first line is the header.
    assert_eq!(report.sequences().total() + 2, error.line);
}

#[test]
fn a_file_that_is_not_xz_is_told() {
    let path = file("text.jsonl.xz", "{}\n");
    let error = run(&path).errors[0].clone();
    assert_eq!((error.path, error.line), (path, 1));
}

#[test]
fn flipped_bytes_never_panic() {
    let packed = fs::read(sample()).unwrap();
    for i in (0..packed.len()).step_by(packed.len() / 16) {
        let mut damaged = packed.clone();
        damaged[i] ^= 0x55;
        let report = run(&file(&format!("flipped-{i}.jsonl.xz"), damaged));
        assert!(!report.errors.is_empty(), "byte {i}");
    }
}

#[test]
fn a_wrong_line_is_told_and_the_others_are_replayed() {
    let lines = unpacked();
    let wrong = lines[2].replacen(r#""rax":""#, r#""rax":"zero"#, 1);
    assert_ne!(wrong, lines[2]);
    let text = [&lines[0], &lines[1], &wrong, &lines[3]]
        .map(String::as_str)
        .join("\n");
    let path = file("wrong-hex.jsonl", text);
    let report = run(&path);
    let error = only_error(&report);
    assert_eq!((&error.path, error.line), (&path, 3));
    assert!(
        error.field.starts_with("steps[") && error.field.ends_with("].in.rax"),
        "{error}"
    );
    assert_eq!(report.sequences().total(), 2);
}

#[test]
fn a_sequence_cut_in_the_middle_is_told() {
    let lines = unpacked();
    let path = file(
        "cut.jsonl",
        format!("{}\n{}", lines[0], &lines[1][..lines[1].len() / 2]),
    );
    assert_eq!(only_error(&run(&path)).line, 2);
}

#[test]
fn an_unknown_preamble_is_told() {
    let lines = unpacked();
    let sequence = r#"{"id":"x","preamble":"boot9","steps":[]}"#;
    let path = file("preamble.jsonl", format!("{}\n\n{sequence}\n", lines[0]));
    let report = run(&path);
    let error = only_error(&report);
    assert_eq!((error.line, error.field.as_str()), (3, "preamble"));
}

#[test]
fn a_missing_or_wrong_header_is_told() {
    for (name, text, line) in [
        ("empty.jsonl", "", 0),
        ("blank.jsonl", "\n\n", 0),
        (
            "no-header.jsonl",
            r#"{"id":"x","preamble":"boot0","steps":[]}"#,
            1,
        ),
        ("no-json.jsonl", "\u{0}", 1),
    ] {
        assert_eq!(only_error(&run(&file(name, text))).line, line, "{name}");
    }
}

#[test]
fn nothing_to_replay_is_an_error() {
    let missing = Path::new(env!("CARGO_TARGET_TMPDIR")).join("there-is-no-such-file.jsonl");
    assert_eq!(only_error(&run(&missing)).path, missing);
    let empty = Path::new(env!("CARGO_TARGET_TMPDIR")).join("empty-folder");
    fs::create_dir_all(&empty).unwrap();
    assert_eq!(only_error(&run(&empty)).path, empty);
    let only = Some("no-such-id".to_owned());
    let report = replay(
        &[sample()],
        &Options {
            only,
            ..Options::default()
        },
        &mut (),
    );
    assert!(only_error(&report).message.contains("no sequence"));
    assert!(!replay(&[], &Options::default(), &mut ()).passed());
}
