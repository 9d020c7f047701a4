//! `seamlock run --trace` as somebody reads it who debugs a VMM.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// The preload library's tests.
fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../preload/tests/clients")
}

/// Runs one of the library's clients, compiled, with a trace. None where there is no C compiler.
fn traced(client: &str, options: &[&str], words: &[&str]) -> Option<(Output, Vec<Value>)> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let program = dir.join(format!("trace-{client}"));
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut compile = Command::new(compiler);
    let source = clients().join(client).with_extension("c");
    if compile
        .args(["-pthread", "-o"])
        .arg(&program)
        .arg(source)
        .status()
        .is_err()
    {
        println!("skipped: {client}, there is no C compiler");
        return None;
    }
    let trace = dir.join(format!("{client}.trace"));
    let output = Command::new(env!("CARGO_BIN_EXE_seamlock"))
        .args(["run", "--trace"])
        .arg(&trace)
        .args(options)
        .arg("--")
        .arg(program)
        .args(words)
        .output()
        .expect("it starts");
    let text = std::fs::read_to_string(&trace).expect("a trace");
    let line = |line: &str| serde_json::from_str(line).expect("JSON");
    Some((output, text.lines().map(line).collect()))
}

/// What an ioctl of this name was given, and what came of it, each time it was made.
fn told(lines: &[Value], name: &str) -> Vec<String> {
    let of_name = lines
        .iter()
        .filter(|line| line["name"] == name && line["kind"] == "ioctl");
    let field = |line: &Value, name: &str| line[name].as_str().unwrap_or("-").to_owned();
    of_name
        .map(|line| {
            let fields = ["file", "words", "outcome"].map(|name| field(line, name));
            fields.join(" | ")
        })
        .collect()
}

#[test]
fn arguments_and_exits_are_told_in_words() {
    let script = clients().join("script.txt");
    let options = ["--script", script.to_str().expect("UTF-8")];
    let Some((output, lines)) = traced("script", &options, &[]) else {
        return;
    };
    assert!(output.status.success());
    let has = |name: &str, text: &str| {
        let told = told(&lines, name);
        assert!(told.iter().any(|told| told == text), "{text}: {told:#?}");
    };
    has("KVM_CREATE_VM", "/dev/kvm | KVM_X86_TDX_VM | -");
    has("KVM_CREATE_VCPU", "VM 1 | vCPU 0 | -");
    has("KVM_RUN", "VM 1, vCPU 0 | - | KVM_EXIT_IO out 0x3f8 1 0x41");
    has("KVM_RUN", "VM 1, vCPU 0 | - | KVM_EXIT_IO in 0x60 2");
    has(
        "KVM_RUN",
        "VM 1, vCPU 0 | after KVM_EXIT_IO in 0x60 2 0xabcd | KVM_EXIT_MMIO write 0xfec00000 4 0x22334455",
    );
    has(
        "KVM_RUN",
        "VM 1, vCPU 0 | - | KVM_EXIT_MEMORY_FAULT 0x6000..0x7000 wanted shared",
    );
}

#[test]
fn a_seamcall_tells_which_ioctl_it_was_made_for() {
    let Some((output, lines)) = traced("memory", &[], &[]) else {
        return;
    };
    assert!(output.status.success());
    let of_kind = |kind: &'static str| lines.iter().filter(move |line| line["kind"] == kind);
    let maker = |line: &Value| {
        let same = |ioctl: &&Value| ioctl["call"] == line["call"];
        let ioctl = of_kind("ioctl").find(same).expect("its ioctl");
        let number = |line: &Value, name: &str| line[name].as_u64().expect("a number");
        let end = |line: &Value| number(line, "at_ns") + number(line, "took_ns");
        let (from, to) = (number(ioctl, "at_ns"), end(ioctl));
        assert!(
            from <= number(line, "at_ns") && end(line) <= to,
            "{line} in {ioctl}"
        );
        assert_eq!(line["thread"], ioctl["thread"]);
        ioctl["name"].as_str().unwrap_or_default().to_owned()
    };
    for (leaf, name) in [
        ("TDH.MNG.CREATE", "KVM_MEMORY_ENCRYPT_OP(KVM_TDX_INIT_VM)"),
        (
            "TDH.MEM.PAGE.ADD",
            "KVM_MEMORY_ENCRYPT_OP(KVM_TDX_INIT_MEM_REGION)",
        ),
        (
            "TDH.MR.FINALIZE",
            "KVM_MEMORY_ENCRYPT_OP(KVM_TDX_FINALIZE_VM)",
        ),
    ] {
        let calls: Vec<_> = of_kind("seamcall")
            .filter(|line| line["leaf"] == leaf)
            .collect();
        assert!(!calls.is_empty(), "{leaf}");
        calls.iter().for_each(|line| assert_eq!(maker(line), name));
    }
}

#[test]
fn a_vmm_that_crashes_leaves_its_trace_and_is_told_where() {
    let Some((output, lines)) = traced("crash", &[], &["null"]) else {
        return;
    };
    assert_eq!(output.status.code(), Some(128 + 11));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("crashed: SIGSEGV at address 0x1, in /"),
        "{said}"
    );
    assert_eq!(told(&lines, "KVM_GET_API_VERSION"), ["/dev/kvm | - | -"]);
}
