//! Replays recorded SEAMCALL sequences on the software TDX module and tells what differs.
//!
//! The sequences were recorded from Intel's TDX module; the format is the one that their README
//! describes (`seamcall-sequences/1`). A file is JSON, one object per line, plain (`.jsonl`) or
//! compressed (`.jsonl.xz`). Its first line describes the machine and how to bring the module to the
//! state in which a sequence starts; nothing here knows a number of any machine.
//!
//! [`replay`] runs files in parallel; its [`Report`] does not depend on the number of threads.
//! [`run::run`] runs one sequence on one [`Subject`].

#![forbid(unsafe_code)]

mod cpuid_words;
mod files;
mod header;
mod hex;
mod mismatch;
mod parallel;
mod report;
pub mod run;
pub mod sample;
mod sequence;
mod show;
mod subject;
mod wire;

pub use files::{InputError, Line, Lines, corpus_files};
pub use header::Header;
pub use mismatch::{Difference, Mismatch, Outcome, Place, Stage, WordAfter};
pub use parallel::{Options, Position, Progress, replay};
pub use report::{Corpus, Group, Located, Report, Tally};
pub use sequence::{Sequence, Step, What, WordResult};
pub use subject::Subject;
pub use wire::Complaint;
