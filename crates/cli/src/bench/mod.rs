//! `seamlock bench`: how fast, as ratios against a named baseline of the same run.

mod check;
mod ioctl;
mod launch;
mod seamcall;

use std::process::ExitCode;

use clap::{Args, Subcommand};

/// Measure: how fast, against a bare baseline of the same run.
#[derive(Debug, Args)]
pub struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Check(check::BenchCheck),
    Launch(launch::BenchLaunch),
    Ioctl(ioctl::BenchIoctl),
    Seamcall(seamcall::BenchSeamcall),
}

impl Bench {
    /// Runs the command: exit code 1 when a target is missed.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.what {
            What::Check(command) => command.run(),
            What::Launch(command) => command.run(),
            What::Ioctl(command) => command.run(),
            What::Seamcall(command) => command.run(),
        }
    }
}
