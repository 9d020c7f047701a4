//! `seamlock disciplines`: the ways to lock that can be run, and what sets them apart.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use seamlock_kvm::discipline::{self, DISCIPLINES, Discipline};
use serde::Serialize;

use crate::failure::BadInput;
use crate::output::outln;
use crate::style::{DIM, HEAD};

/// List the locking disciplines: kernels, proposals from the mailing list, and mutants.
#[derive(Debug, Args)]
pub struct Disciplines {
    /// Only these, with every axis and not only what differs.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// What the others are compared with.
    #[arg(long, value_name = "NAME", default_value = discipline::V7_3.name)]
    from: String,
    /// Print the list as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    kind: &'static str,
    default: bool,
    summary: &'static str,
    source: &'static str,
    axes: Vec<AxisRow>,
    from: &'static str,
    differences: Vec<DifferenceRow>,
}

#[derive(Debug, Serialize)]
struct AxisRow {
    axis: &'static str,
    value: String,
}

#[derive(Debug, Serialize)]
struct DifferenceRow {
    axis: &'static str,
    here: String,
    there: String,
}

impl Disciplines {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let from = find(&self.from)?;
        let named: Vec<_> = self
            .names
            .iter()
            .map(|name| find(name))
            .collect::<Result<_, _>>()?;
        let listed = if named.is_empty() {
            DISCIPLINES
        } else {
            &named
        };
        let rows: Vec<Row> = listed.iter().map(|d| row(d, from)).collect();
        if self.json {
            let text = serde_json::to_string_pretty(&rows).context("list")?;
            outln!("{text}");
            return Ok(ExitCode::SUCCESS);
        }
        for (i, row) in rows.iter().enumerate() {
            if i != 0 {
                outln!();
            }
            print(row, !named.is_empty());
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn find(name: &str) -> anyhow::Result<&'static Discipline> {
    let found = discipline::by_name(name).ok_or_else(|| {
        let names: Vec<_> = DISCIPLINES.iter().map(|d| d.name).collect();
        let names = names.join(", ");
        BadInput(format!(
            "discipline {name}: there is none; there are {names}"
        ))
    })?;
    Ok(found)
}

fn row(d: &'static Discipline, from: &'static Discipline) -> Row {
    let axes = d.axes().into_iter().map(|a| AxisRow {
        axis: a.name,
        value: a.value,
    });
    let differences = d.differences(from).into_iter().map(|d| DifferenceRow {
        axis: d.axis,
        here: d.here,
        there: d.there,
    });
    Row {
        name: d.name,
        kind: d.kind.name(),
        default: d.name == discipline::V7_3.name,
        summary: d.summary,
        source: d.source,
        axes: axes.collect(),
        from: from.name,
        differences: differences.collect(),
    }
}

/// A few lines; every axis when `whole`, or when there is nothing to compare with.
fn print(row: &Row, whole: bool) {
    let (head, dim) = (HEAD.render(), DIM.render());
    let default = if row.default { ", the default" } else { "" };
    outln!(
        "{head}{}{} ({}{default}): {}",
        row.name,
        HEAD.render_reset(),
        row.kind,
        row.summary
    );
    outln!("  {dim}{}{}", row.source, DIM.render_reset());
    let lines: Vec<(&str, &str)> = if whole || row.name == row.from {
        row.axes.iter().map(|a| (a.axis, &*a.value)).collect()
    } else {
        row.differences.iter().map(|d| (d.axis, &*d.here)).collect()
    };
    let width = lines.iter().map(|(axis, _)| axis.len()).max().unwrap_or(0);
    for (axis, value) in lines {
        outln!("    {axis:width$}  {value}");
    }
}
