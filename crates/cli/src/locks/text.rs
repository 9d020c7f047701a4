//! For people.

use std::collections::BTreeMap;
use std::fmt::Write;

use seamlock_kvm::lockdep::survey::{Call, Survey};
use seamlock_kvm::lockdep::trace::{Branch, Tree};
use seamlock_kvm::lockdep::{Breach, Rule};
use seamlock_kvm::locks::{self, ORDER, Take};
use seamlock_tdx_abi::Leaf;

use super::list;
use crate::style::{BAD, DIM, GOOD, HEAD};

fn head(text: &str) -> String {
    format!("{}{text}{}\n", HEAD.render(), HEAD.render_reset())
}

/// The order, all calls, and what lockdep found.
pub(super) fn all(survey: &Survey) -> String {
    let mut out = head("declared order, outer > inner");
    for edge in ORDER {
        let order = format!("{} > {}", edge.outer.name(), edge.inner.name());
        let _ = writeln!(
            out,
            "  {order:<52} {}{}{}",
            DIM.render(),
            edge.source,
            DIM.render_reset()
        );
    }
    out.push('\n');
    let discipline = survey.discipline;
    out += &head(&format!(
        "locks by call, in order, observed under {}",
        discipline.name
    ));
    for call in own_rows(survey) {
        let _ = writeln!(out, "  {:<40} {}", call.name, list(&call.tree.order));
        if !call.is_as_declared() {
            let declared = list(&call.declared);
            let _ = writeln!(
                out,
                "  {:<40} {}",
                "",
                bad(&format!("declared: {declared}"))
            );
        }
    }
    out.push('\n');
    out += &head("other calls, by what they take");
    for (takes, names) in others(survey) {
        let _ = writeln!(out, "  {takes}");
        out += &wrapped(&names, 6);
    }
    out.push('\n');
    out + &breaches(&survey.breaches())
}

/// Calls that take more than what all ioctls of a vCPU take.
pub(super) fn own_rows(survey: &Survey) -> impl Iterator<Item = &Call> {
    survey.calls.iter().filter(|call| is_declared_by_name(call))
}

fn is_declared_by_name(call: &Call) -> bool {
    locks::PATHS.iter().any(|path| path.call == call.name)
}

/// The others, grouped by what they take.
pub(super) fn others(survey: &Survey) -> BTreeMap<String, Vec<&str>> {
    let mut groups: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for call in survey
        .calls
        .iter()
        .filter(|call| !is_declared_by_name(call))
    {
        groups
            .entry(list(&call.tree.order))
            .or_default()
            .push(&call.name);
    }
    groups
}

fn wrapped(names: &[&str], indent: usize) -> String {
    let mut out = String::new();
    let mut line = String::new();
    for name in names {
        if line.len() + name.len() + 1 > 100 - indent {
            let _ = writeln!(out, "{:indent$}{line}", "");
            line.clear();
        }
        line += if line.is_empty() { "" } else { " " };
        line += name;
    }
    let _ = writeln!(out, "{:indent$}{line}", "");
    out
}

fn bad(text: &str) -> String {
    format!("{}{text}{}", BAD.render(), BAD.render_reset())
}

/// One call.
pub(super) fn call(survey: &Survey, call: &Call) -> String {
    let discipline = survey.discipline.name;
    let mut out = head(&format!("{} under {discipline}", call.name));
    let _ = writeln!(out, "  {:<9} {}", "declared", list(&call.declared));
    let same = call.is_as_declared();
    let observed = if same {
        good("the same")
    } else {
        bad(&list(&call.tree.order))
    };
    let _ = writeln!(out, "  {:<9} {observed}", "observed");
    if !call.source.is_empty() {
        let _ = writeln!(out, "  {:<9} {}", "kernel", call.source);
    }
    if call.before_vcpus {
        let _ = writeln!(
            out,
            "  {:<9} the VM has no vCPU yet, so no mutex of one",
            ""
        );
    }
    if let Err(error) = &call.result {
        let _ = writeln!(out, "  {:<9} {error}", "answer");
    }
    out.push('\n');
    out += &tree(&call.tree, true);
    out.push('\n');
    let takes = |breach: &&Breach| {
        let class = |acquisition: &seamlock_kvm::lockdep::Acquisition| Take::of(acquisition);
        [class(&breach.acquired), class(&breach.against)]
            .iter()
            .all(|take| call.tree.order.contains(take))
    };
    let all = survey.breaches();
    let own: Vec<Breach> = all.iter().filter(takes).cloned().collect();
    out + &breaches(&own)
}

fn good(text: &str) -> String {
    format!("{}{text}{}", GOOD.render(), GOOD.render_reset())
}

/// What was taken, as a tree; with the source lines or without.
pub(super) fn tree(tree: &Tree, sites: bool) -> String {
    let mut rows = Vec::new();
    if !tree.calls.is_empty() {
        rows.push(("(no lock)".to_owned(), String::new(), leaves(&tree.calls)));
    }
    grow(&mut rows, &tree.branches, "");
    let width = |pick: fn(&(String, String, String)) -> &str| {
        rows.iter()
            .map(|row| pick(row).chars().count())
            .max()
            .unwrap_or(0)
    };
    let (first, second) = (width(|row| &row.0), width(|row| &row.1));
    let mut out = String::new();
    for (lock, site, calls) in &rows {
        let line = match sites {
            true => format!("  {lock:<first$}  {site:<second$}  {calls}"),
            false => format!("  {lock:<first$}  {calls}"),
        };
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

fn grow(rows: &mut Vec<(String, String, String)>, branches: &[Branch], indent: &str) {
    for branch in branches {
        let count = match (branch.locks, branch.times) {
            (1, 1) => String::new(),
            (locks, _) if locks > 1 => format!(" × {locks}"),
            (_, times) => format!(", {times} times"),
        };
        let lock = format!("{indent}{}{count}", branch.first.title());
        rows.push((lock, branch.first.place(), leaves(&branch.calls)));
        grow(rows, &branch.under, &format!("{indent}  "));
    }
}

fn leaves(calls: &[(Leaf, usize)]) -> String {
    let name = |(leaf, times): &(Leaf, usize)| match times {
        1 => format!("{leaf}"),
        _ => format!("{leaf} × {times}"),
    };
    calls.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// What lockdep found.
fn breaches(all: &[Breach]) -> String {
    if all.is_empty() {
        return format!("{}\n", good("lockdep: nothing found"));
    }
    let mut out = String::new();
    for breach in all {
        let text = breach.to_string();
        let (title, rest) = text.split_once('\n').unwrap_or((&text, ""));
        let serious = breach.rule != Rule::Undeclared;
        let title = if serious {
            bad(title)
        } else {
            title.to_owned()
        };
        let _ = writeln!(out, "lockdep: {title}\n{rest}");
    }
    out
}
