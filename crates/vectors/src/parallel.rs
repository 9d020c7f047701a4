//! All sequences of some files, on several threads.
//!
//! One thread reads and unpacks, the others parse and replay, and the caller's collects. Results are
//! ordered by file and line before anything is made of them, so the report does not depend on timing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam_channel::{Receiver, Sender, bounded};
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_module::Module;

use crate::files::{InputError, Line, Lines, corpus_files};
use crate::header::Header;
use crate::report::{Replayed, Report};
use crate::run::{Keep, run};
use crate::sequence::Sequence;
use crate::wire::{self, Complaint};

/// What to replay, and what to tell.
#[derive(Clone, Debug)]
pub struct Options {
    /// Only the sequence with this id.
    pub only: Option<String>,
    /// Only sequences whose id starts with this.
    pub prefix: Option<String>,
    /// Only mismatches about this leaf are listed and grouped; the tallies count all.
    pub leaf: Option<Leaf>,
    /// Mismatches to list in full.
    pub first: usize,
    /// Mismatches of one sequence to list in full: what comes after the first often follows from it.
    pub per_sequence: usize,
    /// Threads that replay.
    pub threads: usize,
}

impl Default for Options {
    /// Everything, ten mismatches in full, one for each sequence, a thread for each processor.
    fn default() -> Options {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Options {
            only: None,
            prefix: None,
            leaf: None,
            first: 10,
            per_sequence: 1,
            threads,
        }
    }
}

impl Options {
    fn wants(&self, id: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == id)
            && self
                .prefix
                .as_deref()
                .is_none_or(|prefix| id.starts_with(prefix))
    }

    fn filters(&self) -> bool {
        self.only.is_some() || self.prefix.is_some()
    }
}

/// How far a replay is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Bytes of the files that were read, packed where they are packed.
    pub bytes: u64,
    /// Bytes of all files.
    pub bytes_total: u64,
    /// Sequences replayed.
    pub sequences: u64,
    /// Sequences with a mismatch.
    pub failed: u64,
}

/// Whoever watches a replay.
pub trait Progress {
    /// A sequence is done.
    fn advance(&mut self, position: Position);
}

/// Nobody watches.
impl Progress for () {
    fn advance(&mut self, _: Position) {}
}

struct Job {
    file: usize,
    line: Line,
    header: Arc<Header>,
}

/// One thing that happened, with where it belongs.
pub(crate) struct Event {
    pub file: usize,
    pub line: u64,
    pub what: Result<Replayed, InputError>,
}

/// Replays files and folders of files. What is wrong with the input is part of the report.
pub fn replay(paths: &[PathBuf], options: &Options, progress: &mut dyn Progress) -> Report {
    let (files, mut errors) = expand(paths);
    let bytes_total = files
        .iter()
        .filter_map(|file| file.metadata().ok())
        .map(|m| m.len())
        .sum();
    let bytes = Arc::new(AtomicU64::new(0));
    let threads = options.threads.max(1);
    let (jobs, job) = bounded::<Job>(threads * 16);
    let (events, event) = bounded::<Event>(threads * 64);
    let mut collected = Vec::new();
    std::thread::scope(|scope| {
        let (feed_events, files, counter) = (events.clone(), &files, Arc::clone(&bytes));
        scope.spawn(move || feed(files, &counter, &jobs, &feed_events));
        for _ in 0..threads {
            let (job, events) = (job.clone(), events.clone());
            scope.spawn(move || work(files, options, &job, &events));
        }
        drop(events);
        let mut position = Position {
            bytes_total,
            ..Position::default()
        };
        for event in event {
            if let Ok(result) = &event.what {
                position.sequences += 1;
                position.failed += u64::from(result.ran.mismatched != 0);
            }
            position.bytes = bytes.load(Relaxed);
            progress.advance(position);
            collected.push(event);
        }
    });
    collected.sort_by_key(|event| (event.file, event.line));
    let mut report = Report::default();
    for event in collected {
        match event.what {
            Ok(result) => report.add(result, options),
            Err(error) => errors.push(error),
        }
    }
    if report.corpora.is_empty() && errors.is_empty() {
        let all = Path::new("(all files)");
        errors.push(InputError::of_file(all, "no sequence was replayed"));
    }
    report.finish(errors)
}

fn expand(paths: &[PathBuf]) -> (Vec<PathBuf>, Vec<InputError>) {
    let (mut files, mut errors) = (Vec::new(), Vec::new());
    for path in paths {
        match corpus_files(path) {
            Ok(found) => files.extend(found),
            Err(error) => errors.push(error),
        }
    }
    (files, errors)
}

/// Reads all files. Ends early when nobody listens any more.
fn feed(files: &[PathBuf], count: &Arc<AtomicU64>, jobs: &Sender<Job>, events: &Sender<Event>) {
    for (file, path) in files.iter().enumerate() {
        if let Err(error) = feed_file(file, path, count, jobs) {
            let line = error.line;
            let _ = events.send(Event {
                file,
                line,
                what: Err(error),
            });
        }
    }
}

fn feed_file(
    file: usize,
    path: &Path,
    count: &Arc<AtomicU64>,
    jobs: &Sender<Job>,
) -> Result<(), InputError> {
    let mut lines = Lines::open_counted(path, Arc::clone(count))?;
    let Some(first) = lines.next_line()? else {
        return Err(InputError::of_file(path, "empty: the header is missing"));
    };
    let wrong = |complaint| InputError::of_line(path, first.number, complaint);
    let header = Arc::new(Header::parse(&first.text).map_err(wrong)?);
    while let Some(line) = lines.next_line()? {
        let job = Job {
            file,
            line,
            header: Arc::clone(&header),
        };
        if jobs.send(job).is_err() {
            break;
        }
    }
    Ok(())
}

fn work(files: &[PathBuf], options: &Options, jobs: &Receiver<Job>, events: &Sender<Event>) {
    for job in jobs {
        let what = match one(&job, options) {
            Ok(None) => continue,
            Ok(Some(result)) => Ok(result),
            Err(wrong) => Err(InputError::of_line(
                &files[job.file],
                job.line.number,
                wrong,
            )),
        };
        let (file, line) = (job.file, job.line.number);
        if events.send(Event { file, line, what }).is_err() {
            return;
        }
    }
}

fn one(job: &Job, options: &Options) -> Result<Option<Replayed>, Complaint> {
    if options.filters() {
        let identity: wire::Identity<'_> = wire::read(&job.line.text)?;
        if !options.wants(&identity.id) {
            return Ok(None);
        }
    }
    let header = &job.header;
    let sequence = Sequence::parse(&job.line.text, header.lps())?;
    let Some(preamble) = header.preambles.get(&sequence.preamble) else {
        let message = format!("the header has no preamble `{}`", sequence.preamble);
        return Err(Complaint {
            field: "preamble".into(),
            message,
        });
    };
    let module = Module::new(header.platform());
    let keep = Keep {
        full: options.per_sequence,
        leaf: options.leaf,
    };
    let ran = run(&module, header, preamble, &sequence, keep);
    let Sequence { id, case, .. } = sequence;
    Ok(Some(Replayed {
        corpus: header.corpus.clone(),
        id,
        case,
        ran,
    }))
}
