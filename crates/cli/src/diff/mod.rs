//! `seamlock diff`: where two launches part, and what that did to MRTD.

mod compare;
mod launches;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::failure::BadInput;
use compare::Comparison;
use launches::Launch;

/// Compare two launches: the first divergence, and what it did to MRTD.
///
/// The files are those of `seamlock run --json`, `launch --json` and `measure --json`, in any
/// combination. Exit code 0 when the launches are the same, 1 when they differ, 2 when a file can't be
/// used.
#[derive(Debug, Args)]
pub struct Diff {
    /// One launch.
    a: PathBuf,
    /// The other.
    b: PathBuf,
    /// Which TD of a run that built several, counted from 1: of both files, or of each.
    #[arg(long, value_name = "N[,M]", default_value = "1")]
    td: String,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Diff {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let (first, second) = self.tds()?;
        let a = Launch::read(&self.a, first)?;
        let b = Launch::read(&self.b, second)?;
        let comparison = Comparison::of(&a, &b);
        let report = report::Report::new(&a, &b, &comparison);
        if self.json {
            report.json()?;
        } else {
            report.text()?;
        }
        Ok(if comparison.is_same() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    fn tds(&self) -> Result<(usize, usize), BadInput> {
        let text = &self.td;
        let number = |word: &str| match word.trim().parse() {
            Ok(number) if number > 0 => Ok(number),
            _ => Err(BadInput(format!(
                "--td {text}: not N or N,M, counted from 1"
            ))),
        };
        let (first, second) = text.split_once(',').unwrap_or((text, text));
        Ok((number(first)?, number(second)?))
    }
}
