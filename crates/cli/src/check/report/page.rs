//! The page: a table, matrices, and a section for each finding.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::finding::section;
use super::matrix::{class, sign};
use super::{Finding, Report};
use crate::check::cell::{Answer, Cell};

const STYLE: &str = include_str!("style.css");

/// The whole page.
pub fn page(report: &Report<'_>) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "seamlock check" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "seamlock check" }
                    p.dim {
                        "KVM's and the TDX module's own code, run under every interleaving that can differ. "
                        code { (report.command) }
                    }
                }
                main {
                    @if !report.races.is_empty() { (races(report)) }
                    @if !report.sweeps.is_empty() {
                        section {
                            h2 { "The sweep" }
                            @for matrix in &report.sweeps { (matrix.table()) }
                        }
                        (overview(report))
                    }
                    @if !report.findings.is_empty() {
                        h2 { "What goes wrong, and how" }
                        (legend())
                        @for (number, finding) in report.findings.iter().enumerate() {
                            (section(number, finding))
                        }
                    }
                }
            }
        }
    }
}

fn races(report: &Report<'_>) -> Markup {
    let mut columns: Vec<&str> = Vec::new();
    for cell in report.races {
        if !columns.contains(&cell.discipline) {
            columns.push(cell.discipline);
        }
    }
    let differ = report
        .races
        .iter()
        .filter(|cell| cell.as_known == Some(false))
        .count();
    html! {
        section {
            h2 { "Races against locking disciplines" }
            div.wide {
                table.races {
                    thead {
                        tr { th { "race" } @for name in &columns { th { (name) } } }
                    }
                    tbody {
                        @for row in report.races.chunks(columns.len().max(1)) {
                            tr {
                                th { b { (row[0].race) } span.dim { (row[0].what) } }
                                @for cell in row { (spot(cell, &report.findings)) }
                            }
                        }
                    }
                }
            }
            p.dim {
                (count(report, Answer::Proved)) " ✓ proved: every trace was run, so many of them. "
                (count(report, Answer::Refuted)) " ✗ refuted: see below how. "
                @if differ == 0 { "Each answer is what is known of the discipline." }
                @else { (differ) " answers differ from what is known (!)." }
            }
        }
    }
}

/// The findings, each a line.
fn overview(report: &Report<'_>) -> Markup {
    html! {
        @if report.findings.is_empty() { p { "Nothing goes wrong." } }
        @else {
            table.overview {
                thead { tr { th {} th { "what goes wrong" } th { "when" } th { "cells" } } }
                tbody {
                    @for (number, finding) in report.findings.iter().enumerate() {
                        @let violation = &finding.example.violation;
                        tr {
                            td { a.tag href={ "#f" (number) } { (finding.name) } }
                            td {
                                (violation.oracle) ": " (violation.cause)
                                @if let Some(what) = finding.described { br; span.dim { (what) } }
                            }
                            td { (finding.what) }
                            td.number { (finding.seen.len().max(1)) }
                        }
                    }
                }
            }
        }
    }
}

fn count(report: &Report<'_>, answer: Answer) -> usize {
    report
        .races
        .iter()
        .filter(|cell| cell.verdict == answer)
        .count()
}

fn spot(cell: &Cell, findings: &[Finding<'_>]) -> Markup {
    let shows = |finding: &Finding<'_>| {
        let cause = cell
            .example
            .as_ref()
            .map(|example| &example.violation.cause);
        finding.name == cell.race && cause == Some(&finding.example.violation.cause)
    };
    let finding = findings.iter().position(shows);
    let number = match cell.verdict {
        Answer::Proved => many(cell.traces.unwrap_or(0), "trace"),
        _ => many(cell.executions, "run"),
    };
    html! {
        td class=(class(cell.verdict)) title=(cell.detail) {
            @let text = format!("{} {}", sign(cell.verdict), cell.verdict.word());
            @match finding {
                Some(at) => a href={ "#f" (at) } { (text) },
                None => (text),
            }
            @if cell.as_known == Some(false) { b { " !" } }
            span.dim { (number) ", " (cell.ms) " ms" }
        }
    }
}

fn many(number: u64, what: &str) -> String {
    let end = if number == 1 { "" } else { "s" };
    format!("{number} {what}{end}")
}

fn legend() -> Markup {
    html! {
        p.legend {
            span { i.runs {} "runs" }
            span { i.call {} "call" }
            span { i.inner {} "SEAMCALL" }
            span { i.lock {} "held alone" }
            span { i.lock.shared {} "shared" }
            span { i.busy {} "not to be had" }
            span { i.cell {} "state that others read or change" }
            span { i.end { "✗" } "the violation" }
        }
    }
}
