//! The checker, loom and shuttle on the same abstract lock programs.
//!
//! `seamlock-check-bench [SECONDS]` prints two tables: how long it takes to explore a program that is
//! right, and how long to find the error in one that is wrong. Every measurement runs in a process of
//! its own, so that memory is its own, and is cut after so many seconds (10).

mod programs;
mod table;
mod tools;

use std::process::ExitCode;

use crate::tools::Tool;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--one", tool, program, seconds] => one(tool, program, seconds),
        [] => table::print(10),
        [seconds] => match seconds.parse() {
            Ok(seconds) => table::print(seconds),
            Err(_) => usage(),
        },
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: seamlock-check-bench [SECONDS]");
    ExitCode::FAILURE
}

/// Makes one measurement and prints it for the process that asked for it.
fn one(tool: &str, program: &str, seconds: &str) -> ExitCode {
    let (Some(tool), Some(program), Ok(seconds)) =
        (Tool::named(tool), programs::named(program), seconds.parse())
    else {
        return usage();
    };
    println!("{}", tools::measure(tool, &program, seconds));
    ExitCode::SUCCESS
}
