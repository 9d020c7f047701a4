//! For programs.

use seamlock_kvm::lockdep::Breach;
use seamlock_kvm::lockdep::survey::{Call, Survey};
use seamlock_kvm::lockdep::trace::Branch;
use seamlock_kvm::locks::{ORDER, Take};
use seamlock_tdx_abi::Leaf;
use serde::Serialize;

#[derive(Serialize)]
struct All {
    discipline: &'static str,
    order: Vec<EdgeRow>,
    calls: Vec<CallRow>,
    elsewhere: Vec<CallRow>,
    breaches: Vec<BreachRow>,
}

#[derive(Serialize)]
struct EdgeRow {
    outer: &'static str,
    inner: &'static str,
    source: &'static str,
}

#[derive(Serialize)]
struct CallRow {
    call: String,
    source: &'static str,
    answer: String,
    before_vcpus: bool,
    declared: Vec<String>,
    observed: Vec<String>,
    as_declared: bool,
    seamcalls: Vec<LeafRow>,
    tree: Vec<BranchRow>,
}

#[derive(Serialize)]
struct BranchRow {
    lock: String,
    locks: usize,
    times: usize,
    site: String,
    seamcalls: Vec<LeafRow>,
    under: Vec<BranchRow>,
}

#[derive(Serialize)]
struct LeafRow {
    leaf: String,
    times: usize,
}

#[derive(Serialize)]
struct BreachRow {
    rule: &'static str,
    taking: String,
    taking_at: String,
    holding: String,
    holding_at: String,
    held: Vec<String>,
    declared: Vec<EdgeRow>,
    seen: Vec<String>,
}

/// Everything.
pub(super) fn all(survey: &Survey) -> serde_json::Result<String> {
    serde_json::to_string_pretty(&All {
        discipline: survey.discipline.name,
        order: ORDER.iter().map(edge).collect(),
        calls: survey.calls.iter().map(row).collect(),
        elsewhere: survey.elsewhere.iter().map(row).collect(),
        breaches: survey.breaches().iter().map(breach).collect(),
    })
}

/// One call.
pub(super) fn call(survey: &Survey, call: &Call) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct One {
        discipline: &'static str,
        #[serde(flatten)]
        call: CallRow,
    }
    serde_json::to_string_pretty(&One {
        discipline: survey.discipline.name,
        call: row(call),
    })
}

fn edge(edge: &seamlock_kvm::locks::Edge) -> EdgeRow {
    EdgeRow {
        outer: edge.outer.name(),
        inner: edge.inner.name(),
        source: edge.source,
    }
}

fn row(call: &Call) -> CallRow {
    let names = |takes: &[Take]| takes.iter().map(ToString::to_string).collect();
    CallRow {
        call: call.name.clone(),
        source: call.source,
        answer: match &call.result {
            Ok(value) => value.to_string(),
            Err(error) => error.to_string(),
        },
        before_vcpus: call.before_vcpus,
        declared: names(&call.declared),
        observed: names(&call.tree.order),
        as_declared: call.is_as_declared(),
        seamcalls: leaves(&call.tree.calls),
        tree: call.tree.branches.iter().map(branch).collect(),
    }
}

fn branch(from: &Branch) -> BranchRow {
    BranchRow {
        lock: from.first.title(),
        locks: from.locks,
        times: from.times,
        site: from.first.place(),
        seamcalls: leaves(&from.calls),
        under: from.under.iter().map(branch).collect(),
    }
}

fn leaves(calls: &[(Leaf, usize)]) -> Vec<LeafRow> {
    calls
        .iter()
        .map(|(leaf, times)| LeafRow {
            leaf: leaf.to_string(),
            times: *times,
        })
        .collect()
}

fn breach(breach: &Breach) -> BreachRow {
    BreachRow {
        rule: breach.rule.title(),
        taking: breach.acquired.title(),
        taking_at: breach.acquired.place(),
        holding: breach.against.title(),
        holding_at: breach.against.place(),
        held: breach.held.iter().map(ToString::to_string).collect(),
        declared: breach.declared.iter().map(|e| edge(e)).collect(),
        seen: breach.circle.iter().map(ToString::to_string).collect(),
    }
}
