//! Operations against operations: what a sweep found.

use maud::{Markup, html};

use super::super::cell::Answer;

/// The pairs of operations in one state of a VM, under one discipline.
#[derive(Clone, Debug, Default)]
pub struct Matrix {
    /// The state and the discipline, in words.
    pub title: String,
    /// The operations; a pair is in the row of one and the column of the other.
    pub operations: Vec<String>,
    /// What pairs came to. A pair that is missing was not tried.
    pub spots: Vec<Spot>,
}

/// What one pair came to.
#[derive(Clone, Debug)]
pub struct Spot {
    /// Index of the one operation.
    pub row: usize,
    /// Index of the other.
    pub column: usize,
    /// What it came to.
    pub answer: Answer,
    /// Traces of a proof, or what was violated.
    pub detail: String,
    /// The number of the finding in the report, if it is one of those.
    pub finding: Option<usize>,
}

impl Matrix {
    /// As HTML.
    pub fn table(&self) -> Markup {
        let count = |answer| self.spots.iter().filter(|s| s.answer == answer).count();
        html! {
            h3 { (self.title) }
            p.dim {
                (count(Answer::Proved)) " proved, " (count(Answer::Refuted)) " refuted, "
                (count(Answer::NotExhausted)) " not exhausted"
            }
            div.wide {
                table.matrix {
                    thead {
                        tr {
                            th {}
                            @for name in &self.operations { th { div { span { (name) } } } }
                        }
                    }
                    tbody {
                        @for (row, name) in self.operations.iter().enumerate() {
                            tr {
                                th { (name) }
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
        let at = |spot: &&Spot| {
            let (a, b) = (spot.row, spot.column);
            (a, b) == (row, column) || (b, a) == (row, column)
        };
        let Some(spot) = self.spots.iter().find(at) else {
            return html! { td {} };
        };
        let names = (&self.operations[row], &self.operations[column]);
        let title = format!("{} and {}: {}", names.0, names.1, spot.detail);
        html! {
            td class=(class(spot.answer)) title=(title) {
                @match spot.finding {
                    Some(finding) => a href={"#f" (finding)} { (sign(spot.answer)) },
                    None => (sign(spot.answer)),
                }
            }
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
