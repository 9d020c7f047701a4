//! `seamlock bench seamcall`: what a SEAMCALL costs, next to the hash, the copy and the locks that it
//! needs anyway.
//!
//! Everything is measured in rounds, the bare work next to the leaf that does the same, so that a slow
//! moment of the machine meets both; medians count. All pages are in memory before the first round, as
//! they are on a real machine.

pub mod bare;
mod figures;
mod rig;
mod rounds;
mod sequences;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::output::outln;
use clap::Args;

/// The leaves of the module, against the hash, the copy and the lock words that they need.
#[derive(Debug, Args)]
pub struct BenchSeamcall {
    /// Recorded sequences to replay as well: files (.jsonl or .jsonl.xz) or folders of them.
    paths: Vec<PathBuf>,
    /// Rounds; the median counts.
    #[arg(long, value_name = "N", default_value_t = 41)]
    rounds: usize,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl BenchSeamcall {
    /// Runs the benchmark: exit code 1 when a target is missed.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let mut samples = Samples::default();
        let rounds = self.rounds.max(1);
        let rig = rig::Rig::new()?;
        let sample = sequences::Sample::load()?;
        // The first round warms up: it counts for nothing.
        for round in 0..=rounds {
            rounds::round(&rig, &mut samples)?;
            sample.replay(&mut samples)?;
            if round == 0 {
                samples.0.clear();
            }
        }
        let mut replays = vec![sample.figures(&samples)];
        if !self.paths.is_empty() {
            replays.push(sequences::Replay::of(&self.paths)?);
        }
        let figures = figures::Figures::new(&samples, replays, rounds);
        if self.json {
            outln!("{}", serde_json::to_string_pretty(&figures)?);
        } else {
            figures.print();
        }
        Ok(if figures.met {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// Nanoseconds for one of something, of every round.
#[derive(Debug, Default)]
pub struct Samples(BTreeMap<String, Vec<f64>>);

impl Samples {
    /// Does something `n` times and notes what one took.
    pub fn time(
        &mut self,
        name: &str,
        n: u64,
        mut each: impl FnMut(u64) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        for i in 0..n {
            each(i)?;
        }
        let ns = start.elapsed().as_nanos() as f64 / n as f64;
        self.push(name, ns);
        Ok(())
    }

    /// Notes what something took that was timed elsewhere.
    fn note(&mut self, name: &str, time: Duration) {
        self.push(name, time.as_nanos() as f64);
    }

    fn push(&mut self, name: &str, ns: f64) {
        match self.0.get_mut(name) {
            Some(samples) => samples.push(ns),
            None => drop(self.0.insert(name.to_owned(), vec![ns])),
        }
    }

    /// The median of something that was measured.
    fn median(&self, name: &str) -> Option<f64> {
        Measure::Median.of(self, name)
    }
}

/// Which of the rounds counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// The one in the middle.
    Median,
    /// The fastest: for what is so long that other processes get in between.
    Best,
}

impl Measure {
    /// What something took in that round.
    pub fn of(self, samples: &Samples, name: &str) -> Option<f64> {
        let mut samples = samples.0.get(name)?.clone();
        samples.sort_by(f64::total_cmp);
        let at = match self {
            Measure::Median => samples.len() / 2,
            Measure::Best => 0,
        };
        samples.get(at).copied()
    }
}
