//! What a command prints on standard output, and files that it is told to read and to write.

use std::fmt::Arguments;
use std::io::{Error, ErrorKind, Read, Write};
use std::path::Path;

use crate::failure::BadInput;

/// The longest text that is read from a file; a trace or a report is far from it.
const LONGEST: u64 = 256 << 20;

/// Prints on standard output. Where nothing more can be written the process ends: quietly when the reader
/// has seen enough, else with a line that says why.
pub fn print(text: Arguments) {
    let mut out = anstream::stdout();
    match out.write_fmt(text).and_then(|()| out.flush()) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            anstream::eprintln!("error: standard output: {error}");
            std::process::exit(2);
        }
    }
}

/// Prints a line on standard output.
macro_rules! outln {
    () => { $crate::output::print(format_args!("\n")) };
    ($($text:tt)*) => {
        $crate::output::print(format_args!("{}\n", format_args!($($text)*)))
    };
}
pub(crate) use outln;

/// Prints on standard output, without a line's end.
macro_rules! out {
    ($($text:tt)*) => { $crate::output::print(format_args!($($text)*)) };
}
pub(crate) use out;

/// Reads a file that should be a text.
///
/// # Errors
/// One line that says which file and why not.
pub fn read(path: &Path) -> Result<String, BadInput> {
    let bad = |why: Error| BadInput(format!("{}: {why}", path.display()));
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(bad)?;
    match file.take(LONGEST + 1).read_to_string(&mut text) {
        Ok(len) if len as u64 > LONGEST => Err(bad(ErrorKind::FileTooLarge.into())),
        Ok(_) => Ok(text),
        Err(error) => Err(bad(error)),
    }
}

/// Writes a file.
///
/// # Errors
/// One line that says which file and why not.
pub fn write(path: &Path, bytes: impl AsRef<[u8]>) -> Result<(), BadInput> {
    std::fs::write(path, bytes).map_err(|why| unwritable(path, &why))
}

/// That a file can't be written.
pub fn unwritable(path: &Path, why: &Error) -> BadInput {
    BadInput(format!("can't write {}: {why}", path.display()))
}

/// Looks whether a file can be written, before the work that it is for, and leaves nothing behind.
///
/// # Errors
/// One line that says which file and why not.
pub fn probe(path: &Path) -> Result<(), BadInput> {
    let is_new = !path.exists();
    let opened = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path);
    opened.map_err(|why| unwritable(path, &why))?;
    if is_new {
        std::fs::remove_file(path).map_err(|why| unwritable(path, &why))?;
    }
    Ok(())
}
