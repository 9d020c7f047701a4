//! `seamlock explain`: what a leaf, a status, an operand id or a state is, from the module's own tables.

mod leaf;
mod near;
mod operand;
mod state;
mod status;
#[cfg(test)]
mod tests;
mod topic;
mod words;

use std::process::ExitCode;

use clap::Args;

use crate::failure::BadInput;
use crate::output::out;
use topic::Topic;

/// Explain a leaf, a status code, an operand id, an OP_STATE or a secure-EPT state.
#[derive(Debug, Args)]
pub struct Explain {
    /// A leaf (MEM.PAGE.ADD, TDG.VP.INFO, 2), a status (0x8000020000000080, OPERAND_BUSY, or with what it
    /// is about: "OPERAND_BUSY TDR"), an operand id (SEPT_TREE), an OP_STATE (RUNNABLE) or a secure-EPT
    /// state (PENDING_BLOCKED).
    #[arg(required = true, num_args = 1..)]
    what: Vec<String>,
}

impl Explain {
    /// Runs the command: exit code 2 for something that does not exist.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let what = self.what.join(" ");
        let text = explain(&what).map_err(BadInput)?;
        out!("{text}");
        Ok(ExitCode::SUCCESS)
    }
}

/// The whole text about something.
///
/// # Errors
/// One line that says that there is no such thing, and what there is with a similar name.
fn explain(what: &str) -> Result<String, String> {
    let topics = topic::parse(what);
    let Some((first, others)) = topics.split_first() else {
        return Err(near::nothing(what));
    };
    let mut text = match first {
        Topic::Leaf(leaf, version) => leaf::host(*leaf, *version),
        Topic::GuestLeaf(leaf) => leaf::guest(*leaf),
        Topic::Status(status) => status::explain(*status),
        Topic::Operand(id) => operand::explain(*id),
        Topic::OpState(state) => state::op_state(*state),
        Topic::SeptState(state) => state::sept_state(*state),
    };
    if !others.is_empty() {
        let names: Vec<String> = others.iter().map(Topic::to_string).collect();
        text.push_str(&format!("\n{what} is also {}\n", names.join(", ")));
    }
    Ok(text)
}

/// Items with commas between them, in lines of at most 100 columns; each line after the first is
/// indented.
fn wrapped(first: &str, items: &[String], indent: usize) -> String {
    filled(first, &items.join(", "), indent)
}

/// A sentence in lines of at most 100 columns.
fn filled(first: &str, sentence: &str, indent: usize) -> String {
    let mut text = String::from(first);
    let mut column = first.chars().count();
    for (i, word) in sentence.split(' ').enumerate() {
        let width = word.chars().count();
        if i > 0 && column + 1 + width > 100 {
            text.push('\n');
            text.push_str(&" ".repeat(indent));
            column = indent;
        } else if i > 0 {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += width;
    }
    text.push('\n');
    text
}
