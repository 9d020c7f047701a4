//! An ioctl whose arguments are sound, and whose time is right, is refused.

use seamlock_check::Violation;
use seamlock_tdx_abi::kvm::Errno;

use super::Answers;
use crate::scene::Actor;

/// Every answer that is an error.
pub fn refusals(actors: &[Actor], answers: &Answers) -> Vec<Violation> {
    let refused = |(actor, answer): (&Actor, &Option<crate::act::Answer>)| {
        let errno = answer.as_ref()?.result.err()?;
        let cause = format!("{} is refused with {}", actor.act.name(), Errno(errno));
        Some(Violation::new("refusal", cause))
    };
    actors.iter().zip(answers).filter_map(refused).collect()
}
