//! A recording of the locks that one thread takes, and the SEAMCALLs it makes under them, as a tree.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use seamlock_sync::{Hook, Name, Op, Outcome, Private, Verdict, install};
use seamlock_tdx_abi::Leaf;

use super::held::{Acquisition, Held, Mode};
use crate::locks::Take;
use crate::observer::{Observer, Seamcall};

/// What happened, in order.
#[derive(Clone, Debug)]
enum Event {
    Took(Acquisition),
    Waited(Acquisition),
    Released(Name),
    Called(Leaf),
}

/// Records while it is installed. Hands on to the lockdep of the machine that the thread is in.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Arc<Private<Vec<Event>>>);

struct Tap {
    events: Recorder,
    held: RefCell<Held>,
}

impl Hook for Tap {
    fn before(&self, op: &Op) -> Verdict {
        super::before(op);
        if op.arg == super::GRACE_PERIOD
            && op.action == seamlock_sync::Action::Point
            && let Some(wait) = Acquisition::new(op, Mode::Wait)
        {
            self.events.push(Event::Waited(wait));
        }
        Verdict::Go
    }

    fn after(&self, op: &Op, outcome: Outcome) {
        super::after(op, outcome);
        if matches!(outcome, Outcome::Busy | Outcome::Interrupted) {
            return;
        }
        if let Some(taken) = Acquisition::of(op) {
            self.held.borrow_mut().push(taken);
            self.events.push(Event::Took(taken));
        } else if is_release(op) && self.held.borrow_mut().remove(op.name).is_some() {
            self.events.push(Event::Released(op.name));
        }
    }
}

fn is_release(op: &Op) -> bool {
    use seamlock_sync::Action::{Leave, Unlock, UnlockShared};
    matches!(op.action, Unlock | UnlockShared | Leave)
}

impl Observer for Recorder {
    fn seamcall(&self, call: &Seamcall) {
        self.push(Event::Called(call.leaf()));
    }
}

impl Recorder {
    fn push(&self, event: Event) {
        self.0.with(|events| events.push(event));
    }

    /// Runs `f` on this thread, recorded, and returns what was seen.
    pub fn record<R>(&self, f: impl FnOnce() -> R) -> (R, Tree) {
        self.0.with(Vec::clear);
        let tap = Tap {
            events: self.clone(),
            held: RefCell::default(),
        };
        let before = install(Some(Rc::new(tap)));
        let result = f();
        install(before);
        let events = self.0.with(std::mem::take);
        (result, Tree::of(&events))
    }
}

/// Locks of one class, taken in one way under the same others.
#[derive(Clone, Debug)]
pub struct Branch {
    /// The first of them.
    pub first: Acquisition,
    /// How many different locks were held at once.
    pub locks: usize,
    /// How often in all.
    pub times: usize,
    /// SEAMCALLs made directly under it: the leaf and how often, in the order of the first.
    pub calls: Vec<(Leaf, usize)>,
    /// What was taken under it.
    pub under: Vec<Branch>,
}

/// The locks of one call, by what was held when they were taken.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// SEAMCALLs made without a lock.
    pub calls: Vec<(Leaf, usize)>,
    /// What was taken with nothing held.
    pub branches: Vec<Branch>,
    /// Classes in the order in which they were first taken, each once for each way of taking it.
    pub order: Vec<Take>,
}

impl Tree {
    fn of(events: &[Event]) -> Tree {
        let mut tree = Tree::default();
        let mut held: Vec<Acquisition> = Vec::new();
        for event in events {
            match event {
                Event::Took(taken) => {
                    let locks = held.iter().filter(|h| same(h, taken)).count() + 1;
                    tree.grow(&held, taken, locks);
                    held.push(*taken);
                }
                Event::Waited(wait) => tree.grow(&held, wait, 1),
                Event::Released(name) => {
                    if let Some(at) = held.iter().rposition(|h| h.name == *name) {
                        held.remove(at);
                    }
                }
                Event::Called(leaf) => count(tree.at(&held).0, *leaf),
            }
        }
        tree
    }

    fn grow(&mut self, held: &[Acquisition], taken: &Acquisition, locks: usize) {
        let take = Take::of(taken);
        if !self.order.contains(&take) {
            self.order.push(take);
        }
        let outer: Vec<Acquisition> = held.iter().filter(|h| !same(h, taken)).copied().collect();
        let (_, branches) = self.at(&outer);
        if let Some(branch) = branches.iter_mut().find(|b| same(&b.first, taken)) {
            branch.times += 1;
            branch.locks = branch.locks.max(locks);
            return;
        }
        branches.push(Branch {
            first: *taken,
            locks,
            times: 1,
            calls: Vec::new(),
            under: Vec::new(),
        });
    }

    /// The SEAMCALLs and branches under what is held; locks of one class are one branch.
    fn at(&mut self, held: &[Acquisition]) -> (&mut Vec<(Leaf, usize)>, &mut Vec<Branch>) {
        let (mut calls, mut branches) = (&mut self.calls, &mut self.branches);
        for outer in held {
            // What is held was put into the tree when it was taken, or is a second of its class.
            let Some(at) = branches.iter().position(|b| same(&b.first, outer)) else {
                continue;
            };
            let branch = &mut branches[at];
            (calls, branches) = (&mut branch.calls, &mut branch.under);
        }
        (calls, branches)
    }
}

fn same(a: &Acquisition, b: &Acquisition) -> bool {
    a.node() == b.node() && a.mode == b.mode
}

fn count(calls: &mut Vec<(Leaf, usize)>, leaf: Leaf) {
    match calls.iter_mut().find(|(called, _)| *called == leaf) {
        Some((_, times)) => *times += 1,
        None => calls.push((leaf, 1)),
    }
}
