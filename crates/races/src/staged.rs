//! A scene under a discipline: first one thread after the other, then all interleavings.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use seamlock_check::{
    CheckError, Counterexample, Options, Setup, ThreadId, Violation, WalkKind, survey,
};
use seamlock_kvm::error::Result;
use seamlock_kvm::{Control, Discipline};
use seamlock_sync::{Hook, install};

use crate::act::Act;
use crate::machine::{Machine, Start, Watchers};
use crate::oracle::{self, Answers, Outcome};
use crate::ready::Ready;
use crate::scene::{Actor, Counts, Scene, with_extras};
use crate::words::Words;

/// A scene under a discipline, ready to be checked.
#[derive(Debug)]
pub struct Staged {
    start: Start,
    actors: Vec<Actor>,
    counts: Counts,
    discipline: &'static Discipline,
    serial: Rc<BTreeSet<Outcome>>,
}

/// The machine of an execution, and what its threads answered so far.
struct Run {
    machine: Machine,
    threads: Vec<Control>,
    answers: RefCell<Answers>,
}

impl Staged {
    /// Runs the threads of a scene one after the other in every order, to know what they may answer.
    ///
    /// # Errors
    /// When no TD can be built under the discipline.
    pub fn new(scene: Scene, discipline: &'static Discipline) -> Result<Staged> {
        Staged::of(scene.start, scene.actors.to_vec(), scene.counts, discipline)
    }

    /// The same of actors that are in no catalogue.
    ///
    /// # Errors
    /// When no TD can be built under the discipline.
    pub fn of(
        start: Start,
        actors: Vec<Actor>,
        counts: Counts,
        discipline: &'static Discipline,
    ) -> Result<Staged> {
        let start = with_extras(start, &actors);
        {
            let _unseen = Unseen::new();
            Machine::build(discipline, &Watchers::default(), start)?;
        }
        let mut staged = Staged {
            start,
            actors,
            counts,
            discipline,
            serial: Rc::default(),
        };
        if counts.compares() && staged.actors.len() > 1 {
            staged.serial = Rc::new(staged.serial_outcomes());
        }
        Ok(staged)
    }

    /// What is left and answered when the threads go one after the other. An order in which a thread
    /// waits for one that comes later has no outcome.
    fn serial_outcomes(&self) -> BTreeSet<Outcome> {
        let mut outcomes = BTreeSet::new();
        for order in orders(self.actors.len()) {
            let outcome = Rc::new(RefCell::new(None));
            let scenario = |setup: &mut Setup| self.serial_order(setup, &order, outcome.clone());
            // What goes wrong on the way is found again among the interleavings.
            let _ = survey(&scenario, &once(), usize::MAX);
            outcomes.extend(outcome.take());
        }
        outcomes
    }

    fn serial_order(
        &self,
        setup: &mut Setup,
        order: &[usize],
        outcome: Rc<RefCell<Option<Outcome>>>,
    ) {
        let Some((run, ready)) = self.set_up(setup) else {
            return;
        };
        let (thread, order) = (run.clone(), order.to_vec());
        setup.thread("all", move || {
            for at in order {
                let answer = ready[at].run(&thread.machine, &thread.threads, at);
                thread.answers.borrow_mut()[at] = Some(answer);
            }
        });
        let counts = self.counts;
        setup.at_end(move || {
            *outcome.borrow_mut() = Some(run.outcome(counts));
            None
        });
    }

    /// The machine and what is to be done on it, made unseen: it ends with every lock free.
    fn set_up(&self, setup: &mut Setup) -> Option<(Rc<Run>, Vec<Ready>)> {
        let _unseen = Unseen::new();
        let (reporter, words) = (setup.reporter(), Words::default());
        setup.legend(words.clone());
        let watchers = Watchers {
            observer: Some(Arc::new(oracle::Bugs::new(
                reporter.clone(),
                self.counts,
                words,
            ))),
            lockdep: None,
        };
        match Machine::build(self.discipline, &watchers, self.start) {
            Ok(machine) => {
                let acts = self.actors.iter().map(|actor| actor.act);
                let ready: Vec<Ready> = acts.map(|act| act.prepare(&machine)).collect();
                let numbered = (1..).zip(&self.actors);
                let threads = numbered.map(|(n, actor)| Control::on(actor.cpu).numbered(n));
                let run = Run {
                    machine,
                    threads: threads.collect(),
                    answers: RefCell::new(vec![None; self.actors.len()]),
                };
                Some((Rc::new(run), ready))
            }
            Err(why) => {
                let what = Violation::new("set-up", "the TD cannot be built");
                reporter.report(what.with_detail(why.to_string()));
                None
            }
        }
    }

    /// Builds the scenario.
    pub fn build(&self, setup: &mut Setup) {
        let reporter = setup.reporter();
        let Some((run, ready)) = self.set_up(setup) else {
            return;
        };
        let killed = self.actors.iter().any(|actor| actor.act == Act::Kill);
        for (at, ready) in ready.into_iter().enumerate() {
            let signals = run.threads[at].signals();
            let (run, teller) = (run.clone(), reporter.clone());
            let name = self.actors[at].act.name();
            let thread: ThreadId = setup.thread(self.actors[at].name, move || {
                teller.begin(name);
                let answer = ready.run(&run.machine, &run.threads, at);
                teller.end(oracle::shown(&Some(answer)));
                run.answers.borrow_mut()[at] = Some(answer);
            });
            if killed {
                setup.signal(thread, signals);
            }
        }
        if self.counts == Counts::LockOrder {
            setup.oracle(oracle::LockOrder::default());
        } else if run.machine.td.kvm.is_td() {
            setup.oracle(oracle::LatePublication::new(run.machine.td.kvm.clone()));
        }
        let (serial, actors) = (self.serial.clone(), self.actors.clone());
        let (counts, discipline) = (self.counts, self.discipline);
        setup.at_end(move || {
            let found = match counts {
                Counts::LockOrder => Vec::new(),
                Counts::Refusals => oracle::refusals(&actors, &run.answers.borrow()),
                _ => run.judge(&actors, discipline, counts, &serial),
            };
            found.into_iter().for_each(|what| reporter.report(what));
            None
        });
    }

    /// Breaches of the lock order when the threads go one after the other: what lockdep sees.
    ///
    /// # Errors
    /// When the check itself failed.
    pub fn lock_order(&self) -> std::result::Result<Vec<Counterexample>, CheckError> {
        let found = survey(
            &|setup: &mut Setup| self.build_ordered(setup),
            &once(),
            usize::MAX,
        )?;
        let breaches = found.findings.into_iter();
        Ok(breaches
            .filter(|example| example.violation.oracle == oracle::LOCK_ORDER)
            .collect())
    }

    /// The scenario of [`lock_order`](Staged::lock_order): one thread that does everything.
    pub fn build_ordered(&self, setup: &mut Setup) {
        let order: Vec<usize> = (0..self.actors.len()).collect();
        self.serial_order(setup, &order, Rc::default());
        setup.oracle(oracle::LockOrder::default());
    }
}

/// One execution and no proof.
fn once() -> Options {
    Options {
        walks: vec![(WalkKind::Uniform, 1)],
        prove: false,
        ..Options::default()
    }
}

impl Run {
    fn is_bugged(&self) -> bool {
        let bugged = |kvm: &Arc<seamlock_kvm::Kvm>| !kvm.bugs().is_empty();
        self.machine.host.live_vms().iter().any(bugged)
    }

    fn outcome(&self, counts: Counts) -> Outcome {
        let state = match counts {
            Counts::Everything => oracle::final_state(&self.machine),
            _ => Vec::new(),
        };
        Outcome {
            answers: self.answers.borrow().clone(),
            state,
        }
    }

    /// What is wrong at the end. A TD that is bugged has answered to that already.
    fn judge(
        &self,
        actors: &[Actor],
        discipline: &Discipline,
        counts: Counts,
        serial: &BTreeSet<Outcome>,
    ) -> Vec<Violation> {
        let mut found: Vec<Violation> =
            oracle::freed_on_a_list(&self.machine).into_iter().collect();
        if self.is_bugged() {
            return found;
        }
        if counts == Counts::Everything {
            found.extend(oracle::mirror_disagrees(&self.machine));
        }
        let outcome = self.outcome(counts);
        if counts.compares() && actors.len() > 1 {
            found.extend(oracle::atomicity(actors, discipline, &outcome, serial));
        }
        if found.is_empty() {
            found.extend(oracle::leaks(&self.machine));
        }
        found
    }
}

/// All orders of `n` threads.
fn orders(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![Vec::new()];
    }
    let shorter = orders(n - 1);
    let insert = |order: &Vec<usize>, at: usize| {
        let mut order = order.clone();
        order.insert(at, n - 1);
        order
    };
    let all = shorter.iter();
    all.flat_map(|order| (0..n).map(move |at| insert(order, at)))
        .collect()
}

/// The hook of this thread, put away until the value is dropped.
struct Unseen(Option<Rc<dyn Hook>>);

impl Unseen {
    fn new() -> Unseen {
        Unseen(install(None))
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        install(self.0.take());
    }
}
