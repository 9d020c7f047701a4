//! `seamlock check --replay`: one execution, step by step.

use std::process::ExitCode;

use seamlock_check::{CheckError, Options, Schedule, Story};

use super::place;
use super::report::{Finding, Report};
use crate::failure::BadInput;
use crate::output::{out, outln};
use crate::style;

/// Does again what a replay line says: `NAME@DISCIPLINE SCHEDULE`.
///
/// Exit code 1 when it goes wrong again, 0 when it does not, 3 when the code has left the schedule.
pub fn replay(
    line: &str,
    every_step: bool,
    write: impl FnOnce(&Report<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    let (place, schedule) = place::split(line)?;
    let ready = place.stage()?;
    let schedule: Schedule = schedule
        .parse()
        .map_err(|error: CheckError| BadInput(error.to_string()))?;
    let steps = Options::default().budget.steps;
    let again = seamlock_check::replay(&*ready, &schedule, steps)?;
    let look = |style: anstyle::Style, text: &str| {
        outln!("{}{text}{}", style.render(), style.render_reset());
    };
    match (&again.diverged, schedule.len()) {
        (Some(diverged), of) => {
            look(style::BAD, "the code does not do what the schedule says");
            let before = match diverged.step.min(of) {
                0 => String::new(),
                step => format!("the first {step} of {of} operations came as it says; "),
            };
            outln!("{before}{diverged}");
            outln!(
                "A schedule is of one state of the code. To look for another: {}",
                place.command()
            );
        }
        (None, of) => look(
            style::GOOD,
            &format!("all {of} operations of the schedule came as it says"),
        ),
    }
    for violation in &again.violations {
        look(style::BAD, &violation.to_string());
    }
    if again.violations.is_empty() {
        outln!("nothing is wrong in this execution");
    }
    if let Some(example) = &again.example {
        match every_step {
            true => out!("{:#}", Story(example)),
            false => out!("{}", Story(example)),
        }
    }
    let finding = |example| Finding {
        name: place.name.clone(),
        described: None,
        what: again
            .violations
            .iter()
            .map(|v| v.cause.as_str())
            .collect::<Vec<_>>()
            .join("; "),
        size: None,
        seen: &[],
        replays: vec![(place.discipline.clone(), line.trim().to_owned())],
        example,
    };
    write(&Report {
        command: super::command_line(),
        findings: again.example.as_ref().map(finding).into_iter().collect(),
        ..Report::default()
    })?;
    let code = match (again.violations.is_empty(), &again.diverged) {
        (false, _) => 1,
        (true, Some(_)) => 3,
        (true, None) => 0,
    };
    Ok(ExitCode::from(code))
}
