//! The files of events, one per process.

use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::event::Event;
use crate::line::Line;

/// How the names of records end.
const SUFFIX: &str = ".events.jsonl";
/// How the names of traces end.
const TRACE_SUFFIX: &str = ".trace.jsonl";

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

    /// Where a process writes its trace.
    pub fn trace_path(dir: &Path, pid: u32) -> PathBuf {
        dir.join(format!("{pid}{TRACE_SUFFIX}"))
    }
}

/// Reads every record in a directory, by name of the file.
///
/// # Errors
/// When the directory or a file can't be read.
pub fn read_records(dir: &Path) -> io::Result<Vec<Record>> {
    let read = |path: PathBuf| {
        Ok(Record {
            events: read_lines(&path)?,
            path,
        })
    };
    files(dir, SUFFIX)?.into_iter().map(read).collect()
}

/// Reads every trace in a directory: process and line.
///
/// # Errors
/// When the directory or a file can't be read.
pub fn read_traces(dir: &Path) -> io::Result<Vec<(u32, Line)>> {
    let mut all = Vec::new();
    for path in files(dir, TRACE_SUFFIX)? {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        let pid = name
            .and_then(|name| name.strip_suffix(TRACE_SUFFIX)?.parse().ok())
            .unwrap_or(0);
        all.extend(read_lines(&path)?.into_iter().map(|line| (pid, line)));
    }
    Ok(all)
}

fn files(dir: &Path, suffix: &str) -> io::Result<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(suffix) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// The lines of a file. One that was cut off, because its writer was killed, is left out.
fn read_lines<T: DeserializeOwned>(path: &Path) -> io::Result<Vec<T>> {
    let text = std::fs::read_to_string(path)?;
    Ok(text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect())
}
