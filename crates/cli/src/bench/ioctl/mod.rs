//! `seamlock bench ioctl`: what an ioctl costs, next to a plain system call.
//!
//! Three ways to the same calls: KVM's dispatcher in this process, a client that wears the library as a
//! VMM does, and the same client on a real `/dev/kvm` where there is one. Each measures getppid, which
//! does nothing but enter the kernel, in the same rounds; the fastest round counts on either side.

mod client;
mod dispatch;

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use clap::Args;
use seamlock_wear::Settings;
use serde::Serialize;

use super::seamcall::{Measure, Samples};
use crate::output::outln;
use crate::run::Dress;
use crate::style::{BAD, DIM, GOOD, HEAD};

/// The system call that the others are compared with.
const GETPPID: &str = "getppid";
/// An ioctl takes at most this much of a system call's time.
const TARGET: f64 = 1.0;
/// Calls of one round.
const CALLS: u64 = 2_000;

/// ioctls of ours, in this process and worn, against getppid and a real /dev/kvm.
#[derive(Debug, Args)]
pub struct BenchIoctl {
    /// Rounds; the fastest counts.
    #[arg(long, value_name = "N", default_value_t = 31)]
    rounds: usize,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Measure /dev/kvm as it is in this process, and print what calls take.
    #[arg(long, hide = true)]
    client: bool,
}

/// Nanoseconds by name of the call.
type Nanoseconds = BTreeMap<String, f64>;

#[derive(Debug, Serialize)]
struct Figures {
    rounds: usize,
    calls: Vec<Row>,
    /// getppid where the calls were made.
    getppid_ns: Row,
    /// Whether a real /dev/kvm was there.
    real: bool,
    target: f64,
    met: bool,
}

/// One call: nanoseconds each way, and how much of a system call that is.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    dispatch_ns: Option<f64>,
    worn_ns: Option<f64>,
    real_ns: Option<f64>,
    dispatch_ratio: Option<f64>,
    worn_ratio: Option<f64>,
    real_ratio: Option<f64>,
    /// How much of the real call's time the worn one takes.
    worn_to_real: Option<f64>,
}

impl BenchIoctl {
    /// Runs the benchmark: exit code 1 when a call is slower than a system call.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let rounds = self.rounds.max(1);
        if self.client {
            outln!("{}", serde_json::to_string(&client::measure(rounds)?)?);
            return Ok(ExitCode::SUCCESS);
        }
        let dispatch = dispatch::measure(rounds)?;
        let dress = Dress::new(&Settings::default())?;
        let worn = self
            .child(Some(&dress))
            .context("the client that wears the library")?;
        // Without a /dev/kvm, or without the right to open it, there is nothing to compare with.
        let real = self.child(None).ok();
        let figures = Figures::new(rounds, &dispatch, &worn, real.as_ref());
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

    /// The client, as a process of its own.
    fn child(&self, dress: Option<&Dress>) -> anyhow::Result<Nanoseconds> {
        let mut command = Command::new(std::env::current_exe()?);
        let rounds = self.rounds.to_string();
        command.args(["bench", "ioctl", "--client", "--rounds", &rounds]);
        if let Some(dress) = dress {
            command.env("LD_PRELOAD", dress.preload());
        }
        let output = command.output()?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

/// The fastest of all rounds.
fn best(samples: &Samples, names: &[&str]) -> Nanoseconds {
    let best = |name: &&str| Some(((*name).to_owned(), Measure::Best.of(samples, name)?));
    names.iter().filter_map(best).collect()
}

impl Figures {
    fn new(
        rounds: usize,
        dispatch: &Nanoseconds,
        worn: &Nanoseconds,
        real: Option<&Nanoseconds>,
    ) -> Figures {
        let row = |name: &str| {
            let ns = |all: Option<&Nanoseconds>| all?.get(name).copied();
            let ratio = |all: Option<&Nanoseconds>| Some(ns(all)? / all?.get(GETPPID)?);
            Row {
                name: name.to_owned(),
                dispatch_ns: ns(Some(dispatch)),
                worn_ns: ns(Some(worn)),
                real_ns: ns(real),
                dispatch_ratio: ratio(Some(dispatch)),
                worn_ratio: ratio(Some(worn)),
                real_ratio: ratio(real),
                worn_to_real: ns(Some(worn)).zip(ns(real)).map(|(ours, real)| ours / real),
            }
        };
        let names = worn.keys().filter(|name| *name != GETPPID);
        let calls: Vec<Row> = names.map(|name| row(name)).collect();
        let slow = |ratio: Option<f64>| ratio.is_some_and(|ratio| ratio > TARGET);
        let met = !calls
            .iter()
            .any(|row| slow(row.dispatch_ratio) || slow(row.worn_ratio));
        Figures {
            rounds,
            getppid_ns: row(GETPPID),
            calls,
            real: real.is_some(),
            target: TARGET,
            met,
        }
    }

    fn print(&self) {
        outln!(
            "{HEAD}ioctls in nanoseconds, and as a part of getppid{HEAD:#}, best of {} rounds",
            self.rounds
        );
        outln!(
            "  {DIM}{:<26} {:>16} {:>16} {:>16} {:>12}{DIM:#}",
            "",
            "dispatcher",
            "worn",
            "/dev/kvm",
            "worn to real"
        );
        for row in self.calls.iter().chain([&self.getppid_ns]) {
            outln!(
                "  {:<26} {} {} {} {:>12}",
                row.name,
                shown(row.dispatch_ns, row.dispatch_ratio, true),
                shown(row.worn_ns, row.worn_ratio, true),
                shown(row.real_ns, row.real_ratio, false),
                row.worn_to_real
                    .map_or("-".to_owned(), |ratio| format!("{ratio:.2}x"))
            );
        }
        if !self.real {
            outln!("  no /dev/kvm here that could be opened");
        }
        if self.met {
            outln!("{GOOD}no call of ours is slower than a system call{GOOD:#}");
        } else {
            outln!("{BAD}calls of ours are slower than a system call{BAD:#}");
        }
    }
}

fn shown(ns: Option<f64>, ratio: Option<f64>, ours: bool) -> String {
    let (Some(ns), Some(ratio)) = (ns, ratio) else {
        return format!("{:>16}", "-");
    };
    let text = format!("{ns:>8.0} {ratio:>6.2}x");
    if ours && ratio > TARGET {
        format!("{BAD}{text}{BAD:#}")
    } else {
        text
    }
}
