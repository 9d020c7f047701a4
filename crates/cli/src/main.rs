//! `seamlock`: a software Intel TDX platform on the command line.

#![forbid(unsafe_code)]
// The command line is where threads start and progress looks at the clock.
#![allow(clippy::disallowed_methods)]

mod abi;
mod bench;
mod check;
mod diff;
mod disciplines;
mod explain;
mod failure;
mod launch;
mod locks;
mod measure;
mod output;
mod progress;
mod run;
mod stress;
mod style;
mod vectors;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A software Intel TDX platform: the TDX module and KVM's TDX control plane in user space, with every
/// lock in view.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
    Launch(launch::Launch),
    Measure(measure::Measure),
    Diff(diff::Diff),
    Locks(locks::Locks),
    Vectors(vectors::Vectors),
    Check(check::Check),
    Explain(explain::Explain),
    Disciplines(disciplines::Disciplines),
    Stress(stress::Stress),
    Abi(abi::Abi),
    Bench(bench::Bench),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Run(command) => command.run(),
        Command::Launch(command) => command.run(),
        Command::Measure(command) => command.run(),
        Command::Diff(command) => command.run(),
        Command::Locks(command) => command.run(),
        Command::Vectors(command) => command.run(),
        Command::Check(command) => command.run(),
        Command::Explain(command) => command.run(),
        Command::Disciplines(command) => command.run(),
        Command::Stress(command) => command.run(),
        Command::Abi(command) => command.run(),
        Command::Bench(command) => command.run(),
    };
    failure::exit_code(done)
}
