//! Picks a small sample of recorded corpora that still covers what they cover:
//! `select FOLDER OUT`, where OUT receives one `.jsonl.xz` for each corpus.
//!
//! A sequence covers the *features* of its steps: each leaf and version with each status it gave, each
//! lock word with each step, mode, result and content, each exit reason and kind, each preamble, and
//! the family of its id (`err-opnd`). The sequence with the most features that are not covered yet is
//! taken, the shortest line first among equals, then the first in the order of files and lines, until
//! all features are covered. Lines are copied as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use liblzma::write::XzEncoder;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_vectors::{Header, Lines, Outcome, Sequence, Step, corpus_files};

struct Candidate {
    file: usize,
    line: Vec<u8>,
    features: BTreeSet<u32>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [from, out] = arguments.as_slice() else {
        return Err("usage: select FOLDER OUT".into());
    };
    let files = corpus_files(from)?;
    let mut numbers = BTreeMap::new();
    let (mut headers, mut candidates) = (Vec::new(), Vec::new());
    for (file, path) in files.iter().enumerate() {
        let mut lines = Lines::open(path)?;
        let first = lines.next_line()?.ok_or("the header is missing")?.text;
        let header = Header::parse(&first).map_err(|c| format!("{}: {}", c.field, c.message))?;
        headers.push((header.corpus.clone(), first));
        while let Some(line) = lines.next_line()? {
            let sequence = Sequence::parse(&line.text, header.lps());
            let sequence = sequence.map_err(|c| format!("{}: {}", c.field, c.message))?;
            let features = number(features(&sequence, &header.corpus), &mut numbers);
            candidates.push(Candidate {
                file,
                line: line.text,
                features,
            });
        }
    }
    let picked = cover(&candidates);
    println!(
        "{} features, {} of {} sequences",
        numbers.len(),
        picked.len(),
        candidates.len()
    );
    for (file, (corpus, header)) in headers.iter().enumerate() {
        let of_file = picked
            .iter()
            .map(|i| &candidates[*i])
            .filter(|c| c.file == file);
        let lines = of_file.map(|c| c.line.as_slice());
        write(&out.join(format!("{corpus}.jsonl.xz")), header, lines)?;
    }
    Ok(())
}

fn features(sequence: &Sequence, corpus: &str) -> BTreeSet<String> {
    let family = sequence.id.trim_end_matches(|c: char| c.is_ascii_digit());
    let mut found = BTreeSet::from([
        format!("family {family}"),
        format!("preamble {} of {corpus}", sequence.preamble),
    ]);
    for step in &sequence.steps {
        found.insert(feature(step));
    }
    found
}

fn feature(step: &Step) -> String {
    match step {
        Step::Fill { .. } => "fill".into(),
        Step::Write { .. } => "write".into(),
        Step::Call {
            input,
            expected,
            count,
            ..
        } => {
            let status = match expected {
                Outcome::Guest => "guest".into(),
                Outcome::Host(regs) => TdxStatus(regs.rax).code().to_string(),
            };
            format!("call {:#x} {status} {}", input.rax & 0xff_ffff, *count > 1)
        }
        Step::GuestExit { exit, .. } => format!("exit {} {:?}", exit.reason, exit.kind),
        Step::Hold {
            what,
            mode,
            result,
            word,
        } => {
            format!("hold {} {mode:?} {result:?} {word:?}", what.name)
        }
        Step::GuestTry {
            what,
            mode,
            result,
            word,
        } => {
            format!("guest_try {} {mode:?} {result:?} {word:?}", what.name)
        }
        Step::Release { what, mode, word } => format!("release {} {mode:?} {word:?}", what.name),
        Step::Peek { what, word } => format!("peek {} {word:?}", what.name),
        Step::ExpectMrtd { .. } => "expect_mrtd".into(),
    }
}

fn number(names: BTreeSet<String>, numbers: &mut BTreeMap<String, u32>) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    for name in names {
        let next = numbers.len() as u32;
        found.insert(*numbers.entry(name).or_insert(next));
    }
    found
}

/// Indices of a greedy cover, ascending.
fn cover(candidates: &[Candidate]) -> BTreeSet<usize> {
    let (mut covered, mut picked) = (BTreeSet::new(), BTreeSet::new());
    loop {
        let gain = |c: &Candidate| c.features.difference(&covered).count();
        let rank = |(i, c): &(usize, &Candidate)| (gain(c), std::cmp::Reverse((c.line.len(), *i)));
        match candidates.iter().enumerate().max_by_key(rank) {
            Some((i, best)) if gain(best) > 0 => {
                covered.extend(&best.features);
                picked.insert(i);
            }
            _ => return picked,
        }
    }
}

fn write<'a>(
    path: &Path,
    header: &'a [u8],
    lines: impl Iterator<Item = &'a [u8]>,
) -> Result<(), Box<dyn Error>> {
    let mut out = XzEncoder::new(File::create(path)?, 9);
    for line in std::iter::once(header).chain(lines) {
        out.write_all(line)?;
        out.write_all(b"\n")?;
    }
    out.finish()?;
    Ok(())
}
