//! A scene: what is there, who does what, and what counts as the race.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use seamlock_check::{Setup, Violation};
use seamlock_kvm::Discipline;
use seamlock_kvm::bug::{Bug, What};
use seamlock_kvm::error::Result;
use seamlock_sync::{Hook, install};
use seamlock_tdx_abi::TdxStatus;

use crate::act::{Act, Answer, Ready};
use crate::machine::{Machine, Start};
use crate::oracle::{self, Told};
use crate::words::Words;

/// One thread of a scene.
#[derive(Clone, Copy, Debug)]
pub struct Actor {
    /// Its name in schedules.
    pub name: &'static str,
    /// The CPU that it runs on.
    pub cpu: u32,
    /// What it does.
    pub act: Act,
}

/// Which bugs are this race. All others are left to the race that they belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// Every bug.
    AllBugs,
    /// A SEAMCALL that found a lock word busy.
    Busy,
    /// A SEAMCALL that found the TD in another state.
    WrongState,
}

impl Counts {
    /// Whether the bug counts.
    pub fn counts(self, bug: &Bug) -> bool {
        match (self, &bug.what) {
            (Counts::AllBugs, _) => true,
            (_, What::Condition(_)) => false,
            (Counts::Busy, What::Seamcall { status, .. }) => status.is(TdxStatus::OPERAND_BUSY),
            (Counts::WrongState, What::Seamcall { status, .. }) => {
                status.is(TdxStatus::OP_STATE_INCORRECT)
            }
        }
    }
}

/// A few threads on a TD that has got to some point of its launch.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    /// Tells the scenes of a race apart.
    pub name: &'static str,
    /// What is there.
    pub start: Start,
    /// Who does what.
    pub actors: &'static [Actor],
    /// Which bugs are this race.
    pub counts: Counts,
}

/// What each thread answered, in the order of the threads.
pub type Answers = Vec<Option<Answer>>;

/// A scene under a discipline, ready to be checked.
#[derive(Debug)]
pub struct Staged {
    scene: Scene,
    discipline: &'static Discipline,
    serial: Rc<BTreeSet<Answers>>,
}

impl Staged {
    /// Runs the threads one after the other in every order, to know what they may answer.
    ///
    /// # Errors
    /// When no TD can be built under the discipline.
    pub fn new(scene: Scene, discipline: &'static Discipline) -> Result<Staged> {
        let mut serial = BTreeSet::new();
        for order in orders(scene.actors.len()) {
            let machine = Machine::build(discipline, None, scene.start)?;
            let ready = prepare(&scene, &machine);
            let mut answers: Answers = vec![None; ready.len()];
            for at in order {
                answers[at] = Some(ready[at].run(&machine, scene.actors[at].cpu));
            }
            serial.insert(answers);
        }
        Ok(Staged {
            scene,
            discipline,
            serial: Rc::new(serial),
        })
    }

    /// Builds the scenario. The set-up runs unseen: it ends with every lock free.
    pub fn build(&self, setup: &mut Setup) {
        let _unseen = Unseen(install(None));
        let words = Words::default();
        let observer = oracle::Bugs::new(setup.reporter(), self.scene.counts, words.clone());
        setup.legend(words);
        let built = Machine::build(self.discipline, Some(Arc::new(observer)), self.scene.start);
        let machine = match built {
            Ok(machine) => Rc::new(machine),
            Err(why) => {
                let what = Violation::new("set-up", "the TD cannot be built");
                setup.reporter().report(what.with_detail(why.to_string()));
                return;
            }
        };
        let ready = prepare(&self.scene, &machine);
        let answers: Rc<RefCell<Answers>> = Rc::new(RefCell::new(vec![None; ready.len()]));
        for (at, (ready, actor)) in ready.into_iter().zip(self.scene.actors).enumerate() {
            let (machine, answers) = (machine.clone(), answers.clone());
            let reporter = setup.reporter();
            setup.thread(actor.name, move || {
                reporter.begin(actor.act.name());
                let answer = ready.run(&machine, actor.cpu);
                reporter.end(oracle::shown(&Some(answer)));
                answers.borrow_mut()[at] = Some(answer);
            });
        }
        setup.oracle(oracle::LatePublication::new(machine.kvm.clone()));
        let (serial, actors) = (self.serial.clone(), self.scene.actors);
        let reporter = setup.reporter();
        setup.at_end(move || {
            let told = Told {
                actors,
                answers: answers.borrow().clone(),
                serial,
            };
            let wrong = oracle::freed_on_a_list(&machine).into_iter();
            let wrong: Vec<_> = wrong.chain(oracle::atomicity(&machine, &told)).collect();
            if wrong.is_empty() {
                return oracle::leaks(&machine);
            }
            wrong.into_iter().for_each(|what| reporter.report(what));
            None
        });
    }
}

fn prepare(scene: &Scene, machine: &Machine) -> Vec<Ready> {
    let acts = scene.actors.iter().map(|actor| actor.act);
    acts.map(|act| act.prepare(machine)).collect()
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

impl Drop for Unseen {
    fn drop(&mut self) {
        install(self.0.take());
    }
}
