//! `seamlock bench check`: what the checker needs for programs whose number of traces is known, and for
//! the named races.
//!
//! loom and shuttle are compared by another binary, `seamlock-check-bench`, so that they are no part of
//! this one; it is run if it lies beside this one.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Args;
use rustix::time::{ClockId, clock_gettime};
use seamlock_check::programs::guard::{Guard, Policy};
use seamlock_check::programs::sections::Sections;
use seamlock_check::{Options, Setup, Verdict, check};
use seamlock_kvm::discipline::by_name;
use seamlock_races::{COLUMNS, Finding, RACES, Race, check_race};
use serde::Serialize;

use crate::output::outln;
use crate::style::{BAD, DIM, GOOD, HEAD};

/// The guard scenario is proved in this time, and each named race refuted.
const TARGET: Duration = Duration::from_secs(1);
/// Races that are closed in all of [`COLUMNS`], and a mutant that has them.
const ONLY_IN_MUTANTS: &[(&str, &str)] = &[("R8", "sev-unchecked")];

/// The checker on programs whose number of traces is known, and on the named races; then against loom
/// and shuttle, if `seamlock-check-bench` was built
#[derive(Debug, Args)]
pub struct BenchCheck {
    /// Repetitions; the best counts
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// Seconds after which another tool is cut
    #[arg(long, value_name = "N", default_value_t = 10)]
    seconds: u64,
    /// Only ours, even if the other tools are there
    #[arg(long)]
    alone: bool,
    /// Print one JSON object, of ours alone
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Proof {
    program: &'static str,
    traces: u64,
    executions: u64,
    ms: f64,
    per_second: u64,
    met: bool,
}

#[derive(Debug, Serialize)]
struct Refutation {
    race: &'static str,
    discipline: &'static str,
    executions: u64,
    ms: f64,
    met: bool,
}

#[derive(Debug, Serialize)]
struct Figures {
    proofs: Vec<Proof>,
    refutations: Vec<Refutation>,
    met: bool,
}

impl BenchCheck {
    /// Runs the benchmark.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let proofs = self.proofs()?;
        let refutations = self.refutations()?;
        let is_met = |race: &Race| {
            let mut mine = refutations.iter().filter(|r| r.race == race.id).peekable();
            mine.peek().is_some() && mine.all(|r| r.met)
        };
        let met = proofs.iter().all(|p| p.met) && RACES.iter().all(is_met);
        let figures = Figures {
            proofs,
            refutations,
            met,
        };
        if self.json {
            outln!("{}", serde_json::to_string(&figures)?);
        } else {
            print(&figures);
            self.others()?;
        }
        Ok(ExitCode::from(u8::from(!met)))
    }

    fn proofs(&self) -> anyhow::Result<Vec<Proof>> {
        let sections = Sections {
            threads: 3,
            sections: 2,
        };
        let all = |model: Guard| model.with_finalize().with_create();
        let mut proofs = vec![self.proof(
            "3 threads x 2 sections on one mutex",
            sections.traces(),
            &|setup: &mut Setup| sections.build(setup),
        )?];
        for (name, model) in [
            ("guard, 2 vCPUs", Guard::full(Policy::Guard, 2)),
            (
                "guard, 2 vCPUs, create, finalize",
                all(Guard::full(Policy::Guard, 2)),
            ),
            (
                "guard, 3 vCPUs, create, finalize",
                all(Guard::full(Policy::Guard, 3)),
            ),
            (
                "guard, 4 vCPUs, create, finalize",
                all(Guard::full(Policy::Guard, 4)),
            ),
        ] {
            let traces = model.traces().unwrap_or(0);
            proofs.push(self.proof(name, traces, &|setup: &mut Setup| model.build(setup))?);
        }
        Ok(proofs)
    }

    fn proof(
        &self,
        program: &'static str,
        traces: u64,
        scenario: &dyn Fn(&mut Setup),
    ) -> anyhow::Result<Proof> {
        let options = Options {
            walks: Vec::new(),
            ..Options::default()
        };
        let (mut best, mut executions, mut exact) = (Duration::MAX, 0, true);
        for _ in 0..self.rounds.max(1) {
            let started = on_cpu();
            let report = check(&|setup: &mut Setup| scenario(setup), &options)?;
            best = best.min(on_cpu().saturating_sub(started));
            executions = report.effort.executions;
            exact &= matches!(report.verdict, Verdict::Proved { traces: n } if n == traces);
        }
        Ok(Proof {
            program,
            traces,
            executions,
            ms: best.as_secs_f64() * 1e3,
            per_second: (executions as f64 / best.as_secs_f64().max(1e-9)) as u64,
            met: exact && executions == traces && best < TARGET,
        })
    }

    fn refutations(&self) -> anyhow::Result<Vec<Refutation>> {
        let mut refutations = Vec::new();
        for race in RACES {
            let open = COLUMNS.iter().filter(|name| race.open_in.contains(name));
            let mutants = ONLY_IN_MUTANTS.iter().filter(|(id, _)| *id == race.id);
            for name in open.chain(mutants.map(|(_, name)| name)) {
                let Some(discipline) = by_name(name) else {
                    continue;
                };
                let (mut best, mut runs, mut found) = (Duration::MAX, 0, true);
                for _ in 0..self.rounds.max(1) {
                    let started = on_cpu();
                    let checked = check_race(race, None, discipline, &Options::default())?;
                    best = best.min(on_cpu().saturating_sub(started));
                    runs = checked.executions;
                    found &= matches!(checked.finding, Finding::Refuted { .. });
                }
                refutations.push(Refutation {
                    race: race.id,
                    discipline: discipline.name,
                    executions: runs,
                    ms: best.as_secs_f64() * 1e3,
                    met: found && best < TARGET,
                });
            }
        }
        Ok(refutations)
    }

    /// The comparison with other tools.
    fn others(&self) -> anyhow::Result<()> {
        let beside = std::env::current_exe()?.with_file_name("seamlock-check-bench");
        let tool = Some(beside).filter(|path: &PathBuf| path.exists() && !self.alone);
        match tool {
            Some(path) => {
                Command::new(path).arg(self.seconds.to_string()).status()?;
            }
            None => outln!(
                "{}against loom and shuttle: cargo run --release -p seamlock-check-bench{}",
                DIM.render(),
                DIM.render_reset()
            ),
        }
        Ok(())
    }
}

fn print(figures: &Figures) {
    let sign = |met: bool| {
        let (look, sign) = if met { (GOOD, "✓") } else { (BAD, "✗") };
        format!("{}{sign}{}", look.render(), look.render_reset())
    };
    let (on, off) = (HEAD.render(), HEAD.render_reset());
    outln!("{on}proved: one execution for each trace, in less than a second{off}");
    for proof in &figures.proofs {
        outln!(
            "  {} {:<36} {:>6} traces {:>6} executions {:>9.2} ms {:>8} per second",
            sign(proof.met),
            proof.program,
            proof.traces,
            proof.executions,
            proof.ms,
            proof.per_second,
        );
    }
    outln!("{on}refuted: every race where it is open, each in less than a second{off}");
    for race in RACES {
        let mine: Vec<_> = figures
            .refutations
            .iter()
            .filter(|r| r.race == race.id)
            .collect();
        let slowest = mine.iter().map(|r| r.ms).fold(0.0, f64::max);
        let places: Vec<&str> = mine.iter().map(|r| r.discipline).collect();
        outln!(
            "  {} {:<5} in {:<34} slowest {slowest:>7.2} ms",
            sign(!mine.is_empty() && mine.iter().all(|r| r.met)),
            race.id,
            places.join(", "),
        );
    }
    outln!("times are of one thread on a CPU, its counterexample included\n");
}

/// How long this thread has been on a CPU.
fn on_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanos) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
    Duration::from_secs(seconds) + Duration::from_nanos(nanos)
}
