//! Arbitrary ioctls for as long as is wanted.
//!
//! ```text
//! cargo run --release -p seamlock-kvm --example ioctl_fuzz -- --calls 10000000 --threads 4 --seed 1
//! ```
//!
//! Machines follow each other, of 100,000 calls a thread each. Prints what was done; exit code 1, and
//! the seed of the machine, when a promise was broken. A run of one thread repeats with its seed.

#![allow(clippy::disallowed_methods)] // threads that meet, and a clock for the summary

#[path = "../tests/fuzz/mod.rs"]
mod fuzz;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use seamlock_tdx_abi::kvm::{Errno, exit_name};

/// ioctls of one thread on one machine.
const ON_ONE_MACHINE: u64 = 100_000;

fn main() -> ExitCode {
    let Some([calls, threads, seed, lockdep]) = arguments() else {
        eprintln!("usage: ioctl_fuzz [--calls N] [--threads N] [--seed N] [--lockdep 0|1]");
        return ExitCode::from(2);
    };
    let start = Instant::now();
    let (mut made, mut done, mut machines) = (0, 0, 0);
    let (mut refused, mut exits) = (BTreeMap::new(), BTreeMap::new());
    while made < calls {
        let seed = seed.wrapping_add(machines);
        let tally = fuzz::run(seed, threads.max(1) as u32, ON_ONE_MACHINE, lockdep != 0);
        (made, done, machines) = (made + tally.calls, done + tally.done, machines + 1);
        for (errno, times) in tally.refused {
            *refused.entry(Errno(errno).to_string()).or_insert(0) += times;
        }
        for (reason, times) in tally.exits {
            *exits.entry(exit_name(reason).unwrap_or("?")).or_insert(0) += times;
        }
        if !tally.wrong.is_empty() {
            println!("seed {seed}, {threads} threads: {:#?}", tally.wrong);
            return ExitCode::FAILURE;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{made} ioctls on {machines} machines, {threads} threads, {seconds:.0} s: {done} succeeded"
    );
    println!("refused: {refused:?}\nexits: {exits:?}\nnothing broke, and nothing was left");
    ExitCode::SUCCESS
}

/// Calls, threads, seed, and whether lockdep watches.
fn arguments() -> Option<[u64; 4]> {
    let mut given = [1_000_000, 1, 1, 0];
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let at = ["--calls", "--threads", "--seed", "--lockdep"];
        let at = at.iter().position(|known| *known == word)?;
        given[at] = words.next()?.parse().ok()?;
    }
    Some(given)
}
