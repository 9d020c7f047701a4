//! Is the checker right? Random programs, each explored twice: by plain depth-first search over all
//! schedules, which is too simple to be wrong, and by the checker. Both must see the same traces, the
//! same final states and the same deadlocks, and the checker must run each trace once.
//!
//! A wrong sleep set or a race that is overlooked loses traces without any sign of it and still says
//! "proved", so this comparison is part of the tests, together with deliberate faults that it has to
//! find.

mod compare;
mod program;
mod world;

pub use compare::{Compared, Mismatch, Summary, compare, compare_many};
pub use program::{Mix, Program};
