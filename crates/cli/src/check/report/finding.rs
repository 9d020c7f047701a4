//! One finding: the chart, what happens step by step, and how to do it again.

use maud::{Markup, html};
use seamlock_check::{Counterexample, Row, What};

use super::Finding;
use super::chart::chart;
use crate::check::place::quoted;

/// A finding as a section of the page.
pub fn section(number: usize, finding: &Finding<'_>) -> Markup {
    let example = finding.example;
    let places: Vec<&str> = finding
        .replays
        .iter()
        .map(|replay| replay.0.as_str())
        .collect();
    html! {
        section.finding id={ "f" (number) } {
            h3 { span.tag { (finding.name) } " " (finding.described.unwrap_or(&finding.what)) }
            @if finding.described.is_some() { p { (finding.what) } }
            p.violation {
                b { (example.violation.oracle) } ": " (example.violation.cause)
                @if !example.violation.detail.is_empty() {
                    br; span.dim { (example.violation.detail) }
                }
            }
            p.dim {
                "in " (places.join(", ")) " · " (example.steps.len()) " operations, "
                (switches(example.schedule.switches())) " between threads"
                @if let Some(size) = &finding.size { " · " (size) }
            }
            (chart(example))
            (moment(example))
            @if let Some((_, replay)) = finding.replays.first() { (again(replay)) }
            details {
                summary { "step by step" }
                (steps(example))
            }
            @if finding.replays.len() > 1 {
                details {
                    summary { "the same elsewhere: " (places[1..].join(", ")) }
                    @for (place, replay) in &finding.replays[1..] {
                        p.dim { (place) }
                        (again(replay))
                    }
                }
            }
            @if finding.seen.len() > 1 {
                details {
                    summary { "seen in " (finding.seen.len()) " cells" }
                    p.seen { (finding.seen.join(", ")) }
                }
            }
        }
    }
}

/// The command that does it again.
fn again(replay: &str) -> Markup {
    html! { pre.replay tabindex="0" { "seamlock check --replay " (quoted(replay)) } }
}

fn switches(number: usize) -> String {
    match number {
        1 => "1 switch".to_owned(),
        many => format!("{many} switches"),
    }
}

/// Where each thread is at the end.
fn moment(example: &Counterexample) -> Markup {
    html! {
        ul.moment {
            @for line in example.moment() { li { (line) } }
        }
    }
}

fn steps(example: &Counterexample) -> Markup {
    let rows = example.outline();
    let acts = |thread: &usize| rows.iter().any(|row| row.thread == *thread);
    let threads: Vec<usize> = (0..example.threads.len()).filter(acts).collect();
    html! {
        div.wide {
            table.steps {
                thead { tr { th { "#" } @for t in &threads { th { (example.threads[*t]) } } } }
                tbody {
                    @for row in &rows {
                        tr class=(class(row)) {
                            td.dim { (row.first) }
                            @for thread in &threads {
                                td { @if row.thread == *thread { (words(row)) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn words(row: &Row) -> Markup {
    html! {
        (row.text)
        @if let Some(function) = &row.function { " " span.dim { "in " (function) "()" } }
    }
}

fn class(row: &Row) -> &'static str {
    match row.what {
        What::Begins | What::Ends => "edge",
        What::Busy => "alarm",
        What::Inner => "within",
        What::Lock | What::Other => "",
    }
}
