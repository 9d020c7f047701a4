//! Replays recorded sequences: `replay PATH… [--only ID] [--prefix P] [--first N] [--leaf NAME]
//! [--threads N] [--json]`. Exit code 1 on any mismatch, 2 on a wrong command line.

#![allow(clippy::disallowed_methods)] // the clock is for the last line only

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Instant;

use seamlock_tdx_abi::leaf::Leaf;
use seamlock_vectors::{Options, Report, replay};

fn main() -> ExitCode {
    let (paths, options, json) = match arguments() {
        Ok(arguments) => arguments,
        Err(complaint) => {
            eprintln!("{complaint}");
            return ExitCode::from(2);
        }
    };
    quieten_panics();
    let start = Instant::now();
    let report = replay(&paths, &options, &mut ());
    let seconds = start.elapsed().as_secs_f64();
    let text = if json {
        json_text(&report)
    } else {
        text(&report, seconds)
    };
    // Whoever reads only the first lines closes the pipe: no reason to complain.
    let _ = std::io::stdout().write_all(text.as_bytes());
    if report.passed() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn json_text(report: &Report) -> String {
    serde_json::to_string_pretty(report).unwrap_or_else(|error| error.to_string()) + "\n"
}

fn text(report: &Report, seconds: f64) -> String {
    let (sequences, calls) = (report.sequences().total(), report.calls().total());
    let rate = sequences as f64 / seconds;
    format!(
        "{report}\n{sequences} sequences, {calls} calls in {seconds:.2} s: {rate:.0} sequences/s\n"
    )
}

fn arguments() -> Result<(Vec<PathBuf>, Options, bool), String> {
    let (mut paths, mut options, mut json) = (Vec::new(), Options::default(), false);
    let mut rest = std::env::args().skip(1);
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--only" => {
                options.only = Some(value()?);
                options.per_sequence = usize::MAX;
            }
            "--prefix" => options.prefix = Some(value()?),
            "--first" => options.first = value()?.parse().map_err(|e| format!("--first: {e}"))?,
            "--threads" => {
                options.threads = value()?.parse().map_err(|e| format!("--threads: {e}"))?;
            }
            "--leaf" => {
                let name = value()?;
                let leaf = Leaf::from_name(&name).ok_or(format!("unknown leaf {name}"))?;
                options.leaf = Some(leaf);
            }
            "--json" => json = true,
            flag if flag.starts_with('-') => return Err(format!("unknown option {flag}")),
            path => paths.push(path.into()),
        }
    }
    if paths.is_empty() {
        Err("no path given".into())
    } else {
        Ok((paths, options, json))
    }
}

/// A panic of the module is a mismatch; where it happened is worth a line, a thousand times is not.
fn quieten_panics() {
    static SEEN: AtomicU32 = AtomicU32::new(0);
    std::panic::set_hook(Box::new(|info| {
        if SEEN.fetch_add(1, Relaxed) < 5 {
            eprintln!("{info}");
        }
    }));
}
