//! Recorded sequences, replayed.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, ensure};
use seamlock_tdx_module::Module;
use seamlock_vectors::run::{Keep, run};
use seamlock_vectors::{Header, Lines, Options, Sequence, replay, sample};
use serde::Serialize;

use super::Samples;

/// What one sequence takes, as a sample.
pub const SEQUENCE: &str = "sequence";

/// The sample that is built into the program, parsed.
#[derive(Debug)]
pub struct Sample {
    headers: Vec<Header>,
    /// Each with the index of its header.
    sequences: Vec<(usize, Sequence)>,
    calls: u64,
}

impl Sample {
    /// Unpacks and parses it.
    pub fn load() -> anyhow::Result<Sample> {
        let mut sample = Sample {
            headers: Vec::new(),
            sequences: Vec::new(),
            calls: 0,
        };
        for (name, bytes) in sample::FILES {
            let mut lines = Lines::of_packed(name, bytes);
            let first = lines
                .next_line()?
                .context("a file of the sample is empty")?;
            let header =
                Header::parse(&first.text).map_err(|wrong| anyhow::anyhow!("{wrong:?}"))?;
            while let Some(line) = lines.next_line()? {
                let sequence = Sequence::parse(&line.text, header.lps());
                let sequence = sequence.map_err(|wrong| anyhow::anyhow!("{wrong:?}"))?;
                sample.calls += sequence.calls();
                sample.sequences.push((sample.headers.len(), sequence));
            }
            sample.headers.push(header);
        }
        Ok(sample)
    }

    /// Replays all of it in this thread, every sequence on a module of its own, and notes what one took.
    pub fn replay(&self, samples: &mut Samples) -> anyhow::Result<()> {
        let keep = Keep {
            full: 0,
            leaf: None,
        };
        let mut mismatched = 0;
        let start = Instant::now();
        for (header, sequence) in &self.sequences {
            let header = &self.headers[*header];
            let module = Module::new(header.platform());
            let preamble = header.preambles.get(&sequence.preamble);
            let preamble = preamble.map_or(&[][..], Vec::as_slice);
            mismatched += run(&module, header, preamble, sequence, keep).mismatched;
        }
        let each = start.elapsed() / self.sequences.len().max(1) as u32;
        samples.note(SEQUENCE, each);
        ensure!(mismatched == 0, "{mismatched} mismatches in the sample");
        Ok(())
    }

    /// How fast that was.
    pub fn figures(&self, samples: &Samples) -> Replay {
        let per_second = 1e9 / samples.median(SEQUENCE).unwrap_or(f64::NAN);
        let sequences = self.sequences.len() as u64;
        Replay {
            what: "sample, one thread, from memory",
            sequences,
            calls: self.calls,
            sequences_per_second: per_second,
            calls_per_second: per_second * self.calls as f64 / sequences as f64,
        }
    }
}

/// How fast recorded sequences are replayed.
#[derive(Debug, Serialize)]
pub struct Replay {
    /// Which, and how.
    pub what: &'static str,
    /// Recorded sequences.
    pub sequences: u64,
    /// SEAMCALLs in them, without those that bring the module to where a sequence starts.
    pub calls: u64,
    /// Replayed, each on a module that was brought up for it.
    pub sequences_per_second: f64,
    /// Their calls.
    pub calls_per_second: f64,
}

impl Replay {
    /// Replays files once, as `seamlock vectors` does: read, unpacked, parsed, and on all processors.
    ///
    /// # Errors
    /// When a file can't be read, or a sequence does not end as it was recorded.
    pub fn of(paths: &[PathBuf]) -> anyhow::Result<Replay> {
        let start = Instant::now();
        let report = replay(paths, &Options::default(), &mut ());
        let seconds = start.elapsed().as_secs_f64();
        if let Some(error) = report.errors.first() {
            return Err(crate::failure::BadInput(error.to_string()).into());
        }
        let mismatched = report.mismatched;
        ensure!(mismatched == 0, "{mismatched} mismatches in the files");
        let (sequences, calls) = (report.sequences().total(), report.calls().total());
        Ok(Replay {
            what: "given files, all processors, unpacked and parsed",
            sequences,
            calls,
            sequences_per_second: sequences as f64 / seconds,
            calls_per_second: calls as f64 / seconds,
        })
    }
}
