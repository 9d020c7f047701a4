//! Misbehaves for a while: arbitrary and half-valid SEAMCALLs and TDCALLs in arbitrary states.
//!
//! ```text
//! cargo run --release -p seamlock-tdx-module --example hammer -- --seconds 60 --seed 1
//! cargo run --release -p seamlock-tdx-module --example hammer -- --seconds 60 --threads 4
//! ```
//!
//! With `--threads 0`, the default, one thread plays all processors and every lock word is followed call
//! by call; with threads, they meet inside the module. Prints what was done; exit code 1 and what went
//! wrong when the module broke a promise. A run of one thread repeats with the seed that is printed.

#![allow(clippy::disallowed_methods)] // a clock ends the run

#[path = "../tests/hammer/mod.rs"]
mod hammer;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use hammer::run::{Runner, Tally, Violation};
use hammer::step::Step;
use hammer::threads::{Stress, StressReport};

/// Steps on one module.
const STEPS: usize = 4_000;

struct Arguments {
    seconds: u64,
    seed: u64,
    threads: u32,
}

fn arguments() -> Option<Arguments> {
    let mut given = Arguments {
        seconds: 10,
        seed: 1,
        threads: 0,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next()?;
        match word.as_str() {
            "--seconds" => given.seconds = value.parse().ok()?,
            "--seed" => given.seed = value.parse().ok()?,
            "--threads" => given.threads = value.parse().ok()?,
            _ => return None,
        }
    }
    Some(given)
}

fn main() -> ExitCode {
    let Some(given) = arguments() else {
        eprintln!("usage: hammer [--seconds N] [--seed N] [--threads N]");
        return ExitCode::from(2);
    };
    let time = Duration::from_secs(given.seconds);
    let done = if given.threads == 0 {
        alone(time, given.seed)
    } else {
        let stress = Stress {
            threads: given.threads,
            time,
            seed: given.seed,
        };
        stress.run()
    };
    match done {
        Ok(report) => {
            print(&report);
            ExitCode::SUCCESS
        }
        Err(violation) => {
            eprintln!("{violation}");
            ExitCode::FAILURE
        }
    }
}

/// One thread. Every eighth module has a host that writes over the pages of TDs.
fn alone(time: Duration, first: u64) -> Result<StressReport, Violation> {
    let end = Instant::now() + time;
    let mut report = StressReport::default();
    while report.modules == 0 || Instant::now() < end {
        let seed = first.wrapping_add(report.modules);
        let mut rng = fastrand::Rng::with_seed(seed);
        let steps = (0..STEPS).map(|_| Step::random(&mut rng));
        let mut runner = Runner::new(seed, true);
        if seed % 8 == 7 {
            runner = runner.corrupting();
        }
        let done = runner.run(steps);
        let tally = done.inspect_err(|_| eprintln!("seed {seed}"))?;
        report.tally.add(&tally);
        report.modules += 1;
    }
    Ok(report)
}

fn print(report: &StressReport) {
    let Tally {
        seamcalls,
        guest_acts,
        audits,
        leaves,
        statuses,
    } = &report.tally;
    println!("{:<28}{:>10}{:>10}", "leaf", "calls", "succeeded");
    let (mut others, mut other_calls) = (0, 0);
    for (leaf, (calls, succeeded)) in leaves {
        match leaf.spec_name() {
            Some(name) => println!("{name:<28}{calls:>10}{succeeded:>10}"),
            None => (others, other_calls) = (others + 1, other_calls + calls),
        }
    }
    println!(
        "{:<28}{other_calls:>10}",
        format!("{others} unknown leaves")
    );
    let busy = statuses
        .iter()
        .filter(|((_, status), _)| status.class() == 2);
    for ((leaf, status), count) in busy {
        println!("{:<28}{count:>10}  {status}", leaf.to_string());
    }
    let modules = report.modules;
    println!("{seamcalls} SEAMCALLs and {guest_acts} guest calls and exits on {modules} modules");
    println!("{audits} audits, all clean");
    if !report.marks.is_empty() {
        println!(
            "host-priority marks left: {:?}; one host call took each away",
            report.marks
        );
    }
}
