//! What is measured.

use seamlock_check::programs::api::{Api, Threads, Wrong};
use seamlock_check::programs::guard::{Guard, Policy};
use seamlock_check::programs::sections::Sections;

/// An abstract program.
#[derive(Clone, Copy, Debug)]
pub enum What {
    /// Critical sections on one mutex.
    Sections(Sections),
    /// The guard scenario.
    Guard(Guard),
}

/// A program under the name that the tables show.
#[derive(Clone, Debug)]
pub struct Program {
    /// The name.
    pub name: &'static str,
    /// The program.
    pub what: What,
}

impl Program {
    /// Its threads for one checker.
    pub fn threads<A: Api>(&self, wrong: Wrong) -> Threads {
        match self.what {
            What::Sections(model) => model.threads::<A>(),
            What::Guard(model) => model.threads::<A>(wrong),
        }
    }

    /// The number of its traces, where it is known.
    pub fn traces(&self) -> Option<u64> {
        match self.what {
            What::Sections(model) => Some(model.traces()),
            What::Guard(model) => model.traces(),
        }
    }
}

fn guard(name: &'static str, model: Guard) -> Program {
    Program {
        name,
        what: What::Guard(model),
    }
}

/// Programs that are right: to be explored whole.
pub fn right() -> Vec<Program> {
    let all = |model: Guard| model.with_finalize().with_create();
    let sections = Sections {
        threads: 3,
        sections: 2,
    };
    vec![
        Program {
            name: "3 threads x 2 sections",
            what: What::Sections(sections),
        },
        guard("guard, 1 vCPU, small", Guard::small(Policy::Guard, 1)),
        guard("guard, 2 vCPUs, small", Guard::small(Policy::Guard, 2)),
        guard("guard, 2 vCPUs, full", Guard::full(Policy::Guard, 2)),
        guard(
            "guard, 2 vCPUs, small, all",
            all(Guard::small(Policy::Guard, 2)),
        ),
        guard(
            "guard, 4 vCPUs, full, all",
            all(Guard::full(Policy::Guard, 4)),
        ),
    ]
}

/// Programs that are wrong: the error is to be found.
pub fn wrong() -> Vec<Program> {
    let all = |model: Guard| model.with_finalize().with_create();
    vec![
        guard("before, 2 vCPUs, small", Guard::small(Policy::Before, 2)),
        guard("novcpus, 2 vCPUs, full", Guard::full(Policy::NoVcpus, 2)),
        guard(
            "slots with flush, 2 vCPUs, full",
            Guard::full(Policy::Slots, 2).with_flush(),
        ),
        guard(
            "slots with flush, 4 vCPUs, full",
            Guard::full(Policy::Slots, 4).with_flush(),
        ),
        guard(
            "nocheck, 4 vCPUs, full, all",
            all(Guard::full(Policy::NoCheck, 4)),
        ),
        guard(
            "guardslots, 4 vCPUs, full",
            Guard::full(Policy::GuardSlots, 4),
        ),
    ]
}

/// The program of this name.
pub fn named(name: &str) -> Option<Program> {
    right()
        .into_iter()
        .chain(wrong())
        .find(|program| program.name == name)
}
