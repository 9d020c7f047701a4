//! `seamlock vectors`: replays recorded SEAMCALL sequences.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use clap::Args;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_vectors::{Options, Position, Progress, Report, replay};

use crate::failure::BadInput;
use crate::output::outln;
use crate::progress;

/// Replay recorded SEAMCALL sequences and compare every register and lock word.
#[derive(Debug, Args)]
pub struct Vectors {
    /// Files (.jsonl or .jsonl.xz) or folders of them.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Replay only the sequence with this id, and list all its mismatches.
    #[arg(long, value_name = "ID")]
    only: Option<String>,
    /// Replay only sequences whose id starts with this.
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// List only mismatches about this leaf, such as MEM.PAGE.ADD.
    #[arg(long, value_name = "LEAF", value_parser = parse_leaf)]
    leaf: Option<Leaf>,
    /// Mismatches to list in full.
    #[arg(long, value_name = "N", default_value_t = 10)]
    first: usize,
    /// Threads; all processors if not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// Print the report as one JSON object.
    #[arg(long)]
    json: bool,
}

fn parse_leaf(name: &str) -> Result<Leaf, String> {
    Leaf::from_name(name).ok_or_else(|| "there is no leaf of this name".to_owned())
}

impl Vectors {
    /// Runs the command: exit code 1 on a mismatch.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let options = self.options();
        let mut bar = Bar(progress::bytes("replaying"));
        let start = Instant::now();
        let report = replay(&self.paths, &options, &mut bar);
        let seconds = start.elapsed().as_secs_f64();
        bar.0.finish_and_clear();
        if self.json {
            let text = serde_json::to_string_pretty(&report).context("report")?;
            outln!("{text}");
        } else {
            outln!("{report}");
            let (sequences, calls) = (report.sequences().total(), report.calls().total());
            outln!("{sequences} sequences, {calls} calls in {seconds:.2} s");
        }
        self.verdict(&report)
    }

    fn options(&self) -> Options {
        let mut options = Options {
            only: self.only.clone(),
            prefix: self.prefix.clone(),
            leaf: self.leaf,
            first: self.first,
            ..Options::default()
        };
        if self.only.is_some() {
            options.per_sequence = usize::MAX;
        }
        if let Some(jobs) = self.jobs {
            options.threads = jobs.into();
        }
        options
    }

    fn verdict(&self, report: &Report) -> anyhow::Result<ExitCode> {
        if !report.errors.is_empty() {
            let count = report.errors.len();
            return Err(BadInput(format!("{count} files or lines could not be read")).into());
        }
        if report.sequences().total() == 0 {
            let what = match (&self.only, &self.prefix) {
                (Some(id), _) => format!("no sequence has the id {id}"),
                (None, Some(prefix)) => format!("no sequence's id starts with {prefix}"),
                (None, None) => "the files hold no sequence".to_owned(),
            };
            return Err(BadInput(what).into());
        }
        Ok(if report.passed() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

struct Bar(indicatif::ProgressBar);

impl Progress for Bar {
    fn advance(&mut self, position: Position) {
        self.0.set_length(position.bytes_total);
        self.0.set_position(position.bytes);
        self.0.set_message(format!(
            "{} sequences, {} failed",
            position.sequences, position.failed
        ));
    }
}
