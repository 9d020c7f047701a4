//! How a command ends: 0 when all is well, 1 when it found something wrong, 2 when what it was given is
//! wrong.

use std::fmt;
use std::process::ExitCode;

use crate::style;

/// What the user gave can't be used; the text says which file, what is wrong and what would be right.
#[derive(Debug)]
pub struct BadInput(pub String);

impl fmt::Display for BadInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadInput {}

/// Prints an error on one line and picks the exit code.
pub fn exit_code(done: anyhow::Result<ExitCode>) -> ExitCode {
    match done {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            anstream::eprintln!(
                "{}error{}: {}",
                style::BAD.render(),
                style::BAD.render_reset(),
                on_one_line(&format!("{error:#}"))
            );
            let is_bad_input = error.downcast_ref::<BadInput>().is_some();
            ExitCode::from(if is_bad_input || is_io(&error) { 2 } else { 1 })
        }
    }
}

/// What the user gave may have line ends and worse in it.
fn on_one_line(text: &str) -> String {
    let shown = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    text.chars().map(shown).collect()
}

fn io_causes(error: &anyhow::Error) -> impl Iterator<Item = &std::io::Error> {
    let causes = error.chain();
    causes.filter_map(|cause| cause.downcast_ref::<std::io::Error>())
}

/// A file, or standard output, can't be read or written.
fn is_io(error: &anyhow::Error) -> bool {
    io_causes(error).next().is_some()
}

/// The reader of our output has seen enough.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    io_causes(error).any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}
