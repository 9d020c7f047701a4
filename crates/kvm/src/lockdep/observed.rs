//! The order that was seen: class to class, with the first sites, and the circles in it.
//!
//! As in the kernel's lockdep, a circle is a deadlock only if no thread in it can pass: where one side
//! of a lock is a reader that never waits for a reader, the circle is broken there.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use super::held::{Acquisition, Node};

/// How the two ends of an order were held.
type Ways = (super::Mode, super::Mode);

/// `outer` was held while `inner` was taken.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// What was held, and where it had been taken.
    pub outer: Acquisition,
    /// What was taken inside.
    pub inner: Acquisition,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (outer, inner) = (self.outer, self.inner);
        write!(f, "{} at {} > ", outer.title(), outer.place())?;
        write!(f, "{} at {}", inner.title(), inner.place())
    }
}

/// All orders that were seen.
#[derive(Clone, Debug, Default)]
pub struct Observed(BTreeMap<Node, BTreeMap<Node, BTreeMap<Ways, Step>>>);

impl Observed {
    /// Every order with the first place where it was seen, by name.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.0
            .values()
            .flat_map(BTreeMap::values)
            .flat_map(BTreeMap::values)
    }

    /// Learns an order. Returns the circle that it closes, from `inner` back to `outer`; empty when it
    /// closes none, or was known.
    pub(super) fn learn(&mut self, step: Step) -> Vec<Step> {
        let ways = (step.outer.mode, step.inner.mode);
        let between = self.0.entry(step.outer.node()).or_default();
        let known = between.entry(step.inner.node()).or_default();
        if known.contains_key(&ways) {
            return Vec::new();
        }
        known.insert(ways, step);
        self.circle(&step)
    }

    /// The shortest way from `step.inner` back to `step.outer` on which everybody waits.
    fn circle(&self, step: &Step) -> Vec<Step> {
        let mut queue = VecDeque::from([vec![*step]]);
        let mut seen = BTreeSet::new();
        while let Some(way) = queue.pop_front() {
            let last = way[way.len() - 1];
            for next in self
                .from(last.inner.node())
                .filter(|next| waits(&last, next))
            {
                if next.inner.node() == step.outer.node() && waits(next, step) {
                    return way.into_iter().skip(1).chain([*next]).collect();
                }
                let free = !next.inner.mode.is_recursive_read();
                if seen.insert((next.inner.node(), free)) {
                    queue.push_back([&way[..], &[*next]].concat());
                }
            }
        }
        Vec::new()
    }

    fn from(&self, node: Node) -> impl Iterator<Item = &Step> {
        self.0
            .get(&node)
            .into_iter()
            .flat_map(BTreeMap::values)
            .flat_map(BTreeMap::values)
    }
}

/// Whether who takes the end of `first` waits for who holds the start of `then`.
fn waits(first: &Step, then: &Step) -> bool {
    !(first.inner.mode.is_recursive_read() && then.outer.mode.is_read())
}
