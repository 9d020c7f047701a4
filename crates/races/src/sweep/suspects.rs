//! Which fault of docs/findings.md a finding is.

use std::collections::{BTreeMap, BTreeSet};

use seamlock_kvm::Discipline;
use seamlock_sync::Private;

use super::{Cell, Found};
use crate::faults::Fault;

/// A discipline, and what becomes of it when known faults are closed.
#[derive(Debug)]
pub struct Suspects {
    discipline: &'static Discipline,
    changed: Private<BTreeMap<Change, &'static Discipline>>,
}

/// The numbers of the faults that are closed, and of those that are opened again.
type Change = (Vec<u32>, Vec<u32>);

/// What tells findings of a cell apart: oracle and cause.
type Told = (String, String);

fn told(found: &Found) -> Told {
    let violation = &found.example.violation;
    (violation.oracle.to_string(), violation.cause.clone())
}

/// What is found in a cell, and whether all of it was run.
type Seen = (BTreeSet<Told>, bool);

impl Suspects {
    /// The known faults of a discipline.
    pub fn of(discipline: &'static Discipline) -> Suspects {
        Suspects {
            discipline,
            changed: Private::default(),
        }
    }

    /// The discipline that has them.
    pub fn discipline(&self) -> &'static Discipline {
        self.discipline
    }

    /// Says of each finding of a cell, which `budget` executions found, the faults that it is the doing
    /// of. A finding is that of a fault if it is there with that fault alone, and of one that nobody
    /// knows if it is there without any. What needs several of them is the doing of each whose closing
    /// ends it. Faults that can't be where the cell's operations meet are left as they are.
    pub fn name(&self, cell: &Cell, findings: &mut [Found], budget: u64, seed: u64) {
        let acts = || cell.operations.iter().map(|operation| operation.act);
        let here = |fault: &&Fault| fault.can_meet(acts());
        let faults: Vec<&'static Fault> = Fault::of(self.discipline).filter(here).collect();
        if findings.is_empty() || faults.is_empty() {
            return;
        }
        let seen = |closed: &[&'static Fault], open: &[&'static Fault]| -> Seen {
            let swept = cell.check(self.change(closed, open), budget, seed);
            // Where the checker gives up nothing is known to be left.
            swept.map_or_else(
                |_| Seen::default(),
                |swept| {
                    let all = swept.findings.iter().map(told).collect();
                    (all, swept.explored.is_ok())
                },
            )
        };
        let (unknown, _) = seen(&faults, &[]);
        for fault in &faults {
            let (left, _) = seen(&faults, &[fault]);
            for found in &mut *findings {
                let told = told(found);
                let new = left.contains(&told) && !unknown.contains(&told);
                if new && fault.can_show(&found.example.violation) {
                    found.faults.push(fault);
                }
            }
        }
        let nameless =
            |found: &&mut Found| found.faults.is_empty() && !unknown.contains(&told(found));
        let mut nameless: Vec<&mut Found> = findings.iter_mut().filter(nameless).collect();
        if nameless.is_empty() {
            return;
        }
        for fault in &faults {
            let (left, all) = seen(&[fault], &[]);
            let gone = |found: &&mut &mut Found| all && !left.contains(&told(found));
            nameless
                .iter_mut()
                .filter(gone)
                .for_each(|found| found.faults.push(fault));
        }
    }

    fn change(&self, closed: &[&'static Fault], open: &[&'static Fault]) -> &'static Discipline {
        let numbers = |faults: &[&Fault]| faults.iter().map(|fault| fault.number).collect();
        // Disciplines live as long as the process, and these are few.
        let new = || -> &'static Discipline {
            Box::leak(Fault::close(self.discipline, closed, open).into())
        };
        let key = (numbers(closed), numbers(open));
        self.changed
            .with(|changed| *changed.entry(key).or_insert_with(new))
    }
}
