//! `seamlock check --replay`: one execution, step by step.

use std::process::ExitCode;

use seamlock_check::{CheckError, Options, Schedule};

use super::place;
use crate::failure::BadInput;

/// Does again what a replay line says: `NAME@DISCIPLINE SCHEDULE`.
pub fn replay(line: &str) -> anyhow::Result<ExitCode> {
    let (place, schedule) = place::split(line)?;
    let ready = place.stage()?;
    let schedule: Schedule = schedule
        .parse()
        .map_err(|error: CheckError| BadInput(error.to_string()))?;
    let steps = Options::default().budget.steps;
    let again = seamlock_check::replay(&*ready, &schedule, steps)?;
    if let Some(diverged) = &again.diverged {
        anstream::println!("the code no longer does what the schedule says: {diverged}");
    }
    if let Some(example) = &again.example {
        anstream::print!("{example}");
    }
    for violation in &again.violations {
        anstream::println!("{violation}");
    }
    if again.violations.is_empty() {
        anstream::println!("nothing is wrong in this execution");
    }
    let code = match (again.violations.is_empty(), &again.diverged) {
        (false, _) => 1,
        (true, Some(_)) => 3,
        (true, None) => 0,
    };
    Ok(ExitCode::from(code))
}
