//! `seamlock stress`: threads make random calls, and then everything that must hold is checked.

mod audit;
mod blocks;
mod client;
mod cost;
mod deed;
mod desk;
mod finding;
mod flushes;
mod guest;
mod known;
mod ledger;
mod ops;
mod pace;
mod replay;
mod report;
mod round;
mod tally;
mod temper;
mod watch;
mod words;
mod worker;
mod world;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use seamlock_kvm::{Discipline, discipline};

use crate::failure::BadInput;
use crate::progress;
use finding::{Blame, Finding, Findings};
use replay::Replayer;
use report::Totals;
use round::Run;
use world::Shape;

/// Stress KVM's control plane: threads make random calls on some VMs, and then all invariants are checked.
///
/// Rounds of a few thousand calls, each on a machine of its own. Which calls a thread makes comes of the
/// seed; how the threads interleave does not.
///
/// Faults of the kernel that docs/findings.md describes (F1 to F8) and that the discipline has are counted
/// and listed by themselves, and are no findings.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit code: 0 when nothing was found but what is known of the discipline, \
                        1 when something was, 2 when an argument is wrong."
)]
pub struct Stress {
    /// How KVM locks; `seamlock disciplines` lists them.
    #[arg(long, value_name = "NAME", default_value = discipline::V7_3.name)]
    discipline: String,
    /// How long, at the least a round.
    #[arg(long, value_name = "N", default_value_t = 10)]
    seconds: u64,
    /// Threads that make calls.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    /// VMs at a time.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=16))]
    vms: u16,
    /// vCPUs of each VM.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    vcpus: u16,
    /// Which calls are made.
    #[arg(long, value_name = "K", default_value_t = 1)]
    seed: u64,
    /// Check the order of the locks at every acquisition.
    #[arg(long)]
    lockdep: bool,
    /// A race that is known as well, such as R5, and no finding. May be given more than once.
    #[arg(long, value_name = "RACE")]
    allow: Vec<String>,
    /// Known faults of the kernel are findings too.
    #[arg(long)]
    strict: bool,
    /// Stop after the first round that found something.
    #[arg(long)]
    fail_fast: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Stress {
    /// Runs the command: exit code 1 when something was found.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let shape = Shape {
            threads: self.threads.into(),
            vms: self.vms.into(),
            vcpus: self.vcpus.into(),
        };
        let discipline = discipline::by_name(&self.discipline).ok_or_else(|| {
            let names: Vec<_> = discipline::DISCIPLINES.iter().map(|d| d.name).collect();
            BadInput(format!(
                "--discipline {}: there is none; there are {}",
                self.discipline,
                names.join(", ")
            ))
        })?;
        let run = Run {
            shape,
            discipline,
            lockdep: self.lockdep,
            hotplug: true,
            seed: self.seed,
            start: Instant::now(),
            findings: Arc::new(Findings::knowing(self.known(discipline))),
            replayer: Replayer::boot(shape, discipline)?,
        };
        let totals = self.rounds(&run)?;
        self.tell_what_never_succeeds(&run, &totals);
        let costs = cost::measure()?;
        if self.json {
            report::json(&run, &totals, &costs)?;
        } else {
            report::text(&run, &totals, &costs);
        }
        Ok(if run.findings.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    fn tell_what_never_succeeds(&self, run: &Run, totals: &Totals) {
        let Some((name, row)) = totals.tally.never_granted() else {
            return;
        };
        let errors: Vec<_> = row.errors.iter().map(|(e, n)| format!("{e} {n}")).collect();
        let what = format!("{name}: none of {} calls: {}", row.calls, errors.join(", "));
        run.findings.add(Finding {
            check: "every command succeeds at times",
            blame: Blame::Discipline,
            what,
            round: totals.rounds,
            after_ms: totals.spent.as_millis() as u64,
            seed: run.seed,
            times: 1,
            ..Finding::default()
        });
        if !self.json {
            run.findings.take_fresh().iter().for_each(report::finding);
        }
    }

    /// What is no finding: the kernel's faults that docs/findings.md describes, and what is allowed.
    fn known(&self, discipline: &Discipline) -> Vec<String> {
        let faults = known::of(discipline).filter(|_| !self.strict);
        faults
            .map(str::to_owned)
            .chain(self.allow.iter().cloned())
            .collect()
    }

    fn rounds(&self, run: &Run) -> anyhow::Result<Totals> {
        let whole = Duration::from_secs(self.seconds);
        let bar = progress::count("stress", self.seconds);
        let mut totals = Totals::default();
        loop {
            let round = totals.rounds;
            totals.add(run.round(round)?);
            totals.spent = run.start.elapsed();
            bar.set_position(totals.spent.as_secs().min(self.seconds));
            let fresh = run.findings.take_fresh();
            if !self.json {
                bar.suspend(|| fresh.iter().for_each(report::finding));
            }
            let found = !run.findings.is_empty() && self.fail_fast;
            if totals.spent >= whole || found {
                bar.finish_and_clear();
                return Ok(totals);
            }
        }
    }
}

/// Threads hang and can't be joined: what was found is told, and the process ends.
fn give_up(run: &Run) {
    run.findings.all().iter().for_each(report::finding);
    std::process::exit(1);
}
