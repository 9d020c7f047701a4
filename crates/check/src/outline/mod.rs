//! Counterexamples with what does not matter folded away: a call within a call is one line unless
//! another thread comes in between, and what one thread alone looks at is left out.

mod rows;
mod text;

pub(crate) use rows::outline;
pub use rows::{Row, What};
pub(crate) use text::{moment, text};
