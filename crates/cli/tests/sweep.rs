//! `seamlock check --sweep` within a budget.

use std::process::{Command, Output};

fn sweep_of(discipline: &str, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seamlock"));
    let fixed = ["check", "--sweep", "--discipline", discipline];
    command.args(fixed).args(args).output().expect("it runs")
}

fn sweep(args: &[&str]) -> Output {
    sweep_of("sealed", args)
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_total_leaves_cells_out_and_says_so_whatever_the_number_of_threads() {
    let args = [
        "--triples",
        "--only",
        "closing",
        "--budget",
        "5",
        "--total",
        "150",
    ];
    let one = sweep(&[&args[..], &["--jobs", "1"]].concat());
    let three = sweep(&[&args[..], &["--jobs", "3"]].concat());
    let said = text(&one);
    assert_eq!(said, text(&three));
    assert_eq!(one.status.code(), Some(3), "{said}");
    assert!(said.contains(" not run; 15"), "{said}");
    // Each company of three is there, with what was run of it.
    for company in ["host+host+host", "user+user+scheduler", "all"] {
        assert!(said.lines().any(|line| line.starts_with(company)), "{said}");
    }
}

#[test]
fn without_a_total_every_cell_is_run() {
    let output = sweep(&["--only", "closing/run0+punch+kill", "--budget", "5"]);
    let said = text(&output);
    assert!(
        said.contains("1 cells") && !said.contains("not run"),
        "{said}"
    );
}

#[test]
fn a_discipline_under_which_no_td_can_be_built_is_refused_and_not_refuted() {
    let output = sweep_of("seed", &[]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("nothing to sweep under seed"), "{said}");
    assert!(said.contains("tdx_td_init"), "{said}");
}
