//! `seamlock measure` as a user runs it, and against `seamlock launch`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use expect_test::expect;
use seamlock_tdvf::{Attributes, Section, SectionKind, builtin};
use serde_json::Value;

fn seamlock(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seamlock"));
    command.args(arguments).output().expect("seamlock starts")
}

fn json(arguments: &[&str], code: i32) -> Value {
    let output = seamlock(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

fn measure(arguments: &[&str], code: i32) -> Value {
    json(&[&["measure", "--json"], arguments].concat(), code)
}

fn in_temporary_file(name: &str, bytes: &[u8]) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("measure");
    std::fs::create_dir_all(&folder).expect("a folder for tests");
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("a file for tests");
    path
}

const PER_PAGE: &str = "553eddae6cb0946117f5f4ff5d14bc9132010c11534b052ac83b8ee6d4d7efea\
                        40f25cce666821aa98bc7f539037b75e";

#[test]
fn the_built_in_image_is_shown_section_by_section() {
    let output = seamlock(&["measure", "--expect", PER_PAGE]);
    assert!(output.status.success());
    expect![[r#"
        built-in image (128 KiB), 512 MiB, order per-page

        sections
          #  type      first page   bytes       pages  file offset  contents
          0  BFV       0xfffe4000   0x1c000     28     0x4000       measured
          1  CFV       0xfffe0000   0x4000      4      0x0          not measured
          2  TempMem   0x810000     0x10000     16     -            not measured
          3  TempMem   0x80b000     0x2000      2      -            not measured
          4  TD_HOB    0x809000     0x2000      2      -            not measured

        MRTD 553eddae6cb0946117f5f4ff5d14bc9132010c11534b052ac83b8ee6d4d7efea40f25cce666821aa98bc7f539037b75e
          52 pages added, 28 of them extended (448 MR.EXTEND)
        expected 553eddae6cb0946117f5f4ff5d14bc9132010c11534b052ac83b8ee6d4d7efea40f25cce666821aa98bc7f539037b75e: the same
    "#]]
    .assert_eq(&String::from_utf8_lossy(&output.stdout));
}

#[test]
fn what_is_predicted_is_what_a_launch_gives() {
    let perm = Section {
        kind: SectionKind::PERM_MEM,
        data_offset: 0,
        raw_size: 0,
        gpa: 0x100_0000,
        mem_size: 0x4000,
        attributes: Attributes::PAGE_AUG,
    };
    let measured = |i: usize| builtin::builder().edit(i, |s| s.attributes = Attributes::MR_EXTEND);
    let images = [
        ("plain.fd", builtin::builder()),
        ("cfv.fd", measured(1)),
        ("mailbox.fd", measured(3)),
        ("hob.fd", measured(4)),
        ("perm.fd", builtin::builder().section(perm)),
        (
            "short.fd",
            builtin::builder().edit(0, |s| s.raw_size = 0x3800),
        ),
    ];
    for (name, builder) in images {
        let path = in_temporary_file(name, &builder.build());
        let path = path.to_str().expect("a plain path");
        let launched = json(&["launch", "--json", path], 0);
        let predicted = measure(&[path], 0);
        for field in ["mrtd", "pages_added", "pages_extended", "extends"] {
            assert_eq!(predicted[field], launched[field], "{name} {field}");
        }
        let sections = |report: &Value| report["sections"].as_array().map(Vec::len);
        assert_eq!(sections(&predicted), sections(&launched));
        let last = predicted["sections"].as_array().and_then(|rows| {
            let mut so_far = rows.iter().map(|row| &row["mrtd_so_far"]);
            so_far.rfind(|mrtd| !mrtd.is_null())
        });
        assert_eq!(last, Some(&predicted["mrtd"]), "{name}");
    }
}

#[test]
fn a_value_that_differs_is_explained() {
    let per_section = measure(&["--order", "per-section"], 0)["mrtd"].clone();
    let per_section = per_section.as_str().expect("a text");
    let expected = measure(&["--expect", per_section], 1)["expected"].clone();
    assert_eq!(expected["matches"], false);
    let deviations = expected["deviations"].as_array().expect("a list");
    assert_eq!(deviations.len(), 1);
    assert!(
        deviations[0]
            .as_str()
            .is_some_and(|text| text.starts_with("order per section"))
    );
    // The same from the other side.
    let arguments = ["--order", "per-section", "--expect", PER_PAGE];
    let expected = measure(&arguments, 1)["expected"].clone();
    let first = expected["deviations"][0].as_str().expect("a text");
    assert!(first.starts_with("order per page"), "{first}");
}

#[test]
fn values_that_are_no_measurement_of_a_launch_are_named() {
    let note = |value: &str| {
        let report = measure(&["--expect", value], 1);
        let note = report["expected"]["note"].as_str();
        note.map(|note| note.split([':', ';']).next().unwrap_or_default().to_owned())
    };
    let said = |text: &str| Some(text.to_owned());
    assert_eq!(note(&"0".repeat(96)), said("all zero"));
    let hash = openssl::sha::sha384(&builtin::image());
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(note(&hash), said("the SHA-384 of the firmware file"));
    let nothing = "38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da\
                   274edebfe76f65fbd51ad2f14898b95b";
    assert_eq!(note(nothing), said("the SHA-384 of nothing"));
    let words: String = (0..6)
        .flat_map(|word| (0..8).rev().map(move |byte| (word * 8 + byte) * 2))
        .map(|at| &PER_PAGE[at..at + 2])
        .collect();
    let printed = "the predicted MRTD, printed as six numbers of 64 bits instead of as bytes";
    assert_eq!(note(&words), said(printed));
}

#[test]
fn what_can_not_be_used_is_refused_in_one_line_as_launch_does() {
    let path = in_temporary_file("zeros.fd", &[0; 8192]);
    let path = path.to_str().expect("a plain path");
    let refused = |arguments: &[&str]| {
        let output = seamlock(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty());
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(errors.lines().count(), 1, "{errors}");
        errors
    };
    assert_eq!(refused(&["measure", path]), refused(&["launch", path]));
    let absent = "absent.fd";
    assert_eq!(refused(&["measure", absent]), refused(&["launch", absent]));
    assert!(refused(&["measure", "--expect", &"ab".repeat(32)]).contains("SHA-256"));
    let neither = "neither a TDX quote of version 4 or 5, nor a TD report, nor a text";
    let bytes = in_temporary_file("bytes", &[0xff; 100]);
    let bytes = bytes.to_str().expect("a plain path");
    assert!(refused(&["measure", "--expect", bytes]).contains(neither));
    let igvm = in_temporary_file("igvm", b"IGVM\x01\0\0\0");
    let igvm = igvm.to_str().expect("a plain path");
    assert!(refused(&["measure", igvm]).contains("an IGVM file"));
    assert!(refused(&["measure", "--memory", "3k"]).contains("multiple of 1 MiB"));
}

/// MRTD of a TD on hardware, in a quote that Intel's key signed.
#[test]
fn real_firmware_is_measured_as_the_hardware_did() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors/hardware");
    let packed = folder.join("OVMF.inteltdx.2025.02-8ubuntu3.fd.xz");
    let Ok(file) = std::fs::File::open(&packed) else {
        println!("skipped: no recorded firmware images beside the project");
        return;
    };
    let mut image = Vec::new();
    let mut decoder = liblzma::read::XzDecoder::new(file);
    std::io::Read::read_to_end(&mut decoder, &mut image).expect("xz");
    let firmware = in_temporary_file("hardware.fd", &image);
    let (firmware, quote) = (firmware.to_str(), folder.join("quote-v5.dat"));
    let arguments = [firmware.expect("a plain path"), "--expect"];
    let quote = quote.to_str().expect("a plain path");
    let report = measure(&[&arguments[..], &[quote]].concat(), 0);
    assert_eq!(report["expected"]["matches"], true);
    let from = report["expected"]["from"].as_str().unwrap_or_default();
    assert!(from.starts_with("a quote of version 5 in "), "{from}");
}
