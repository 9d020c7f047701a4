//! The scheduler: the hook that every watched operation of a scenario comes through.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use seamlock_sync::{Hook, Op, Outcome, Verdict, install};

use crate::clock::MAX_THREADS;
use crate::coroutine::{Back, Stage};
use crate::engine::{End, Engine};
use crate::scenario::{Found, Oracle, Scenario, Setup, Step, View, Violation};
use crate::strategy::Strategy;
use crate::verdict::CheckError;

/// What the operations that come through the hook belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing: they are not ours, or everything is over.
    Quiet,
    /// The scenario's set-up.
    Setup,
    /// Its threads, up to the first operation of each.
    Start,
    /// Its threads.
    Threads,
}

/// Runs executions of one scenario.
pub(crate) struct Scheduler {
    phase: Cell<Phase>,
    engine: RefCell<Engine>,
    stage: Stage,
    oracles: RefCell<Vec<Box<dyn Oracle>>>,
    // Whether there are oracles.
    judged: Cell<bool>,
    found: RefCell<Vec<Found>>,
    // The thread that goes on when the one that runs suspends itself.
    next: Cell<Option<u8>>,
}

/// One execution as it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) end: End,
    pub(crate) found: Vec<Found>,
}

impl Scheduler {
    pub(crate) fn new(strategy: Strategy, max_steps: usize) -> Rc<Scheduler> {
        Rc::new(Scheduler {
            phase: Cell::new(Phase::Quiet),
            engine: RefCell::new(Engine::new(strategy, max_steps)),
            stage: Stage::new(),
            oracles: RefCell::default(),
            judged: Cell::new(false),
            found: RefCell::default(),
            next: Cell::new(None),
        })
    }

    /// Works on the engine between executions.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut Engine) -> R) -> R {
        f(&mut self.engine.borrow_mut())
    }

    /// Runs the scenario once.
    pub(crate) fn run(self: &Rc<Self>, scenario: &Scenario<'_>) -> Result<Ran, CheckError> {
        let _installed = Installed::new(self.clone());
        let setup = self.set_up(scenario)?;
        let Setup {
            names,
            bodies,
            signals,
            oracles,
            ends,
            reporter,
            legend: _,
        } = setup;
        if bodies.len() > MAX_THREADS {
            return Err(CheckError::TooManyThreads(bodies.len()));
        }
        self.judged.set(!oracles.is_empty());
        *self.oracles.borrow_mut() = oracles;
        self.with(|engine| {
            engine.reporter = reporter.clone();
            engine.start(&names, &signals);
        });
        for body in bodies {
            self.stage
                .add(body)
                .map_err(|error| CheckError::Stacks(error.to_string()))?;
        }
        self.run_threads(names.len());
        self.phase.set(Phase::Quiet);
        self.stage.clear();
        let end = self.judge(ends);
        self.oracles.borrow_mut().clear();
        let mut found = self.found.take();
        found.extend(reporter.take());
        found.sort_by_key(|found| found.after);
        match self.with(|engine| engine.error.take()) {
            Some(error) => Err(error),
            None => Ok(Ran { end, found }),
        }
    }

    fn set_up(&self, scenario: &Scenario<'_>) -> Result<Setup, CheckError> {
        self.with(Engine::restart);
        self.phase.set(Phase::Setup);
        let built = catch_unwind(AssertUnwindSafe(|| {
            let mut setup = Setup::default();
            scenario(&mut setup);
            setup
        }));
        self.phase.set(Phase::Quiet);
        built.map_err(|payload| CheckError::Setup(message(payload.as_ref())))
    }

    fn run_threads(&self, threads: usize) {
        // Something to choose from.
        self.phase.set(Phase::Start);
        for slot in 0..threads {
            self.with(|engine| {
                engine.running = slot as u8;
                engine.reporter.move_to(0, slot as u8);
            });
            self.resume(slot);
        }
        self.phase.set(Phase::Threads);
        let mut next = self.with(Engine::choose);
        while let Some(slot) = next {
            self.next.set(None);
            next = if self.resume(usize::from(slot)) {
                self.with(Engine::choose)
            } else {
                self.next.get()
            };
        }
    }

    /// Lets a thread go on; returns whether it has ended.
    fn resume(&self, slot: usize) -> bool {
        match self.stage.resume(slot) {
            Back::Suspended => return false,
            Back::Finished => self.with(|engine| engine.finish(slot)),
            Back::Panicked(payload) => {
                let what = Violation::new("panic", message(payload.as_ref()));
                self.with(|engine| {
                    engine.finish(slot);
                    engine.end = Some(End::Panicked);
                });
                self.object(what);
            }
        }
        true
    }

    fn object(&self, violation: Violation) {
        let after = self.engine.borrow().log.len();
        self.found.borrow_mut().push(Found { after, violation });
    }

    /// What the oracles say about the end.
    fn judge(&self, ends: Vec<crate::scenario::AtEnd>) -> End {
        let end = self.engine.borrow().end.unwrap_or(End::Failed);
        match end {
            End::Deadlock => {
                let deadlock = crate::counterexample::deadlock(&self.engine.borrow());
                self.object(deadlock);
            }
            End::Complete => {
                let engine = self.engine.borrow();
                let view = View { engine: &engine };
                let mut oracles = self.oracles.borrow_mut();
                let mut found: Vec<Violation> = oracles
                    .iter_mut()
                    .filter_map(|oracle| oracle.end(&view))
                    .collect();
                drop(engine);
                found.extend(ends.into_iter().filter_map(|judge| judge()));
                found
                    .into_iter()
                    .for_each(|violation| self.object(violation));
            }
            _ => {}
        }
        end
    }

    fn announce(&self, op: &Op) -> Verdict {
        if std::thread::panicking() {
            // The thread gives back what it holds on its way out; nobody goes on after that.
            return Verdict::Go;
        }
        let (me, next) = self.with(|engine| {
            let me = engine.running;
            if self.phase.get() == Phase::Threads && engine.repeats(op) {
                return (me, Some(me));
            }
            engine.announce(op);
            (
                me,
                if self.phase.get() == Phase::Start {
                    None
                } else {
                    engine.choose()
                },
            )
        });
        if next != Some(me) {
            self.next.set(next);
            self.stage.suspend();
        }
        self.engine.borrow().verdict()
    }

    fn done(&self, op: &Op, outcome: Outcome) {
        if std::thread::panicking() {
            return;
        }
        self.engine.borrow_mut().done(op, outcome);
        if self.judged.get() {
            self.judge_step(op, outcome);
        }
    }

    /// Shows the operation to the oracles.
    fn judge_step(&self, op: &Op, outcome: Outcome) {
        let mut oracles = self.oracles.borrow_mut();
        self.phase.set(Phase::Quiet);
        let engine = self.engine.borrow();
        let view = View { engine: &engine };
        let index = engine.log.len() - 1;
        let step = Step {
            index,
            thread: usize::from(engine.running),
            op,
            outcome,
        };
        for oracle in oracles.iter_mut() {
            if let Some(violation) = oracle.step(&view, &step) {
                self.found.borrow_mut().push(Found {
                    after: index + 1,
                    violation,
                });
            }
        }
        self.phase.set(Phase::Threads);
    }
}

impl Hook for Scheduler {
    fn before(&self, op: &Op) -> Verdict {
        match self.phase.get() {
            Phase::Start | Phase::Threads => return self.announce(op),
            Phase::Setup => self.engine.borrow_mut().setup_before(op),
            Phase::Quiet => {}
        }
        Verdict::Go
    }

    fn after(&self, op: &Op, outcome: Outcome) {
        match self.phase.get() {
            Phase::Start | Phase::Threads => self.done(op, outcome),
            Phase::Setup => self.engine.borrow_mut().setup_after(op, outcome),
            Phase::Quiet => {}
        }
    }
}

/// The hook of this OS thread while an execution runs.
struct Installed(Option<Rc<dyn Hook>>);

impl Installed {
    fn new(hook: Rc<Scheduler>) -> Installed {
        Installed(install(Some(hook)))
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        install(self.0.take());
    }
}

/// What a panic said.
fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "?".to_owned())
}
