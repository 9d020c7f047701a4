//! Judges of a scene: what must not happen whatever the order. One a file.
//!
//! To add one: a file here, and a line in [`Staged`](crate::Staged) where the others are called. An
//! oracle that watches implements [`Oracle`](seamlock_check::Oracle) and may look only at what is the
//! same in every order of commuting operations; one that looks at the end takes the
//! [`Machine`](crate::machine::Machine). Its cause must be the same for schedules with the same cause.

mod atomicity;
mod bugs;
mod cpu_lists;
mod final_state;
mod late_publication;
mod leaks;
mod lock_order;
mod refusals;
mod sept;

pub use atomicity::{Answers, Outcome, atomicity, shown};
pub use bugs::{Bugs, TLB_EPOCH};
pub use cpu_lists::freed_on_a_list;
pub use final_state::final_state;
pub use late_publication::LatePublication;
pub use leaks::leaks;
pub use lock_order::{LOCK_ORDER, LockOrder};
pub use refusals::refusals;
pub use sept::mirror_disagrees;
