//! An ioctl whose arguments are sound, and whose time is right, is refused.

use seamlock_check::Violation;
use seamlock_tdx_abi::kvm::Errno;

use super::Answers;
use crate::act::{Act, Answer};

/// Every answer that is an error.
pub fn refusals(acts: &[Act], answers: &Answers) -> Vec<Violation> {
    let refused = |(act, answer): (&Act, &Option<Answer>)| {
        let errno = answer.as_ref()?.result.err()?;
        let cause = format!("{} is refused with {}", act.name(), Errno(errno));
        Some(Violation::new("refusal", cause))
    };
    acts.iter().zip(answers).filter_map(refused).collect()
}
