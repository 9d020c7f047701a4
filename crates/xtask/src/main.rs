//! Chores of this repository.
#![forbid(unsafe_code)]
// A chore waits for programs, and looks at the clock while it does.
#![allow(clippy::disallowed_methods)]

mod clients;

use clap::Parser;

/// Chores of this repository.
#[derive(Debug, Parser)]
#[command(max_term_width = 100)]
enum Task {
    Clients(clients::Clients),
}

fn main() -> anyhow::Result<()> {
    match Task::parse() {
        Task::Clients(clients) => clients.run(),
    }
}
