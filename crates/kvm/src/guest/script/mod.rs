//! A guest that does what a script says, one step a line, and then halts.
//!
//! A VMM developer drives every exit that KVM can give with it. The steps go through the TDX module as a
//! real guest's would: TDCALL, EPT violations, exits of the processor. See [`parse`] for the language and
//! `docs/script.md` for the line of each exit.

mod parse;
mod step;

use std::collections::BTreeMap;
use std::fmt;

use seamlock_sync::Private;

use super::{Entered, Guest, Halting, Turn};

pub use parse::{ParseError, parse};
pub use step::{Memory, Step, Verb};

/// A step that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The step's line in the script, from 1.
    pub line: usize,
    /// The vCPU.
    pub vcpu: u32,
    /// The step as it was written.
    pub text: String,
    /// What the guest saw of it.
    pub seen: String,
}

/// Who is told of each step.
pub type Listener = Box<dyn Fn(&Outcome) + Send + Sync>;

/// Where a vCPU is in its steps.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    next: usize,
    /// The VM in which the step before `next` exited, and waits for its answer.
    waiting_in: Option<u64>,
}

/// The scripted guest of a machine. Each step is done once: a TD that is built anew after a reset goes on
/// where the one before it ended.
pub struct Script {
    steps: BTreeMap<u32, Vec<Step>>,
    cursors: Private<BTreeMap<u32, Cursor>>,
    listener: Listener,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Script {{ steps: {:?} }}", self.steps)
    }
}

impl Script {
    /// A guest with these steps.
    pub fn new(steps: Vec<Step>, listener: Listener) -> Script {
        let mut by_vcpu: BTreeMap<u32, Vec<Step>> = BTreeMap::new();
        for step in steps {
            by_vcpu.entry(step.vcpu).or_default().push(step);
        }
        Script {
            steps: by_vcpu,
            cursors: Private::default(),
            listener,
        }
    }

    fn steps(&self, vcpu: u32) -> &[Step] {
        self.steps.get(&vcpu).map_or(&[], Vec::as_slice)
    }

    fn tell(&self, step: &Step, seen: String) {
        (self.listener)(&Outcome {
            line: step.line,
            vcpu: step.vcpu,
            text: step.text.clone(),
            seen,
        });
    }

    /// The step that the vCPU does now; the one before it is over, unless the instruction that it
    /// stands for is executed again.
    fn advance(&self, entered: &Entered) -> Option<&Step> {
        let steps = self.steps(entered.vcpu);
        let (before, now) = self.cursors.with(|cursors| {
            let cursor = cursors.entry(entered.vcpu).or_default();
            let before = cursor.waiting_in.take().map(|vm| (cursor.next - 1, vm));
            if let Some((at, vm)) = before
                && vm == entered.vm
            {
                let step = &steps[at];
                if step.is_executed_again() || step.is_last_of_td() {
                    cursor.waiting_in = Some(vm);
                    let now = if step.is_last_of_td() {
                        steps.len()
                    } else {
                        at
                    };
                    return (None, now);
                }
            }
            let now = cursor.next;
            cursor.next += usize::from(now < steps.len());
            cursor.waiting_in = (now < steps.len()).then_some(entered.vm);
            (before, now)
        });
        if let Some((at, vm)) = before {
            let seen = if vm == entered.vm {
                step::answer(&steps[at], entered)
            } else {
                None
            };
            self.tell(
                &steps[at],
                seen.unwrap_or_else(|| "no answer: the TD is gone".to_owned()),
            );
        }
        steps.get(now)
    }

    /// The step that was just done needed no exit.
    fn settled(&self, entered: &Entered) {
        self.cursors.with(|cursors| {
            if let Some(cursor) = cursors.get_mut(&entered.vcpu) {
                cursor.waiting_in = None;
            }
        });
    }
}

impl Guest for Script {
    fn run(&self, entered: &Entered) -> Turn {
        while let Some(step) = self.advance(entered) {
            match step::take(step, entered) {
                step::Taken::Exit(regs) => {
                    return Turn {
                        regs,
                        halted: false,
                    };
                }
                step::Taken::Settled(seen) => {
                    self.settled(entered);
                    self.tell(step, seen);
                }
            }
        }
        Halting.run(entered)
    }
}
