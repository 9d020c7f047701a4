//! The files of a corpus, read line by line.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use liblzma::bufread::XzDecoder;
use serde::Serialize;

use crate::wire::Complaint;

/// What is wrong with the input: with a file, a line of it, or a field of that line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct InputError {
    /// The file or folder.
    pub path: PathBuf,
    /// The line, from 1; 0 when it is about the file as a whole.
    pub line: u64,
    /// The field as a path, `steps[3].in.rcx`; empty when it is about the line as a whole.
    pub field: String,
    /// What is wrong.
    pub message: String,
}

impl InputError {
    pub(crate) fn of_file(path: &Path, message: impl Into<String>) -> InputError {
        let (path, message) = (path.to_owned(), message.into());
        InputError {
            path,
            line: 0,
            field: String::new(),
            message,
        }
    }

    pub(crate) fn of_line(path: &Path, line: u64, complaint: Complaint) -> InputError {
        let Complaint { field, message } = complaint;
        InputError {
            path: path.to_owned(),
            line,
            field,
            message,
        }
    }
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if self.line != 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for InputError {}

const SUFFIXES: [&str; 2] = [".jsonl", ".jsonl.xz"];

fn is_corpus(path: &Path) -> bool {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    name.is_some_and(|name| SUFFIXES.iter().any(|suffix| name.ends_with(suffix)))
}

/// The files that `path` stands for: itself, or, when it is a folder, the `.jsonl` and `.jsonl.xz`
/// files in it by name.
///
/// # Errors
/// When there is nothing at `path`, or no such file in the folder.
pub fn corpus_files(path: &Path) -> Result<Vec<PathBuf>, InputError> {
    let failed = |error: io::Error| InputError::of_file(path, error.to_string());
    if !fs::metadata(path).map_err(failed)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        if is_corpus(&file) {
            files.push(file);
        }
    }
    files.sort();
    match files.is_empty() {
        true => Err(InputError::of_file(
            path,
            "no .jsonl or .jsonl.xz file in this folder",
        )),
        false => Ok(files),
    }
}

/// Longer than any recorded line by far; keeps a damaged file from filling memory.
const MAX_LINE: u64 = 64 << 20;

/// A line of a file, without its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number, from 1.
    pub number: u64,
    /// Its bytes.
    pub text: Vec<u8>,
}

/// The lines of one file, unpacked as they are read.
pub struct Lines {
    path: PathBuf,
    from: Box<dyn BufRead + Send>,
    number: u64,
}

impl Lines {
    /// Opens a file; `.xz` in its name says that it is compressed.
    ///
    /// # Errors
    /// When it can't be opened.
    pub fn open(path: &Path) -> Result<Lines, InputError> {
        Lines::open_counted(path, Arc::default())
    }

    /// The same, adding the bytes of the file that were read to `count`.
    pub(crate) fn open_counted(path: &Path, count: Arc<AtomicU64>) -> Result<Lines, InputError> {
        let failed = |error: io::Error| InputError::of_file(path, error.to_string());
        let file = BufReader::new(Counted {
            from: File::open(path).map_err(failed)?,
            count,
        });
        let packed = path.extension().is_some_and(|extension| extension == "xz");
        let from: Box<dyn BufRead + Send> = match packed {
            true => Box::new(BufReader::with_capacity(
                1 << 16,
                XzDecoder::new_multi_decoder(file),
            )),
            false => Box::new(file),
        };
        Ok(Lines {
            path: path.to_owned(),
            from,
            number: 0,
        })
    }

    /// The lines of a compressed file that is in memory; `name` is what errors call it.
    pub fn of_packed(name: &str, bytes: &'static [u8]) -> Lines {
        let from = BufReader::with_capacity(1 << 16, XzDecoder::new_multi_decoder(bytes));
        Lines {
            path: name.into(),
            from: Box::new(from),
            number: 0,
        }
    }

    /// The next line that is not empty; `None` at the end.
    ///
    /// # Errors
    /// When the file can't be read or unpacked any further.
    pub fn next_line(&mut self) -> Result<Option<Line>, InputError> {
        loop {
            self.number += 1;
            let mut text = Vec::new();
            let read = (&mut self.from).take(MAX_LINE).read_until(b'\n', &mut text);
            let read = read.map_err(|error| self.unreadable(error.to_string()))?;
            if read == 0 {
                return Ok(None);
            }
            if read as u64 == MAX_LINE {
                return Err(self.unreadable(format!("longer than {MAX_LINE} bytes")));
            }
            if text.ends_with(b"\n") {
                text.pop();
            }
            if !text.trim_ascii().is_empty() {
                return Ok(Some(Line {
                    number: self.number,
                    text,
                }));
            }
        }
    }

    fn unreadable(&self, message: String) -> InputError {
        let field = String::new();
        InputError::of_line(&self.path, self.number, Complaint { field, message })
    }
}

struct Counted {
    from: File,
    count: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(out)?;
        self.count.fetch_add(n as u64, Relaxed);
        Ok(n)
    }
}
