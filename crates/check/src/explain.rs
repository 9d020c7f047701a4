//! From an execution that violates something to one that people can follow.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::counterexample::{Counterexample, Shown, Waiting, waiting};
use crate::engine::Engine;
use crate::follow::{Divergence, Follow};
use crate::linear::{few_switches, past_of, switches};
use crate::object::NONE;
use crate::scenario::{Found, Holder, Oracle, Reporter, Scenario, Setup, Step, View, Violation};
use crate::sched::{Ran, Scheduler};
use crate::schedule::Schedule;
use crate::story::{self, Legend, Mark, Plain, Telling};
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
    let run = Rerun::with_snapshot(scenario, schedule, true, steps, schedule.len())?;
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

/// The most executions that are spent on making a counterexample simpler.
const TRIES: usize = 400;

/// Re-orders a violating execution to few switches, leaves out what the violation does not need, and
/// runs it again to be sure.
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
    let mut search = Simplest {
        scenario,
        steps,
        left: TRIES,
        best: first.schedule(&again),
        again,
    };
    search.reorder(&first)?;
    while search.improve()? {}
    let Simplest { best, again, .. } = search;
    let shown = Rerun::with_snapshot(scenario, &best, false, steps, best.len())?;
    match shown.same(&again.violation) {
        Some(found) => Ok(shown.example(&found)),
        None => Err(shown.not_again(&again)),
    }
}

/// The search for a simpler schedule with the same violation.
struct Simplest<'a> {
    scenario: &'a Scenario<'a>,
    steps: usize,
    left: usize,
    best: Schedule,
    again: Found,
}

impl Simplest<'_> {
    fn cost(schedule: &Schedule) -> (usize, usize) {
        (schedule.switches(), schedule.len())
    }

    /// Tries one schedule; keeps it if it is simpler, and returns whether it was.
    fn consider(&mut self, schedule: &Schedule) -> Result<Option<Rerun>, CheckError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let run = Rerun::new(self.scenario, schedule, false, self.steps)?;
        if run.diverged.is_some() {
            return Ok(None);
        }
        let Some(found) = run.same(&self.again.violation) else {
            return Ok(None);
        };
        let schedule = run.schedule(&found);
        if Self::cost(&schedule) < Self::cost(&self.best) {
            (self.best, self.again) = (schedule, found);
        }
        Ok(Some(run))
    }

    /// Tries other orders of the same trace.
    fn reorder(&mut self, run: &Rerun) -> Result<(), CheckError> {
        let Some(found) = run.same(&self.again.violation) else {
            return Ok(());
        };
        for order in run.orders(&found) {
            self.consider(&order)?;
        }
        Ok(())
    }

    /// Leaves out a thread, or a part of a run; returns whether that made it simpler.
    fn improve(&mut self) -> Result<bool, CheckError> {
        let before = self.best.clone();
        let runs = before.runs();
        let mut threads: Vec<&str> = runs.iter().map(|run| run.0).collect();
        threads.sort_unstable();
        threads.dedup();
        for thread in threads {
            let without: Vec<_> = runs.iter().copied().filter(|run| run.0 != thread).collect();
            if self.simpler(&without, &before)? {
                return Ok(true);
            }
        }
        for (at, &(_, length)) in runs.iter().enumerate() {
            let shorter = std::iter::successors(Some(0), |&n| Some(if n == 0 { 1 } else { 2 * n }));
            for length in shorter.take_while(|&n| n < length) {
                let mut cut = runs.clone();
                cut[at].1 = length;
                if self.simpler(&cut, &before)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn simpler(&mut self, runs: &[(&str, usize)], before: &Schedule) -> Result<bool, CheckError> {
        if let Some(run) = self.consider(&Schedule::of_runs(runs))? {
            self.reorder(&run)?;
        }
        Ok(self.best != *before)
    }
}

/// One execution along a schedule, with everything that a counterexample shows.
struct Rerun {
    scheduler: Rc<Scheduler>,
    ran: Ran,
    diverged: Option<Divergence>,
    tape: Rc<RefCell<Tape>>,
    marks: Vec<Mark>,
    legend: Box<dyn Legend>,
}

#[derive(Default)]
struct Tape {
    steps: Vec<Shown>,
    digests: Vec<u64>,
    waiting: Vec<Waiting>,
    held: Vec<(Name, Vec<Holder>)>,
}

/// Writes down what is done, and how things stand after so many operations.
struct Recorder {
    tape: Rc<RefCell<Tape>>,
    snapshot: usize,
}

impl Oracle for Recorder {
    fn step(&mut self, view: &View<'_>, step: &Step<'_>) -> Option<Violation> {
        let busy = step.outcome == Outcome::Busy;
        let busy_by = if busy {
            view.holders(step.op.name)
        } else {
            Vec::new()
        };
        let mut tape = self.tape.borrow_mut();
        if step.index + 1 == self.snapshot {
            tape.waiting = waiting(view.engine);
            // Those that have not begun, and the one that is judged, tell nothing.
            let begun = |thread: usize| view.engine.threads[thread].own != NONE;
            let told = |w: &Waiting| w.thread != step.thread && (w.blocked || begun(w.thread));
            tape.waiting.retain(told);
            tape.held = held(view.engine);
        }
        tape.digests.push(view.engine.digest(step.thread));
        tape.steps.push(Shown {
            thread: step.thread,
            action: step.op.action,
            name: step.op.name,
            arg: step.op.arg,
            outcome: step.outcome,
            site: step.op.site,
            function: None,
            words: None,
            telling: Telling::default(),
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
        Rerun::with_snapshot(scenario, schedule, strict, steps, usize::MAX)
    }

    fn with_snapshot(
        scenario: &Scenario<'_>,
        schedule: &Schedule,
        strict: bool,
        steps: usize,
        snapshot: usize,
    ) -> Result<Rerun, CheckError> {
        let tape = Rc::new(RefCell::new(Tape::default()));
        let follow = Follow::new(schedule.clone(), strict);
        let scheduler = Scheduler::new(Strategy::Follow(follow), steps);
        let told = RefCell::new((Reporter::default(), None));
        let ran = scheduler.run(&|setup: &mut Setup| {
            setup.oracle(Recorder {
                tape: tape.clone(),
                snapshot,
            });
            setup.reporter().show();
            scenario(setup);
            *told.borrow_mut() = (setup.reporter(), setup.legend.take());
        })?;
        let (reporter, legend) = told.into_inner();
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
            marks: reporter.marks(),
            legend: legend.unwrap_or_else(|| Box::new(Plain)),
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

    /// The schedule up to the violation.
    fn schedule(&self, found: &Found) -> Schedule {
        let tape = self.tape.borrow();
        self.scheduler
            .with(|engine| schedule_of(engine, &tape, found.after))
    }

    /// The execution up to the violation.
    fn example(&self, found: &Found) -> Counterexample {
        let mut tape = self.tape.borrow_mut();
        let ended = found.after >= tape.steps.len();
        self.scheduler.with(|engine| {
            if ended {
                (tape.waiting, tape.held) = (waiting(engine), held(engine));
            }
            let mut example = Counterexample {
                violation: found.violation.clone(),
                schedule: schedule_of(engine, &tape, found.after),
                waiting: tape.waiting.clone(),
                held: tape.held.clone(),
                threads: engine
                    .threads
                    .iter()
                    .map(|thread| thread.name.clone())
                    .collect(),
                about: Vec::new(),
                steps: tape.steps.iter().take(found.after).cloned().collect(),
                spans: story::spans(&self.marks, found.after),
                called: BTreeMap::new(),
            };
            example.explain_names(&*self.legend);
            example
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

fn schedule_of(engine: &Engine, tape: &Tape, after: usize) -> Schedule {
    let mut schedule = Schedule::default();
    for (step, digest) in tape.steps.iter().zip(&tape.digests).take(after) {
        schedule.push(&engine.threads[step.thread].name, *digest);
    }
    schedule
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
