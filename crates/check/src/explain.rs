//! From an execution that violates something to one that people can follow.

use std::cell::RefCell;
use std::rc::Rc;

use crate::counterexample::{Counterexample, Shown, waiting};
use crate::engine::Engine;
use crate::follow::{Divergence, Follow};
use crate::linear::{few_switches, past_of, switches};
use crate::scenario::{Found, Holder, Oracle, Scenario, Setup, Step, View, Violation};
use crate::sched::{Ran, Scheduler};
use crate::schedule::Schedule;
use crate::strategy::Strategy;
use crate::verdict::CheckError;
use seamlock_sync::{Name, Outcome};

/// What a replay found.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// Where the execution left the schedule, if it did.
    pub diverged: Option<Divergence>,
    /// What the oracles object to, in the order in which they did.
    pub violations: Vec<Violation>,
    /// The first of them in full.
    pub example: Option<Counterexample>,
}

/// Does again what a schedule says, step by step, and compares every operation with it.
///
/// # Errors
/// When the check itself failed and says nothing about the scenario.
pub fn replay(
    scenario: &Scenario<'_>,
    schedule: &Schedule,
    steps: usize,
) -> Result<Replayed, CheckError> {
    let run = Rerun::new(scenario, schedule, true, steps)?;
    let violations = run
        .ran
        .found
        .iter()
        .map(|found| found.violation.clone())
        .collect();
    let example = run.ran.found.first().map(|found| run.example(found));
    Ok(Replayed {
        diverged: run.diverged,
        violations,
        example,
    })
}

/// Re-orders a violating execution to few switches, and runs it again to be sure.
pub(crate) fn explain(
    scenario: &Scenario<'_>,
    schedule: &Schedule,
    found: &Found,
    steps: usize,
) -> Result<Counterexample, CheckError> {
    let first = Rerun::new(scenario, schedule, false, steps)?;
    let Some(again) = first.same(&found.violation) else {
        return Err(first.not_again(found));
    };
    let mut best = first.example(&again);
    for order in first.orders(&again) {
        let run = Rerun::new(scenario, &order, false, steps)?;
        if run.diverged.is_some() {
            continue;
        }
        if let Some(found) = run.same(&again.violation) {
            let example = run.example(&found);
            let cost = |e: &Counterexample| (e.schedule.switches(), e.schedule.len());
            if cost(&example) < cost(&best) {
                best = example;
            }
        }
    }
    Ok(best)
}

/// One execution along a schedule, with everything that a counterexample shows.
struct Rerun {
    scheduler: Rc<Scheduler>,
    ran: Ran,
    diverged: Option<Divergence>,
    tape: Rc<RefCell<Tape>>,
}

#[derive(Default)]
struct Tape {
    steps: Vec<Shown>,
    digests: Vec<u64>,
}

/// Writes down what is done.
struct Recorder(Rc<RefCell<Tape>>);

impl Oracle for Recorder {
    fn step(&mut self, view: &View<'_>, step: &Step<'_>) -> Option<Violation> {
        let busy = step.outcome == Outcome::Busy;
        let busy_by = if busy {
            view.holders(step.op.name)
        } else {
            Vec::new()
        };
        let mut tape = self.0.borrow_mut();
        tape.digests.push(view.engine.digest(step.thread));
        tape.steps.push(Shown {
            thread: step.thread,
            action: step.op.action,
            name: step.op.name,
            arg: step.op.arg,
            outcome: step.outcome,
            site: step.op.site,
            busy_by,
        });
        None
    }
}

impl Rerun {
    fn new(
        scenario: &Scenario<'_>,
        schedule: &Schedule,
        strict: bool,
        steps: usize,
    ) -> Result<Rerun, CheckError> {
        let tape = Rc::new(RefCell::new(Tape::default()));
        let follow = Follow::new(schedule.clone(), strict);
        let scheduler = Scheduler::new(Strategy::Follow(follow), steps);
        let ran = scheduler.run(&|setup: &mut Setup| {
            setup.oracle(Recorder(tape.clone()));
            scenario(setup);
        })?;
        let diverged = scheduler.with(|engine| {
            let steps = engine.log.len();
            let Strategy::Follow(follow) = &mut engine.strategy else {
                return None;
            };
            follow.finish(steps);
            follow.diverged().cloned()
        });
        Ok(Rerun {
            scheduler,
            ran,
            diverged,
            tape,
        })
    }

    /// The same violation in this execution.
    fn same(&self, violation: &Violation) -> Option<Found> {
        let same = |found: &&Found| {
            found.violation.oracle == violation.oracle && found.violation.cause == violation.cause
        };
        self.ran.found.iter().find(same).cloned()
    }

    /// Orders that may show the violation as well, with fewer switches.
    fn orders(&self, found: &Found) -> Vec<Schedule> {
        self.scheduler.with(|engine| {
            let events = engine.log.done();
            let whole: Vec<usize> = (0..events.len()).collect();
            let mut chosen = vec![whole];
            if found.after > 0 && found.after < events.len() {
                chosen.push(past_of(events, found.after - 1));
            }
            let mut orders: Vec<Vec<u8>> = chosen
                .iter()
                .map(|chosen| few_switches(events, chosen))
                .collect();
            orders.sort_by_key(|order| switches(order));
            orders.iter().map(|order| by_name(engine, order)).collect()
        })
    }

    /// The execution up to the violation.
    fn example(&self, found: &Found) -> Counterexample {
        let tape = self.tape.borrow();
        let steps: Vec<Shown> = tape.steps.iter().take(found.after).cloned().collect();
        self.scheduler.with(|engine| {
            let threads: Vec<String> = engine.threads.iter().map(|t| t.name.clone()).collect();
            let mut schedule = Schedule::default();
            for (step, digest) in steps.iter().zip(&tape.digests) {
                schedule.push(&threads[step.thread], *digest);
            }
            let at_the_end = found.after >= tape.steps.len();
            Counterexample {
                violation: found.violation.clone(),
                schedule,
                waiting: if at_the_end {
                    waiting(engine)
                } else {
                    Vec::new()
                },
                held: if at_the_end { held(engine) } else { Vec::new() },
                threads,
                steps,
            }
        })
    }

    fn not_again(&self, found: &Found) -> CheckError {
        let (step, thread) = match &self.diverged {
            Some(diverged) => (diverged.step, diverged.thread.clone()),
            None => (found.after, String::new()),
        };
        CheckError::Nondeterministic {
            step,
            thread,
            expected: found.violation.to_string(),
            found: "an execution without it".to_owned(),
        }
    }
}

fn by_name(engine: &Engine, order: &[u8]) -> Schedule {
    let mut schedule = Schedule::default();
    for &slot in order {
        schedule.push(&engine.threads[usize::from(slot)].name, 0);
    }
    schedule
}

fn held(engine: &Engine) -> Vec<(Name, Vec<Holder>)> {
    let held = engine.objects.held();
    held.into_iter()
        .map(|object| (object.name, engine.holders(&object.name)))
        .collect()
}
