//! A scene under a discipline: first one thread after the other, then all interleavings.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use seamlock_check::{
    CheckError, Counterexample, Options, Reporter, Setup, ThreadId, Violation, WalkKind, survey,
};
use seamlock_kvm::error::{Error, Result};
use seamlock_kvm::{Control, Discipline};
use seamlock_sync::{Hook, install};
use seamlock_tdx_abi::kvm::Errno;

use crate::act::Act;
use crate::machine::{Machine, Watchers};
use crate::oracle::{self, Answers, Outcome};
use crate::ready::Ready;
use crate::scene::{Actor, Counts};
use crate::setting::{MOST_ORDERS, Setting};
use crate::words::Words;

/// A setting under a discipline, ready to be checked.
#[derive(Debug)]
pub struct Staged {
    setting: Setting,
    // Every operation with the number of its thread.
    acts: Vec<(usize, Act)>,
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
    /// Runs the operations of a scene, or of another setting, one after the other in every order, to know
    /// what they may answer.
    ///
    /// # Errors
    /// When no TD can be built under the discipline, or there are too many orders.
    pub fn new(setting: impl Into<Setting>, discipline: &'static Discipline) -> Result<Staged> {
        let mut setting = setting.into();
        setting.actors.retain(|actor| actor.times > 0);
        {
            let _unseen = Unseen::new();
            Machine::build(discipline, &Watchers::default(), setting.whole_start())?;
        }
        let mut staged = Staged {
            acts: setting.acts().collect(),
            setting,
            discipline,
            serial: Rc::default(),
        };
        if staged.setting.counts.compares() && staged.acts.len() > 1 {
            let threads: Vec<usize> = staged.acts.iter().map(|(thread, _)| *thread).collect();
            let orders = orders(&threads).ok_or_else(|| {
                let what = format!("more than {MOST_ORDERS} orders to compare with");
                Error::with(Errno::E2BIG, "scene", what)
            })?;
            staged.serial = Rc::new(staged.serial_outcomes(orders));
        }
        Ok(staged)
    }

    /// What is left and answered when the operations are done one after the other. An order in which one
    /// waits for another that comes later has no outcome.
    fn serial_outcomes(&self, orders: Vec<Vec<usize>>) -> BTreeSet<Outcome> {
        let mut outcomes = BTreeSet::new();
        for order in orders {
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
        let (all, order) = (run.clone(), order.to_vec());
        let teller = setup.reporter();
        let acts = self.acts.clone();
        setup.thread("all", move || {
            for at in order {
                let (thread, act) = acts[at];
                all.act(&teller, act, &ready[at], (thread, at));
            }
        });
        let counts = self.setting.counts;
        setup.at_end(move || {
            *outcome.borrow_mut() = Some(run.outcome(counts));
            None
        });
    }

    /// The machine and what is to be done on it, made unseen: it ends with every lock free.
    fn set_up(&self, setup: &mut Setup) -> Option<(Rc<Run>, Vec<Ready>)> {
        let _unseen = Unseen::new();
        let cpu = |actor: &Actor| actor.act.loads_vcpu().then_some(actor.cpu);
        let actors = self.setting.actors.iter();
        let threads = actors.map(|actor| (actor.name, cpu(actor)));
        let (reporter, words) = (setup.reporter(), Words::of(threads));
        setup.legend(words.clone());
        let watchers = Watchers {
            observer: Some(Arc::new(oracle::Bugs::new(
                reporter.clone(),
                self.setting.counts,
                words,
            ))),
            lockdep: None,
        };
        match Machine::build(self.discipline, &watchers, self.setting.whole_start()) {
            Ok(machine) => {
                let acts = self.acts.iter();
                let ready: Vec<Ready> = acts.map(|(_, act)| act.prepare(&machine)).collect();
                let numbered = (1..).zip(&self.setting.actors);
                let threads = numbered.map(|(n, actor)| Control::on(actor.cpu).numbered(n));
                let run = Run {
                    machine,
                    threads: threads.collect(),
                    answers: RefCell::new(vec![None; self.acts.len()]),
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
        let killed = self.acts.iter().any(|(_, act)| *act == Act::Kill);
        for (thread, actor) in self.setting.actors.iter().enumerate() {
            let numbered = self.acts.iter().zip(&ready).enumerate();
            let mine = numbered.filter(|(_, ((of, _), _))| *of == thread);
            let mine: Vec<(usize, Act, Ready)> = mine
                .map(|(at, ((_, act), ready))| (at, *act, *ready))
                .collect();
            if mine.is_empty() {
                continue;
            }
            let signals = run.threads[thread].signals();
            let (run, teller) = (run.clone(), reporter.clone());
            let id: ThreadId = setup.thread(actor.name, move || {
                for (at, act, ready) in mine {
                    run.act(&teller, act, &ready, (thread, at));
                }
            });
            if killed {
                setup.signal(id, signals);
            }
        }
        let counts = self.setting.counts;
        if counts == Counts::LockOrder {
            setup.oracle(oracle::LockOrder::default());
        } else if run.machine.td.kvm.is_td() {
            setup.oracle(oracle::LatePublication::new(run.machine.td.kvm.clone()));
        }
        let acts: Vec<Act> = self.acts.iter().map(|(_, act)| *act).collect();
        let (serial, discipline) = (self.serial.clone(), self.discipline);
        setup.at_end(move || {
            let found = match counts {
                Counts::LockOrder => Vec::new(),
                Counts::Refusals => oracle::refusals(&acts, &run.answers.borrow()),
                _ => run.judge(&acts, discipline, counts, &serial),
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
        let order: Vec<usize> = (0..self.acts.len()).collect();
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
    /// Does one operation: its thread, and its place among all.
    fn act(&self, teller: &Reporter, act: Act, ready: &Ready, (thread, at): (usize, usize)) {
        teller.begin(act.name());
        let answer = ready.run(&self.machine, &self.threads, thread);
        teller.end(oracle::shown(&Some(answer)));
        self.answers.borrow_mut()[at] = Some(answer);
    }

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
        acts: &[Act],
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
        if counts.compares() && acts.len() > 1 {
            found.extend(oracle::atomicity(acts, discipline, &outcome, serial));
        }
        if found.is_empty() {
            found.extend(oracle::leaks(&self.machine));
        }
        found
    }
}

/// All orders of operations that keep those of each thread in their order, given the thread of each;
/// None if there are too many.
fn orders(threads: &[usize]) -> Option<Vec<Vec<usize>>> {
    let mut orders = vec![Vec::new()];
    for _ in threads {
        let longer = orders.iter().flat_map(|order: &Vec<usize>| {
            let next = (0..threads.len()).filter(|at| {
                let before = |other: &usize| threads[*other] == threads[*at];
                !order.contains(at) && (0..*at).filter(before).all(|other| order.contains(&other))
            });
            let extend = |at| order.iter().copied().chain([at]).collect();
            next.map(extend).collect::<Vec<_>>()
        });
        orders = longer.take(MOST_ORDERS as usize + 1).collect();
        if orders.len() > MOST_ORDERS as usize {
            return None;
        }
    }
    Some(orders)
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
