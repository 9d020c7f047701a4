//! The smallest setting that goes wrong in the same way: the same oracle, for the same cause.

use std::fmt;

use seamlock_check::{CheckError, Counterexample, Options, Setup, survey};
use seamlock_kvm::Discipline;

use crate::oracle::LOCK_ORDER;
use crate::scene::Counts;
use crate::setting::{Setting, Size};
use crate::staged::Staged;

/// The most settings that are tried.
const TRIES: usize = 60;
/// The most executions of each.
const EXECUTIONS: u64 = 2_000;

/// What a setting was shrunk from and to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shrunk {
    /// The size of the setting in which it was found.
    pub from: Size,
    /// The size of the one that is shown.
    pub to: Size,
    /// That size as text, as it stands behind the scene's name.
    pub text: String,
    /// How many smaller settings were tried.
    pub tried: usize,
}

/// Takes threads, operations, vCPUs and pages away for as long as the violation of `example` remains,
/// which was found in a setting at size `from`, and returns the counterexample of what is left.
///
/// What is tried, and so what is left, depends on nothing but the arguments. No number of what is left
/// can be made smaller by one, by half or to nothing, unless that needs more executions than are spent.
///
/// # Errors
/// When the check itself failed.
pub fn shrink(
    setting: &Setting,
    from: Size,
    discipline: &'static Discipline,
    example: Counterexample,
    options: &Options,
) -> Result<(Counterexample, Shrunk), CheckError> {
    let mut tried = 0;
    let violation = &example.violation;
    let mut options = Options {
        only: Some((violation.oracle.to_string(), violation.cause.clone())),
        ..options.clone()
    };
    options.budget.executions = options.budget.executions.min(EXECUTIONS);
    let again = |size: &Size| {
        if *size == from {
            return Ok(Some(example.clone()));
        }
        if tried == TRIES || setting.fits(size).is_err() {
            return Ok(None);
        }
        tried += 1;
        find(&setting.sized(size), discipline, &options)
    };
    let found = seamlock_check::shrink(from.clone(), Size::smaller, again)?;
    let (to, example) = found.unwrap_or_else(|| (from.clone(), example.clone()));
    let shrunk = Shrunk {
        text: setting.text_of(&to),
        from,
        to,
        tried,
    };
    Ok((example, shrunk))
}

/// The violation that the options ask for, in this setting.
fn find(
    setting: &Setting,
    discipline: &'static Discipline,
    options: &Options,
) -> Result<Option<Counterexample>, CheckError> {
    // Where no TD can be built there is nothing to find.
    let Ok(staged) = Staged::new(setting.clone(), discipline) else {
        return Ok(None);
    };
    let by_lockdep = |(oracle, _): &(String, String)| oracle == LOCK_ORDER;
    let alone = setting.counts != Counts::LockOrder;
    if alone && options.only.as_ref().is_some_and(by_lockdep) {
        let wanted = |found: &Counterexample| {
            let only = options.only.as_ref();
            only.is_some_and(|(_, cause)| found.violation.cause == *cause)
        };
        return Ok(staged.lock_order()?.into_iter().find(wanted));
    }
    let found = survey(&|setup: &mut Setup| staged.build(setup), options, 1);
    match found {
        Ok(survey) => Ok(survey.findings.into_iter().next()),
        // It says nothing about this setting.
        Err(CheckError::Engine(_) | CheckError::Nondeterministic { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// In words: from what to what.
impl fmt::Display for Shrunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shrunk {
            from, to, tried, ..
        } = self;
        match (from == to, tried) {
            (true, 0) => write!(f, "{to}"),
            (true, _) => write!(f, "{to} (of {tried} smaller settings none goes wrong so)"),
            (false, _) => write!(f, "{from} -> {to} (shrunk, {tried} settings tried)"),
        }
    }
}
