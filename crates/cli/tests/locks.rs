//! Lockdep on the command line.

use std::process::{Command, Output};

fn seamlock(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_seamlock"))
        .args(arguments)
        .output()
        .expect("the binary is built")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_launch_with_lockdep_says_where_the_mails_order_is_against_the_declared_one() {
    let launch = |discipline| seamlock(&["launch", "--lockdep", "--discipline", discipline]);
    let merged = launch("v7.3");
    assert_eq!(
        (merged.status.code(), text(&merged.stderr)),
        (Some(0), String::new())
    );
    let mail = launch("seed-24");
    assert_eq!(mail.status.code(), Some(1));
    let report = text(&mail.stderr);
    assert!(report.contains("lockdep: lock order inversion against the declared order"));
    assert!(
        report.contains("declared vcpu->mutex > kvm->slots_lock (locking.rst)"),
        "{report}"
    );
}

#[test]
fn a_whole_listing_ends_with_1_when_a_rule_is_broken() {
    assert_eq!(seamlock(&["locks"]).status.code(), Some(0));
    assert_eq!(
        seamlock(&["locks", "--discipline", "seed"]).status.code(),
        Some(1)
    );
    let unknown = seamlock(&["locks", "--discipline", "v9"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown.stderr).contains("there are v7.3, "));
}

#[test]
fn the_document_is_what_the_command_renders() {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/locking.md");
    let check = seamlock(&["locks", "--check", document]);
    assert_eq!(
        (check.status.code(), text(&check.stderr)),
        (Some(0), String::new())
    );
}
