//! What the threads answered and what they left, against what they do one after the other.

use std::collections::BTreeSet;

use seamlock_check::Violation;
use seamlock_kvm::Discipline;
use seamlock_kvm::discipline::CreateVcpu;
use seamlock_tdx_abi::kvm::Errno;

use super::final_state::FINISH;
use crate::act::{Act, Answer};

/// What each operation answered, thread by thread.
pub type Answers = Vec<Option<Answer>>;

/// The answers, and the facts of the state that is left.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Outcome {
    /// The answers.
    pub answers: Answers,
    /// The facts.
    pub state: Vec<String>,
}

/// The outcome is that of no serial order: first each operation's answer for itself, then all together,
/// then the state. Documented answers of the kind "try again" are nobody's fault.
pub fn atomicity(
    acts: &[Act],
    discipline: &Discipline,
    outcome: &Outcome,
    serial: &BTreeSet<Outcome>,
) -> Vec<Violation> {
    let Outcome { answers, state } = outcome;
    let each = || acts.iter().copied().zip(answers);
    let again = |(act, answer): (Act, &Option<Answer>)| {
        answer.is_some_and(|answer| is_try_again(act, &answer, acts, discipline))
    };
    if each().any(again) || serial.contains(outcome) {
        return Vec::new();
    }
    let known = |at: usize, answer| {
        serial
            .iter()
            .any(|order| order.answers.get(at) == Some(answer))
    };
    let odd = each()
        .enumerate()
        .filter(|(at, (_, answer))| !known(*at, answer));
    let mut causes: Vec<String> = odd.map(|(_, (act, answer))| cause(act, answer)).collect();
    let same = |order: &&Outcome| &order.answers == answers;
    let states: Vec<&Vec<String>> = serial
        .iter()
        .filter(same)
        .map(|order| &order.state)
        .collect();
    if causes.is_empty() && !states.is_empty() {
        return vec![odd_state(state, &states)];
    }
    if causes.is_empty() {
        causes.push("answers that belong to no one order".to_owned());
    }
    let row = |answers: &Answers| {
        let told = |(act, answer): (&Act, _)| format!("{} returns {}", act.name(), shown(answer));
        let each: Vec<String> = acts.iter().zip(answers).map(told).collect();
        each.join(", ")
    };
    let orders: BTreeSet<String> = serial.iter().map(|order| row(&order.answers)).collect();
    let orders: Vec<String> = orders.into_iter().collect();
    let detail = format!(
        "{}; one after the other: {}",
        row(answers),
        orders.join(" or ")
    );
    let violation = |cause| Violation::new("atomicity", cause).with_detail(detail.clone());
    causes.into_iter().map(violation).collect()
}

/// Whether the answer is a documented "try again", or tells of what befell the page meanwhile, so that no
/// serial order need give it.
fn is_try_again(act: Act, answer: &Answer, acts: &[Act], discipline: &Discipline) -> bool {
    let Err(errno) = answer.result else {
        return false;
    };
    let killed = acts.contains(&Act::Kill);
    let creating = discipline.create_vcpu == CreateVcpu::UnlockedMiddle;
    let errno = Errno(errno);
    match act {
        // MR.FINALIZE may find the TD busy.
        Act::Finalize | Act::OtherFinalize if errno == Errno::EBUSY => true,
        // The guard refuses while a vCPU is being created.
        Act::InitVm
        | Act::InitVcpu(_)
        | Act::GetCpuid(_)
        | Act::InitMemRegion(_)
        | Act::OtherInitVm
            if creating =>
        {
            errno == Errno::EBUSY || killed && errno == Errno::EINTR
        }
        // The other TD is closed one descriptor after the other.
        Act::OtherInitVcpu | Act::OtherInitMemRegion | Act::OtherFinalize
            if acts.contains(&Act::OtherClose) =>
        {
            true
        }
        // Documented: the memslot is being deleted or moved.
        Act::PreFault(_) if errno == Errno::EAGAIN => true,
        // The page was allocated, had its error, and is looked up once more: two steps of one fault, which
        // answers as if the error had come between two of them.
        Act::PreFault(_) | Act::Run(_) if errno == Errno::EHWPOISON => {
            acts.iter().any(|act| act.is_memory_failure())
        }
        _ => killed && errno == Errno::EINTR,
    }
}

fn cause(act: Act, answer: &Option<Answer>) -> String {
    let name = act.name();
    match answer.map(|answer| answer.result) {
        Some(Err(errno)) => format!("{name} fails with {}", Errno(errno)),
        Some(Ok(_)) => format!("{name} returns success with less than it should"),
        None => format!("{name} does not return"),
    }
}

/// The answers are right and the state is not.
fn odd_state(state: &[String], serial: &[&Vec<String>]) -> Violation {
    let finishes = |state: &[String]| {
        let ends = state.iter().filter(|fact| fact.contains(FINISH));
        ends.clone().count() > 0 && ends.clone().all(|fact| fact.ends_with("succeeds"))
    };
    let dead = !finishes(state) && serial.iter().all(|state| finishes(state));
    let missing = |fact: &&String| serial.iter().all(|state| !state.contains(fact));
    let odd: Vec<&str> = state.iter().filter(missing).map(String::as_str).collect();
    let violation = match dead {
        true => Violation::new("dead TD", "user space can't finish the launch"),
        false => Violation::new("atomicity", "a state that no one order leaves"),
    };
    let facts = serial.last().into_iter().flat_map(|facts| facts.iter());
    let wanted: Vec<&str> = facts
        .filter(|fact| !state.contains(fact))
        .map(String::as_str)
        .collect();
    let (odd, wanted) = (odd.join("; "), wanted.join("; "));
    violation.with_detail(format!("{odd}; one after the other: {wanted}"))
}

/// An answer in words.
pub fn shown(answer: &Option<Answer>) -> String {
    match answer {
        None => "no answer".to_owned(),
        Some(Answer {
            result: Err(errno), ..
        }) => Errno(*errno).to_string(),
        Some(Answer {
            result: Ok(value),
            wrote: 0,
        }) => value.to_string(),
        Some(Answer {
            result: Ok(value),
            wrote,
        }) => format!("{value} (wrote {wrote})"),
    }
}
