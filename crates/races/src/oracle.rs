//! Judges of a scene: what must not happen whatever the order.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use seamlock_check::{Oracle, Reporter, Step, View, Violation};
use seamlock_kvm::Kvm;
use seamlock_kvm::bug::{Bug, What};
use seamlock_kvm::locks::cells;
use seamlock_kvm::observer::{Observer, Seamcall};
use seamlock_kvm::tdx::TdState;
use seamlock_sync::{Action, Outcome};
use seamlock_tdx_abi::TdxStatus;
use seamlock_tdx_abi::kvm::Errno;
use seamlock_tdx_abi::regs::Regs;

use crate::act::Answer;
use crate::machine::Machine;
use crate::scene::{Actor, Answers, Counts};
use crate::words::Words;

/// KVM found itself or the module broken: a SEAMCALL failed that can't, or a condition of KVM's own.
#[derive(Debug)]
pub struct Bugs {
    reporter: Reporter,
    counts: Counts,
    words: Words,
}

impl Bugs {
    /// Reports the bugs that count, and tells `words` what pages become.
    pub fn new(reporter: Reporter, counts: Counts, words: Words) -> Bugs {
        Bugs {
            reporter,
            counts,
            words,
        }
    }
}

impl Observer for Bugs {
    fn watches_seamcalls(&self) -> bool {
        self.reporter.is_shown()
    }

    fn seamcall_begins(&self, input: &Regs) {
        self.words.see(input);
        self.reporter.begin(input.leaf().to_string());
    }

    fn seamcall(&self, call: &Seamcall) {
        let status = call.status();
        self.reporter.end(match status {
            TdxStatus::SUCCESS => String::new(),
            status => status.to_string(),
        });
    }

    fn bug(&self, bug: &Bug) {
        if !self.counts.counts(bug) {
            return;
        }
        let violation = match &bug.what {
            What::Seamcall { leaf, status, .. } => {
                Violation::new("no-fail SEAMCALL", format!("{leaf} failed with {status}"))
            }
            What::Condition(what) => Violation::new("KVM_BUG_ON", what.clone().into_owned()),
        };
        self.reporter.report(violation.with_detail(bug.site));
    }
}

/// A vCPU is published in a TD that is no longer INITIALIZED, and can never be initialised.
///
/// Both the publication and the change of state are made with `kvm->lock` held, in every discipline,
/// so that their order is the same in all executions of a trace.
#[derive(Debug)]
pub struct LatePublication {
    kvm: Arc<Kvm>,
}

impl LatePublication {
    /// Watches one TD.
    pub fn new(kvm: Arc<Kvm>) -> LatePublication {
        LatePublication { kvm }
    }
}

impl Oracle for LatePublication {
    fn step(&mut self, _view: &View<'_>, step: &Step<'_>) -> Option<Violation> {
        let published = step.op.action == Action::Update
            && step.op.name == cells::ONLINE_VCPUS.at(self.kvm.number)
            && matches!(step.outcome, Outcome::Value(_));
        let late = published && self.kvm.tdx().state() != TdState::Initialized;
        let what = "a vCPU was published in a TD that is no longer being built";
        late.then(|| Violation::new("stale state", what))
    }
}

/// A vCPU that was freed is still on a CPU's `associated_tdvcpus`: the next vCPU of any TD that is
/// loaded there writes into freed memory.
pub fn freed_on_a_list(machine: &Machine) -> Option<Violation> {
    for cpu in machine.host.cpus() {
        for listed in cpu.associated() {
            let mut alive = machine.kvm.vcpus();
            if !alive.any(|vcpu| vcpu.born_at() == listed.index) {
                let what = "a freed vCPU is on a CPU's associated_tdvcpus";
                let at = format!(
                    "vCPU {} of VM {} on CPU {}",
                    listed.index, listed.vm, cpu.id
                );
                return Some(Violation::new("list corruption", what).with_detail(at));
            }
        }
    }
    None
}

/// What the threads answered, against what they answer one after the other.
#[derive(Debug)]
pub struct Told {
    /// The threads.
    pub actors: &'static [Actor],
    /// What each answered.
    pub answers: Answers,
    /// What they answer in some order, one after the other.
    pub serial: Rc<BTreeSet<Answers>>,
}

/// The answers are those of no serial order: first each thread for itself, then all together. A TD that
/// is bugged has answered to that already.
pub fn atomicity(machine: &Machine, told: &Told) -> Vec<Violation> {
    let Told {
        actors,
        answers,
        serial,
    } = told;
    let both = || actors.iter().zip(answers);
    let again = |(actor, answer): (&Actor, &Option<Answer>)| {
        answer.is_some_and(|answer| actor.act.is_try_again(&answer))
    };
    if !machine.kvm.bugs().is_empty() || both().any(again) || serial.contains(answers) {
        return Vec::new();
    }
    let known = |at: usize, answer| serial.iter().any(|order| order.get(at) == Some(answer));
    let alone = both().enumerate();
    let odd = alone.filter(|(at, (_, answer))| !known(*at, answer));
    let mut causes: Vec<String> = odd
        .map(|(_, (actor, answer))| cause(actor, answer))
        .collect();
    if causes.is_empty() {
        causes.push("answers that belong to no one order".to_owned());
    }
    let row = |answers: &Answers| answers.iter().map(shown).collect::<Vec<_>>().join(", ");
    let orders: Vec<String> = serial.iter().map(row).collect();
    let detail = format!(
        "{}; one after the other: {}",
        row(answers),
        orders.join(" or ")
    );
    let violation = |cause| Violation::new("atomicity", cause).with_detail(detail.clone());
    causes.into_iter().map(violation).collect()
}

fn cause(actor: &Actor, answer: &Option<Answer>) -> String {
    let name = actor.act.name();
    match answer.map(|answer| answer.result) {
        Some(Err(errno)) => format!("{name} fails with {}", Errno(errno)),
        Some(Ok(_)) => format!("{name} returns success with less than it should"),
        None => format!("{name} does not return"),
    }
}

pub(crate) fn shown(answer: &Option<Answer>) -> String {
    match answer {
        None => "no answer".to_owned(),
        Some(Answer {
            result: Err(errno), ..
        }) => Errno(*errno).to_string(),
        Some(Answer {
            result: Ok(value),
            entries: 0,
        }) => value.to_string(),
        Some(Answer { entries, .. }) => format!("{entries} leaves"),
    }
}

/// Ends the TD, and sees whether everything comes back. What a bugged TD loses is that bug's doing.
pub fn leaks(machine: &Machine) -> Option<Violation> {
    if !machine.kvm.bugs().is_empty() {
        return None;
    }
    machine.close_all();
    let teardowns = machine.host.teardowns();
    let Some(end) = teardowns.first() else {
        return Some(Violation::new("leak", "the VM outlives its descriptors"));
    };
    if end.pages_leaked != 0 || !end.hkid_returned || end.bugs != 0 {
        let what = "the TD does not give everything back";
        return Some(Violation::new("leak", what).with_detail(format!("{end:?}")));
    }
    let faults = machine.host.module().audit().err()?;
    let what = "the module's audit finds faults";
    Some(Violation::new("leak", what).with_detail(format!("{faults:?}")))
}
