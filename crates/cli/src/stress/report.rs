//! What a run says at its end.

use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use super::audit::Looked;
use super::cost::Costs;
use super::finding::Finding;
use super::known;
use super::ops::OPS;
use super::round::{Ended, Run};
use super::tally::Tally;
use crate::output::{out, outln};
use crate::style::{BAD, DIM, GOOD, HEAD};

/// All rounds together.
#[derive(Debug, Default)]
pub struct Totals {
    pub rounds: u64,
    pub tally: Tally,
    pub looked: Looked,
    pub offline: u64,
    pub spent: Duration,
}

impl Totals {
    /// Adds a round.
    pub fn add(&mut self, ended: Ended) {
        self.rounds += 1;
        self.tally.add(&ended.tally);
        self.looked += ended.looked;
        self.offline += ended.offline;
    }

    fn per_second(&self) -> f64 {
        self.tally.calls() as f64 / self.spent.as_secs_f64().max(1e-9)
    }
}

/// Prints a finding.
pub fn finding(finding: &Finding) {
    let (bad, reset) = (BAD.render(), BAD.render_reset());
    out!("{bad}finding{reset} {finding}");
}

/// Prints the tables and the verdict.
pub fn text(run: &Run, totals: &Totals, costs: &Costs) {
    calls(totals);
    outln!();
    out!("{costs}");
    outln!();
    let findings = run.findings.all();
    let looked = &totals.looked;
    outln!(
        "{} calls in {:.1} s, {:.0} a second: {} threads, {} VMs of {} vCPUs, {} rounds, seed {}",
        totals.tally.calls(),
        totals.spent.as_secs_f64(),
        totals.per_second(),
        run.shape.threads,
        run.shape.vms,
        run.shape.vcpus,
        totals.rounds,
        run.seed,
    );
    outln!(
        "checked at the ends of rounds: {} VMs, {} pages in mirror and secure EPT, {} MRTDs against a \
         replay; {} CPUs went offline",
        looked.vms,
        looked.leaves,
        looked.replays,
        totals.offline,
    );
    let met = known(run);
    let style = if findings.is_empty() { GOOD } else { BAD };
    let times: u64 = findings.iter().map(|finding| finding.times).sum();
    outln!(
        "{}{}: {} findings{}; known faults of the kernel were met {met} times{}",
        style.render(),
        run.discipline.name,
        findings.len(),
        if findings.is_empty() {
            String::new()
        } else {
            format!(", met {times} times")
        },
        style.render_reset()
    );
}

/// Lists what is known and was met, and says how often in all.
fn known(run: &Run) -> u64 {
    let known = run.findings.known();
    let mut all = 0;
    for (race, met) in &known {
        let name = match known::fault(race) {
            Some(fault) if race.starts_with('F') => format!("{race}: {}", fault.what),
            Some(fault) => format!("F{} ({race}): {}", fault.number, fault.what),
            None => format!("{race}: allowed"),
        };
        let times = match met {
            Some(first) => {
                let seconds = first.after_ms as f64 / 1e3;
                format!("met {} times, first after {seconds:.2} s", first.times)
            }
            None => "not met".to_owned(),
        };
        outln!("known   {name}: {times}");
        all += met.as_ref().map_or(0, |first| first.times);
    }
    if !known.is_empty() {
        outln!();
    }
    all
}

fn calls(totals: &Totals) {
    let (head, reset) = (HEAD.render(), HEAD.render_reset());
    let (dim, dim_reset) = (DIM.render(), DIM.render_reset());
    outln!(
        "{head}{:<30} {:>10} {:>6} {:>12} {:>12}  answers{reset}",
        "call",
        "calls",
        "ok",
        "mean ns",
        "quickest ns"
    );
    for (op, row) in OPS.iter().zip(&totals.tally.rows) {
        if row.calls == 0 {
            continue;
        }
        let failed: u64 = row.errors.values().sum();
        let mut errors: Vec<_> = row.errors.iter().collect();
        errors.sort_by_key(|(errno, times)| (std::cmp::Reverse(**times), **errno));
        let errors: Vec<String> = errors
            .iter()
            .take(4)
            .map(|(errno, times)| format!("{errno} {times}"))
            .collect();
        outln!(
            "{:<30} {:>10} {:>5}% {:>12} {:>12}  {dim}{}{dim_reset}",
            op.name,
            row.calls,
            (row.calls - failed) * 100 / row.calls,
            row.spent.as_nanos() / u128::from(row.calls),
            row.quickest.as_nanos(),
            errors.join(", ")
        );
    }
}

/// Prints one JSON object.
///
/// # Errors
/// Never, as it is made of plain values.
pub fn json(run: &Run, totals: &Totals, costs: &Costs) -> anyhow::Result<()> {
    let rows: Vec<Value> = OPS
        .iter()
        .zip(&totals.tally.rows)
        .map(|(op, row)| {
            let errors: serde_json::Map<String, Value> = row
                .errors
                .iter()
                .map(|(errno, times)| (errno.to_string(), json!(times)))
                .collect();
            json!({
                "call": op.name,
                "calls": row.calls,
                "spent_ns": row.spent.as_nanos() as u64,
                "errors": errors,
            })
        })
        .collect();
    let object = json!({
        "discipline": run.discipline.name,
        "seed": run.seed,
        "threads": run.shape.threads,
        "vms": run.shape.vms,
        "vcpus": run.shape.vcpus,
        "rounds": totals.rounds,
        "seconds": totals.spent.as_secs_f64(),
        "calls": totals.tally.calls(),
        "calls_per_second": totals.per_second(),
        "cpus_offlined": totals.offline,
        "replays": totals.looked.replays,
        "by_call": rows,
        "cost": costs,
        "known": run.findings.known(),
        "findings": run.findings.all(),
    });
    let text = serde_json::to_string_pretty(&object).context("report")?;
    outln!("{text}");
    Ok(())
}
