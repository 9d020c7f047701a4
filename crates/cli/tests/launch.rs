//! `seamlock launch` as a user runs it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use seamlock_tdvf::builder::ImageBuilder;
use seamlock_tdvf::{Attributes, Section, SectionKind, builtin};
use serde_json::Value;

fn seamlock(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seamlock"));
    command.args(arguments).output().expect("seamlock starts")
}

fn launch(arguments: &[&str]) -> Value {
    let output = seamlock(&[&["launch", "--json"], arguments].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

fn in_temporary_file(name: &str, bytes: &[u8]) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("launch");
    std::fs::create_dir_all(&folder).expect("a folder for tests");
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("a file for tests");
    path
}

/// Exit code 2, nothing on standard output, and one line that says all of `parts`.
fn refused(arguments: &[&str], parts: &[&str]) {
    let output = seamlock(&[&["launch"], arguments].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    for part in parts {
        assert!(
            errors.contains(part),
            "{arguments:?}: {errors:?} does not say {part:?}"
        );
    }
}

fn refused_image(name: &str, image: &[u8], parts: &[&str]) {
    let path = in_temporary_file(name, image);
    refused(
        &[path.to_str().expect("a plain path")],
        &[&[name], parts].concat(),
    );
}

#[test]
fn the_built_in_image_is_measured_as_predicted_and_everything_comes_back() {
    let report = launch(&[]);
    let predicted = "553eddae6cb0946117f5f4ff5d14bc9132010c11534b052ac83b8ee6d4d7efea\
                     40f25cce666821aa98bc7f539037b75e";
    assert_eq!(report["mrtd"], predicted);
    assert_eq!(
        (&report["pages_added"], &report["extends"]),
        (&52.into(), &448.into())
    );
    assert_eq!(report["seamcalls"]["TDH.MR.EXTEND"], 448);
    assert_eq!(
        (&report["pages_leaked"], &report["hkid_returned"]),
        (&0.into(), &true.into())
    );
}

#[test]
fn the_measurement_depends_neither_on_vcpus_nor_on_memory() {
    let mrtd = |arguments: &[&str]| launch(arguments)["mrtd"].clone();
    let one = mrtd(&[]);
    for arguments in [
        ["--vcpus", "8", "--memory", "256M"],
        ["--vcpus", "64", "--memory", "64G"],
        ["--vcpus", "3", "--memory", "3G"],
    ] {
        assert_eq!(mrtd(&arguments), one, "{arguments:?}");
    }
}

#[test]
fn two_launches_print_the_same_bytes() {
    let print = |arguments: &[&str]| seamlock(arguments).stdout;
    for arguments in [["launch", "--vcpus", "4"].as_slice(), &["launch", "--json"]] {
        assert_eq!(print(arguments), print(arguments));
    }
}

#[test]
fn an_image_that_hardware_has_measured_gets_the_same_measurement() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors/hardware");
    let packed = folder.join("OVMF.inteltdx.2025.02-8ubuntu3.fd.xz");
    let (Ok(packed), Ok(quote)) = (
        std::fs::read(packed),
        std::fs::read(folder.join("quote-v5.dat")),
    ) else {
        println!("skipped: ../shared/vectors/hardware is absent");
        return;
    };
    let mut image = Vec::new();
    let mut reader = liblzma::read::XzDecoder::new(&packed[..]);
    std::io::Read::read_to_end(&mut reader, &mut image).expect("an xz file");
    let path = in_temporary_file("signed.fd", &image);
    // The TD report body inside the quote that the hardware signed.
    let signed: String = quote[190..190 + 48]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let report = launch(&[path.to_str().expect("a plain path")]);
    assert_eq!(report["mrtd"], signed.as_str());
    assert_eq!(report["pages_leaked"], 0);
}

#[test]
fn what_is_no_firmware_is_refused_in_one_line_that_names_the_file() {
    refused(&["/nonexistent/OVMF.fd"], &["/nonexistent/OVMF.fd"]);
    refused(&["/"], &["folder"]);
    refused_image("empty.fd", &[], &["empty"]);
    refused_image("truncated.fd", &builtin::image()[..100_000], &["truncated"]);
    refused_image("zeros.fd", &vec![0; 1 << 20], &["TDX metadata"]);
    refused_image("huge.fd", &vec![0; 17 << 20], &["too large"]);
}

#[test]
fn a_section_that_makes_no_sense_is_refused_with_its_number_type_and_field() {
    let ram = |gpa, mem_size| Section {
        kind: SectionKind::TEMP_MEM,
        data_offset: 0,
        raw_size: 0,
        gpa,
        mem_size,
        attributes: Attributes::default(),
    };
    let with = |section| builtin::builder().section(section).build();
    let name = "section 5 (TempMem)";
    refused_image(
        "unaligned.fd",
        &with(ram(0x90_0010, 0x1000)),
        &[name, "gpa"],
    );
    refused_image("overlap.fd", &with(ram(0x81_f000, 0x2000)), &["overlap"]);
    refused_image(
        "above.fd",
        &with(ram(0x7000_0000, 0x1000)),
        &[name, "memory"],
    );
    refused_image("shared.fd", &with(ram(1 << 47, 0x1000)), &[name, "shared"]);
    refused_image("nothing.fd", &with(ram(0x90_0000, 0)), &[name, "mem_size"]);
    let outside = Section {
        data_offset: 0x1_f000,
        raw_size: 0x2000,
        ..ram(0xfff0_0000, 0x2000)
    };
    let outside = Section {
        kind: SectionKind::CFV,
        ..outside
    };
    refused_image("outside.fd", &with(outside), &["section 5 (CFV)"]);
    let no_sections = ImageBuilder::new(128 << 10).build();
    refused_image("none.fd", &no_sections, &["section"]);
}

#[test]
fn arguments_that_make_no_sense_are_refused_in_one_line() {
    refused(&["--vcpus", "0"], &["--vcpus", "1 to 576"]);
    refused(&["--vcpus", "577"], &["--vcpus", "1 to 576"]);
    refused(&["--memory", "0"], &["--memory"]);
    refused(&["--memory", "4M"], &["section 2 (TempMem)", "memory"]);
    refused(&["--discipline", "nonesuch"], &["nonesuch", "v7.3"]);
}

#[test]
fn output_to_a_pipe_has_no_colour() {
    let output = seamlock(&["launch"]);
    assert!(output.status.success());
    assert!(!output.stdout.contains(&0x1b));
}
