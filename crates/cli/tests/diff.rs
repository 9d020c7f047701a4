//! `seamlock diff` as a user runs it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use expect_test::expect;
use seamlock_tdvf::builder::ImageBuilder;
use seamlock_tdvf::{Attributes, builtin};
use serde_json::Value;

fn seamlock(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seamlock"));
    command.current_dir(folder()).args(arguments);
    command.output().expect("seamlock starts")
}

fn folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("diff");
    std::fs::create_dir_all(&folder).expect("a folder for tests");
    folder
}

/// The file of a launch or a measurement, made by these arguments and of this image.
fn file(name: &str, arguments: &[&str], image: Option<&ImageBuilder>) -> String {
    let firmware = format!("{name}.fd");
    let mut arguments = arguments.to_vec();
    if let Some(image) = image {
        std::fs::write(folder().join(&firmware), image.build()).expect("a file for tests");
        arguments.push(&firmware);
    }
    let output = seamlock(&arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    let name = format!("{name}.json");
    std::fs::write(folder().join(&name), output.stdout).expect("a file for tests");
    name
}

fn launched(name: &str, image: &ImageBuilder) -> String {
    file(name, &["launch", "--json"], Some(image))
}

fn diff(a: &str, b: &str, code: i32) -> Value {
    let output = seamlock(&["diff", "--json", a, b]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{a} {b}: {errors}");
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

fn text(a: &str, b: &str) -> String {
    let output = seamlock(&["diff", a, b]);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_launch_is_the_same_as_itself_and_as_its_prediction() {
    let a = file("plain-launch", &["launch", "--json"], None);
    let b = file("plain-again", &["launch", "--json"], None);
    let predicted = file("plain-measure", &["measure", "--json"], None);
    for (a, b) in [(&a, &b), (&a, &predicted), (&predicted, &a)] {
        let report = diff(a, b, 0);
        assert_eq!(report["effect"], "the launches are the same");
        assert_eq!(report["mrtd"], "same");
    }
    let again = |name: &str| std::fs::read(folder().join(name)).expect("written");
    assert_eq!(again(&a), again(&b), "the same launch gives the same file");
}

#[test]
fn a_guest_that_extended_its_registers_otherwise_is_told_from_another() {
    let launch = file("registers", &["launch", "--json"], None);
    let text = std::fs::read(folder().join(launch)).expect("written");
    let launch: Value = serde_json::from_slice(&text).expect("JSON");
    let run = |name: &str, last: &str| {
        let vm = serde_json::json!({
            "parameters": launch["parameters"],
            "regions": launch["regions"],
            "mrtd": launch["mrtd"],
            "rtmrs": ["00", "11", last],
        });
        let run = serde_json::json!({ "processes": [{ "vms": [vm] }] });
        std::fs::write(folder().join(name), run.to_string()).expect("a file for tests");
        name.to_owned()
    };
    let (a, b) = (run("registers-a.json", "22"), run("registers-b.json", "33"));
    assert_eq!(diff(&a, &a, 0)["rtmrs"], serde_json::json!([]));
    let report = diff(&a, &b, 1);
    let expected = serde_json::json!([{ "index": 2, "a": "22", "b": "33" }]);
    assert_eq!(report["rtmrs"], expected);
    assert_eq!(report["mrtd"], "same");
    assert!(crate::text(&a, &b).ends_with("otherwise\n  RTMR2\n    A 22\n    B 33\n"));
}

#[test]
fn another_order_is_shown_by_the_calls() {
    let a = file("per-page", &["measure", "--json"], None);
    let b = file(
        "per-section",
        &["measure", "--json", "--order", "per-section"],
        None,
    );
    expect![[r#"
        A per-page.json
        B per-section.json

        first divergence: the order, after 1 call
          A TDH.MR.EXTEND 0xfffe4000, page 0 of 28 in region 0 (BFV): 28*(A 16*E)
          B TDH.MEM.PAGE.ADD 0xfffe5000, page 1 of 28 in region 0 (BFV): 28*A 448*E

        MRTD
          A 553eddae6cb0946117f5f4ff5d14bc9132010c11534b052ac83b8ee6d4d7efea40f25cce666821aa98bc7f539037b75e
          B 2b66aa66386af69053dc70a0d7b4088ae8c21660c270e632cee90cbe7f0d72fdcf3205b98727b2a992ca28d9f7f6dacf
          different from this divergence on
    "#]]
    .assert_eq(&text(&a, &b));
    assert_eq!(diff(&a, &b, 1)["first_divergence"]["kind"], "order");
}

#[test]
fn the_first_page_with_other_contents_is_named() {
    let a = launched("contents-a", &builtin::builder());
    let b = launched(
        "contents-b",
        &builtin::builder().patch(0x4000 + 5 * 4096 + 100, [0x55; 9000]),
    );
    let report = diff(&a, &b, 1);
    let first = &report["first_divergence"];
    assert_eq!(first["kind"], "contents");
    // Five pages of seventeen calls, and the sixth page is added.
    assert_eq!(first["after_calls"], 5 * 17);
    let said = first["a"].as_str().expect("a text");
    assert!(
        said.starts_with("TDH.MEM.PAGE.ADD 0xfffe9000, page 5 of 28 in region 0 (BFV)"),
        "{said}"
    );
    let measured = &report["first_measured_divergence"];
    assert_eq!(measured["after_calls"], 5 * 17 + 1);
    assert_eq!(report["pages_with_other_contents"], 3);
    assert_eq!(report["effect"], "different from this divergence on");
}

#[test]
fn what_is_not_measured_is_seen_and_not_blamed() {
    let a = launched("variables-a", &builtin::builder());
    let b = launched(
        "variables-b",
        &builtin::builder().patch(0x1000, *b"SecureBoot"),
    );
    let report = diff(&a, &b, 1);
    assert_eq!(
        report["first_divergence"]["what"],
        "contents of a page, not measured"
    );
    assert_eq!(report["mrtd"], "same");
    assert_eq!(
        report["effect"],
        "the same: MRTD sees nothing of what differs"
    );
}

#[test]
fn sections_pages_and_measured_contents_that_one_launch_lacks_are_told_apart() {
    let a = launched("whole", &builtin::builder());
    let kind = |name: &str, image: &ImageBuilder| {
        let report = diff(&a, &launched(name, image), 1);
        let measured = &report["first_measured_divergence"];
        let first = if measured.is_null() {
            &report["first_divergence"]
        } else {
            measured
        };
        // The metadata is in the measured volume, so contents differ first of all.
        assert_eq!(first["kind"], "contents");
        report["mrtd"].clone()
    };
    let without = |i: usize| {
        let mut at = 0..;
        builtin::builder().retain(move |_| at.next() != Some(i))
    };
    assert_eq!(kind("no-mailbox", &without(3)), "different");
    // The same with what the files say of contents taken out.
    let kind = |name: &str, image: &ImageBuilder| {
        let b = launched(name, image);
        let (a, b) = (without_contents(&a), without_contents(&b));
        diff(&a, &b, 1)["first_divergence"]["kind"].clone()
    };
    assert_eq!(kind("no-mailbox-either", &without(3)), "section");
    let short = builtin::builder().edit(3, |s| s.mem_size = 0x1000);
    assert_eq!(kind("short-mailbox", &short), "page");
    let measured = builtin::builder().edit(1, |s| s.attributes = Attributes::MR_EXTEND);
    assert_eq!(kind("measured-variables", &measured), "measured");
    let mut number = 5;
    let swapped = builtin::builder().retain(|_| {
        number -= 1;
        number != 1
    });
    let swapped = swapped.section(seamlock_tdvf::Section {
        kind: seamlock_tdvf::SectionKind::TEMP_MEM,
        data_offset: 0,
        raw_size: 0,
        gpa: 0x80_b000,
        mem_size: 0x2000,
        attributes: Attributes::default(),
    });
    assert_eq!(kind("mailbox-last", &swapped), "order");
}

fn without_contents(name: &str) -> String {
    let bytes = std::fs::read(folder().join(name)).expect("written");
    let mut value: Value = serde_json::from_slice(&bytes).expect("JSON");
    for region in value["regions"].as_array_mut().expect("regions") {
        region["page_contents"] = "".into();
    }
    let name = format!("no-contents-{name}");
    std::fs::write(folder().join(&name), value.to_string()).expect("a file for tests");
    name
}

#[test]
fn parameters_that_differ_are_listed() {
    let a = file("one-vcpu", &["launch", "--json"], None);
    let b = file(
        "two-vcpus",
        &["launch", "--json", "--vcpus", "2", "--memory", "1G"],
        None,
    );
    let report = diff(&a, &b, 1);
    let names: Vec<_> = report["parameters"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|p| p["name"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(names, ["vCPUs", "guest memory"]);
    // The hand-off blocks tell of more memory; nobody measures them.
    assert_eq!(report["first_divergence"]["measured"], false);
    assert_eq!(report["mrtd"], "same");
}

#[test]
fn a_vcpu_that_is_given_another_address_of_the_hand_off_blocks_is_told() {
    let a = file("hand-off", &["launch", "--json"], None);
    let text = std::fs::read(folder().join(&a)).expect("written");
    let mut launch: Value = serde_json::from_slice(&text).expect("JSON");
    launch["rcx"]["0"] = 0x1234.into();
    let b = "no-hand-off.json".to_owned();
    std::fs::write(folder().join(&b), launch.to_string()).expect("a file for tests");
    let report = diff(&a, &b, 1);
    assert_eq!(report["parameters"][0]["name"], "RCX of vCPU 0");
    assert_eq!(report["parameters"][0]["b"], "0x1234");
    assert_eq!(report["mrtd"], "same");
}

#[test]
fn what_can_not_be_read_is_refused_in_one_line() {
    let a = file("readable", &["launch", "--json"], None);
    let refused = |arguments: &[&str]| {
        let output = seamlock(&[&["diff"], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(errors.lines().count(), 1, "{errors}");
        errors
    };
    let write = |name: &str, text: &str| {
        std::fs::write(folder().join(name), text).expect("a file for tests");
        name.to_owned()
    };
    assert!(refused(&[&a, "absent.json"]).contains("absent.json: "));
    assert!(refused(&[&a, &write("text.json", "hello")]).contains("text.json: "));
    assert!(refused(&[&a, &write("other.json", "{}")]).contains("no file of `seamlock run"));
    let nobody = write("nobody.json", r#"{"processes": []}"#);
    assert!(refused(&[&a, &nobody]).contains("no TD was made in it"));
    assert!(refused(&[&a, &a, "--td", "1,2"]).contains("TD 2 is asked for, and there is one"));
    assert!(refused(&[&a, &a, "--td", "0"]).contains("counted from 1"));
    let region = |fields: &str| {
        let region =
            format!(r#"{{"vm":1,"gpa":0,"pages":4,"measured":false,"contents":""{fields}}}"#);
        format!(r#"{{"mrtd":"00","regions":[{region}]}}"#)
    };
    for (fields, what) in [
        ("", "without its calls"),
        (r#","calls":"5*(A""#, "its calls can't be read"),
        (
            r#","calls":"4*A","page_contents":"x""#,
            "digests can't be read",
        ),
        (
            r#","calls":"4*A","page_contents":"00*9""#,
            "digests can't be read",
        ),
    ] {
        let broken = write("broken.json", &region(fields));
        assert!(refused(&[&a, &broken]).contains(what), "{fields}");
    }
}

#[test]
fn tds_of_a_worn_client_are_compared_with_each_other() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../preload/tests/clients/memory.c");
    let program = folder().join("memory");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut compile = Command::new(compiler);
    let compile = compile.args(["-pthread", "-o"]).arg(&program).arg(source);
    if compile.status().is_err() {
        println!("skipped: there is no C compiler");
        return;
    }
    let program = program.to_str().expect("UTF-8");
    let output = seamlock(&["run", "-q", "--json", "worn.json", "--", program]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let output = seamlock(&["diff", "worn.json", "worn.json", "--td", "3,4", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(report["mrtd"], "same", "{report}");
    assert_eq!(output.status.code(), Some(0));
    let run: Value =
        serde_json::from_slice(&std::fs::read(folder().join("worn.json")).expect("written"))
            .expect("JSON");
    let vms = run["processes"][0]["vms"].as_array().expect("VMs");
    let regions = vms
        .iter()
        .filter_map(|vm| vm["regions"].as_array())
        .flatten();
    let told = |r: &Value| !r["calls"].as_str().unwrap_or("").is_empty();
    assert!(regions.clone().count() > 0 && regions.clone().all(told));
}
