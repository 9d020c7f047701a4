//! Operations against operations: what a sweep found.

use std::collections::BTreeMap;

use maud::{Markup, html};
use seamlock_races::sweep::{self, Key, Letter, OPERATIONS, Pair};

use super::super::cell::Answer;
use super::super::sweep::never;

/// The pairs of operations, under one discipline.
#[derive(Clone, Debug, Default)]
pub struct Matrix {
    /// The discipline, in words.
    pub title: String,
    /// What it comes to.
    pub sum: String,
    /// What it means that nothing is known of a pair.
    pub never: &'static str,
    /// The operations; a pair is in the row of one and the column of the other.
    pub operations: Vec<Named>,
    /// What pairs came to, by the places of both, the smaller first. A pair that is missing was not tried.
    pub spots: BTreeMap<(usize, usize), Spot>,
}

/// An operation.
#[derive(Clone, Debug)]
pub struct Named {
    /// Its short name.
    pub name: &'static str,
    /// The kernel's name.
    pub kernel: &'static str,
}

/// What one pair came to.
#[derive(Clone, Debug)]
pub struct Spot {
    /// What it came to.
    pub answer: Answer,
    /// In words.
    pub detail: String,
    /// The places of its findings in the report and their names, those that need both operations first.
    pub findings: Vec<(usize, String)>,
    /// Whether each of them needs one operation only.
    pub solo: bool,
}

impl Matrix {
    /// What was found by a sweep, as far as its operations ever meet.
    pub fn of_sweep(title: String, sum: String, matrix: &sweep::Matrix) -> Matrix {
        let all = 0..OPERATIONS.len();
        let meets = |a: &usize| all.clone().any(|b| matrix.pair(*a, b).is_some());
        let used: Vec<usize> = all.clone().filter(meets).collect();
        let named = |at: &usize| Named {
            name: OPERATIONS[*at].name(),
            kernel: OPERATIONS[*at].act.name(),
        };
        let mut spots = BTreeMap::new();
        for (row, a) in used.iter().enumerate() {
            for (column, b) in used.iter().enumerate().skip(row) {
                if let Some(pair) = matrix.pair(*a, *b) {
                    spots.insert((row, column), Spot::of(pair, matrix));
                }
            }
        }
        Matrix {
            title,
            sum,
            never: never(matrix),
            operations: used.iter().map(named).collect(),
            spots,
        }
    }

    /// As HTML.
    pub fn table(&self) -> Markup {
        html! {
            h3 { (self.title) }
            p.dim { (self.sum) }
            p.legend {
                span { i.good { "·" } "proved in every state" }
                span { i.bad { "F1" } "refuted: the finding as in docs/findings.md, + for others" }
                span { i.bad { "U1" } "refuted, and not described there" }
                span { i.solo { "F5" } "refuted, and one of the two is enough" }
                span { i.open { "?" } "not exhausted" }
                span { i.never {} (self.never) }
            }
            div.wide tabindex="0" {
                table.matrix {
                    thead {
                        tr {
                            th {}
                            @for of in &self.operations {
                                th title=(of.kernel) { div { span { (of.name) } } }
                            }
                        }
                    }
                    tbody {
                        @for (row, of) in self.operations.iter().enumerate() {
                            tr {
                                th scope="row" { span.dim { (of.kernel) } " " (of.name) }
                                @for column in 0..self.operations.len() {
                                    (self.spot(row, column))
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    fn spot(&self, row: usize, column: usize) -> Markup {
        let Some(spot) = self.spots.get(&(row.min(column), row.max(column))) else {
            return html! { td {} };
        };
        let names = (self.operations[row].name, self.operations[column].name);
        let title = format!("{} + {}: {}", names.0, names.1, spot.detail);
        html! {
            td class=(if spot.solo { "solo" } else { class(spot.answer) }) title=(title) {
                @match spot.findings.as_slice() {
                    [(at, first), more @ ..] => a href={ "#f" (at) } {
                        (first) @if more.iter().any(|(_, name)| name != first) { "+" }
                    },
                    [] if spot.answer == Answer::Proved => "·",
                    [] => (sign(spot.answer)),
                }
            }
        }
    }
}

impl Spot {
    fn of(pair: &Pair, matrix: &sweep::Matrix) -> Spot {
        let numbered = matrix.causes.iter().enumerate();
        let mine = numbered.filter(|(_, (key, _))| pair.causes.contains(*key));
        let mut mine: Vec<(bool, usize, String)> = mine
            .map(|(at, (key, cause))| (cause.is_solo(), at, matrix.name(key)))
            .collect();
        mine.sort_unstable();
        let mut words = Vec::new();
        if pair.proved > 0 {
            let (n, traces) = (pair.proved, pair.traces);
            words.push(format!("{n} cells proved, {traces} traces"));
        }
        for (word, states) in [
            ("refuted in", &pair.refuted),
            ("not exhausted in", &pair.open),
        ] {
            let state = |(name, cells): (&&str, &u64)| match cells {
                1 => (*name).to_owned(),
                many => format!("{name} ({many} cells)"),
            };
            let states: Vec<String> = states.iter().map(state).collect();
            if !states.is_empty() {
                words.push(format!("{word} {}", states.join(", ")));
            }
        }
        let named = |key: &Key| format!("{} {}: {}", matrix.name(key), key.oracle, key.cause);
        words.extend(pair.causes.iter().map(named));
        Spot {
            answer: match pair.letter() {
                Letter::Proved => Answer::Proved,
                Letter::NotExhausted => Answer::NotExhausted,
                Letter::Refuted => Answer::Refuted,
            },
            detail: words.join("; "),
            solo: !mine.is_empty() && mine.iter().all(|(solo, ..)| *solo),
            findings: mine.into_iter().map(|(_, at, name)| (at, name)).collect(),
        }
    }
}

/// The style of an answer.
pub fn class(answer: Answer) -> &'static str {
    match answer {
        Answer::Proved => "good",
        Answer::Refuted => "bad",
        Answer::NotExhausted | Answer::NoTd => "open",
    }
}

/// One character for an answer.
pub fn sign(answer: Answer) -> &'static str {
    match answer {
        Answer::Proved => "✓",
        Answer::Refuted => "✗",
        Answer::NotExhausted => "?",
        Answer::NoTd => "–",
    }
}
