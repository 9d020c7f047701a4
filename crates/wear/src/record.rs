//! The files of events, one per process.

use std::io;
use std::path::{Path, PathBuf};

use crate::event::Event;

/// How the names of records end.
const SUFFIX: &str = ".events.jsonl";

/// What one process told.
#[derive(Clone, Debug)]
pub struct Record {
    /// The file.
    pub path: PathBuf,
    /// The events in order. A last line that was cut off is left out.
    pub events: Vec<Event>,
}

impl Record {
    /// Where a process writes its events.
    pub fn path(dir: &Path, pid: u32) -> PathBuf {
        dir.join(format!("{pid}{SUFFIX}"))
    }
}

/// Reads every record in a directory, by name of the file.
///
/// # Errors
/// When the directory or a file can't be read.
pub fn read_records(dir: &Path) -> io::Result<Vec<Record>> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(SUFFIX) {
            paths.push(path);
        }
    }
    paths.sort();
    paths.into_iter().map(read_record).collect()
}

fn read_record(path: PathBuf) -> io::Result<Record> {
    let text = std::fs::read_to_string(&path)?;
    let events = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    Ok(Record { path, events })
}
