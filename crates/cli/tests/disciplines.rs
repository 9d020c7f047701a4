//! `seamlock disciplines` as a user runs it.

use std::process::{Command, Output};

fn disciplines(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_seamlock"))
        .arg("disciplines")
        .args(args)
        .output()
        .expect("the binary runs")
}

#[test]
fn each_is_listed_with_its_kind_and_what_sets_it_apart() {
    let out = disciplines(&[]);
    assert!(out.status.success());
    let text = String::from_utf8(out.stdout).expect("UTF-8");
    assert!(text.starts_with("v7.3 (kernel, the default): "));
    for line in ["v6.16 (kernel): ", "seed (mail): ", "guardslots (mutant): "] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    let slip = text
        .lines()
        .find(|l| l.contains("bytes of kvm_tdx_cmd copied in") && l.ends_with(" 8"));
    assert!(slip.is_some(), "{text}");
    // A mutant of one thing has one line.
    let mutant = text.split("no-mmu-lock (mutant)").nth(1).expect("listed");
    let own = mutant.split("\n\n").next().expect("a paragraph");
    assert_eq!(own.lines().count(), 3, "{own}");
    assert!(own.ends_with("mmu_lock around VP.INIT  no"), "{own}");
}

#[test]
fn json_has_both_sides_of_every_difference() {
    let out = disciplines(&["--json", "--from", "v6.19", "v7.3"]);
    let rows: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let row = &rows[0];
    assert_eq!(
        (&row["name"], &row["from"]),
        (&"v7.3".into(), &"v6.19".into())
    );
    let create = &row["differences"][0];
    assert_eq!(create["axis"], "KVM_CREATE_VCPU");
    assert_eq!(create["here"], "kvm->lock from start to end");
    assert!(
        create["there"]
            .as_str()
            .is_some_and(|s| s.contains("built without a lock"))
    );
}

#[test]
fn a_name_that_is_not_there_says_which_are() {
    let out = disciplines(&["v6.17"]);
    assert_eq!(out.status.code(), Some(2));
    let text = String::from_utf8(out.stderr).expect("UTF-8");
    assert!(text.contains("v6.17") && text.contains("seed-24"), "{text}");
}
