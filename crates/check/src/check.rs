//! The check: walks to refute, then optimal DPOR to prove.

use std::rc::Rc;

use crate::budget::{Budget, Purse};
use crate::counterexample::Counterexample;
use crate::dpor::{Dpor, Faults};
use crate::engine::End;
use crate::explain::explain;
use crate::scenario::{Scenario, Violation};
use crate::sched::{Ran, Scheduler};
use crate::strategy::Strategy;
use crate::verdict::{CheckError, Limit, Verdict};
use crate::walk::{Walk, WalkKind};

/// How to check.
#[derive(Clone, Debug)]
pub struct Options {
    /// What all random choices are made from.
    pub seed: u64,
    /// Random walks that are made first: of which kind, and how many.
    pub walks: Vec<(WalkKind, u32)>,
    /// Whether to go on to a proof.
    pub prove: bool,
    /// Whether the proof chooses at random where any choice is right; it then refutes as fast as
    /// walks do, and runs as many executions.
    pub random: bool,
    /// What it may cost.
    pub budget: Budget,
    /// The only violation that counts, by oracle and cause; any if this is none.
    pub only: Option<(String, String)>,
    /// Deliberate faults, for tests of the checker itself.
    #[doc(hidden)]
    pub faults: Faults,
}

impl Default for Options {
    /// 200 uniform walks, 100 of PCT with depth 3 and 4 each and 100 with depth 5, then a proof.
    fn default() -> Options {
        let pct = |depth| (WalkKind::Pct { depth }, 100);
        Options {
            seed: 1,
            walks: vec![(WalkKind::Uniform, 200), pct(3), pct(4), pct(5)],
            prove: true,
            random: true,
            budget: Budget::default(),
            only: None,
            faults: Faults::default(),
        }
    }
}

impl Options {
    fn counts(&self, violation: &Violation) -> bool {
        let is = |(oracle, cause): &(String, String)| {
            violation.oracle == *oracle && violation.cause == *cause
        };
        self.only.as_ref().is_none_or(is)
    }
}

/// What a check did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effort {
    /// Random walks.
    pub walks: u64,
    /// Executions of the proof.
    pub executions: u64,
    /// Different traces among them.
    pub traces: u64,
    /// Operations, in walks and proof together.
    pub events: u64,
    /// The most operations of one execution.
    pub longest: usize,
    /// Races that led to another execution.
    pub reversed: u64,
}

/// The answer, and what it took.
#[derive(Clone, Debug)]
pub struct Report {
    /// The answer.
    pub verdict: Verdict,
    /// What it took.
    pub effort: Effort,
}

/// Everything that oracles object to in a scenario, one example for each cause.
#[derive(Clone, Debug)]
pub struct Survey {
    /// The first example of each cause, in the order of their discovery.
    pub findings: Vec<Counterexample>,
    /// The number of traces if all were explored, else why not.
    pub explored: Result<u64, Limit>,
    /// What it took.
    pub effort: Effort,
}

/// Checks a scenario, and ends at the first violation.
///
/// # Errors
/// When the check itself failed and says nothing about the scenario.
pub fn check(scenario: &Scenario<'_>, options: &Options) -> Result<Report, CheckError> {
    let survey = survey(scenario, options, 1)?;
    let executions = survey.effort.walks + survey.effort.executions;
    let verdict = match (survey.findings.into_iter().next(), survey.explored) {
        (Some(example), _) => Verdict::Refuted(Box::new(example)),
        (None, Ok(traces)) => Verdict::Proved { traces },
        (None, Err(why)) => Verdict::NotExhausted { executions, why },
    };
    Ok(Report {
        verdict,
        effort: survey.effort,
    })
}

/// Checks a scenario, and ends when it has found `causes` different violations.
///
/// # Errors
/// When the check itself failed and says nothing about the scenario.
pub fn survey(
    scenario: &Scenario<'_>,
    options: &Options,
    causes: usize,
) -> Result<Survey, CheckError> {
    let mut work = Work::new(scenario, options, causes);
    let explored = match work.walk() {
        Ok(()) if !options.prove => Err(Stop::Limit(Limit::WalksOnly)),
        Ok(()) => work.prove(),
        Err(stop) => Err(stop),
    };
    let explored = match explored {
        Ok(traces) => Ok(traces),
        Err(Stop::Error(error)) => return Err(error),
        Err(Stop::Limit(limit)) => Err(limit),
        Err(Stop::Enough) => Err(Limit::Findings),
    };
    Ok(Survey {
        findings: work.findings,
        explored,
        effort: work.effort,
    })
}

/// Why the work ends before everything was explored.
enum Stop {
    Limit(Limit),
    Enough,
    Error(CheckError),
}

impl From<CheckError> for Stop {
    fn from(error: CheckError) -> Stop {
        Stop::Error(error)
    }
}

struct Work<'a> {
    scenario: &'a Scenario<'a>,
    options: &'a Options,
    purse: Purse,
    causes: usize,
    findings: Vec<Counterexample>,
    effort: Effort,
    endless: bool,
}

impl<'a> Work<'a> {
    fn new(scenario: &'a Scenario<'a>, options: &'a Options, causes: usize) -> Work<'a> {
        Work {
            scenario,
            options,
            purse: Purse::new(options.budget),
            causes: causes.max(1),
            findings: Vec::new(),
            effort: Effort::default(),
            endless: false,
        }
    }

    fn walk(&mut self) -> Result<(), Stop> {
        for (nth, &(kind, count)) in self.options.walks.iter().enumerate() {
            let seed = self.options.seed.wrapping_add(nth as u64);
            let scheduler = self.scheduler(Strategy::Walk(Walk::new(kind, seed)));
            for _ in 0..count {
                self.run(&scheduler)?;
                self.effort.walks += 1;
            }
        }
        Ok(())
    }

    fn prove(&mut self) -> Result<u64, Stop> {
        let seed = self.options.random.then_some(self.options.seed);
        let dpor = Dpor::new(seed, self.options.faults);
        let scheduler = self.scheduler(Strategy::Dpor(Box::new(dpor)));
        loop {
            let ran = self.run(&scheduler)?;
            self.effort.executions += 1;
            let more = self.learn(&scheduler, ran.end)?;
            if !more {
                break;
            }
        }
        if self.endless {
            return Err(Stop::Limit(Limit::Steps));
        }
        Ok(self.effort.traces)
    }

    fn scheduler(&self, strategy: Strategy) -> Rc<Scheduler> {
        Scheduler::new(strategy, self.options.budget.steps)
    }

    fn run(&mut self, scheduler: &Rc<Scheduler>) -> Result<Ran, Stop> {
        self.purse.pay().map_err(Stop::Limit)?;
        let ran = scheduler.run(self.scenario)?;
        let steps = scheduler.with(|engine| engine.log.len());
        self.effort.events += steps as u64;
        self.effort.longest = self.effort.longest.max(steps);
        self.endless |= matches!(ran.end, End::TooLong | End::Panicked);
        self.collect(scheduler, &ran)?;
        Ok(ran)
    }

    fn collect(&mut self, scheduler: &Rc<Scheduler>, ran: &Ran) -> Result<(), Stop> {
        for found in &ran.found {
            let same = |known: &Counterexample| {
                known.violation.oracle == found.violation.oracle
                    && known.violation.cause == found.violation.cause
            };
            if self.findings.iter().any(same) || !self.options.counts(&found.violation) {
                continue;
            }
            let order = scheduler.with(|engine| engine.schedule());
            let example = explain(self.scenario, &order, found, self.options.budget.steps)?;
            self.findings.push(example);
            if self.findings.len() >= self.causes {
                return Err(Stop::Enough);
            }
        }
        Ok(())
    }

    /// Lets the search learn from the execution that has ended; returns whether there is more.
    fn learn(&mut self, scheduler: &Rc<Scheduler>, end: End) -> Result<bool, Stop> {
        let (fresh, more, dpor) = scheduler.with(|engine| {
            let mut strategy = std::mem::replace(&mut engine.strategy, Strategy::Idle);
            let Strategy::Dpor(dpor) = &mut strategy else {
                return (false, false, None);
            };
            let fresh = dpor.learn(engine);
            let more = dpor.advance();
            let numbers = (dpor.distinct() as u64, dpor.reversed);
            engine.strategy = strategy;
            (fresh, more, Some(numbers))
        });
        let Some((traces, reversed)) = dpor else {
            return Ok(false);
        };
        (self.effort.traces, self.effort.reversed) = (traces, reversed);
        let wrong = match (end, fresh) {
            (End::Redundant, _) => "an execution was begun that others cover",
            (_, false) => "one trace was executed twice",
            _ => return Ok(more),
        };
        Err(Stop::Error(CheckError::Engine(wrong.to_owned())))
    }
}
