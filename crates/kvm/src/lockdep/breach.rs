//! What lockdep found: a breach of the rules, as a value.

use std::fmt;

use super::held::Acquisition;
use super::observed::Step;
use crate::locks::Edge;

/// Which rule was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// The declared order has the two the other way round.
    Inversion,
    /// Orders that were seen, in this run or before, form a circle.
    Cycle,
    /// A lock is taken by who has it, or a second one of its class without a lock that makes it safe.
    Recursion,
    /// The lock that is to make it safe is not held.
    NestNotHeld,
    /// Something that may sleep, where sleeping is forbidden.
    Atomic,
    /// `synchronize_srcu` inside a read section of the same domain: it waits for itself.
    WaitInside,
    /// The declared order says nothing about the two.
    Undeclared,
    /// A lock is held when the call returns to user space.
    HeldAtReturn,
}

impl Rule {
    /// The headline, in lockdep's words where it has some.
    pub const fn title(self) -> &'static str {
        match self {
            Rule::Inversion => "lock order inversion against the declared order",
            Rule::Cycle => "possible circular locking dependency",
            Rule::Recursion => "possible recursive locking",
            Rule::NestNotHeld => "nest lock is not held",
            Rule::Atomic => "sleeping function called from invalid context",
            Rule::WaitInside => "synchronize_srcu inside of its own read section",
            Rule::Undeclared => "nesting that is not declared",
            Rule::HeldAtReturn => "lock held when returning to user space",
        }
    }
}

/// One breach. The first of its rule and its two classes is kept, with all that was known then.
#[derive(Clone, Debug)]
pub struct Breach {
    /// Which rule.
    pub rule: Rule,
    /// What was being taken.
    pub acquired: Acquisition,
    /// Which held lock it is against; the same lock for a rule about one.
    pub against: Acquisition,
    /// All that the thread held, outermost first.
    pub held: Vec<Acquisition>,
    /// The declared edges from `acquired` to `against`.
    pub declared: Vec<&'static Edge>,
    /// The orders seen earlier that lead from `acquired` back to `against`.
    pub circle: Vec<Step>,
}

impl Breach {
    /// What tells breaches apart: the rule, and the two classes with their depths.
    pub(super) fn key(&self) -> (Rule, String, String) {
        (
            self.rule,
            self.against.node().to_string(),
            self.acquired.title(),
        )
    }

    /// One line: the rule, and both locks with their sites.
    pub fn headline(&self) -> String {
        match self.rule {
            Rule::HeldAtReturn => format!("{}: {}", self.rule.title(), self.against),
            _ => format!(
                "{}: {} under {}",
                self.rule.title(),
                self.acquired,
                self.against
            ),
        }
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.rule.title())?;
        if self.rule != Rule::HeldAtReturn {
            writeln!(f, "  taking   {}", self.acquired)?;
        }
        writeln!(f, "  holding  {}", self.against)?;
        for edge in &self.declared {
            let (outer, inner) = (edge.outer.name(), edge.inner.name());
            writeln!(f, "  declared {outer} > {inner} ({})", edge.source)?;
        }
        for step in &self.circle {
            writeln!(f, "  seen     {step}")?;
        }
        if !self.held.is_empty() {
            writeln!(f, "  held, outermost first:")?;
        }
        for held in &self.held {
            writeln!(f, "    {held}")?;
        }
        Ok(())
    }
}
