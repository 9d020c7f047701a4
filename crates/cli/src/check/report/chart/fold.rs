//! Stretches of a chart in which one thread alone makes one call after the other, and all go well: folded
//! into one bar where the chart would be wider than a screen.

use seamlock_check::{Counterexample, Row, What};

use super::time::width;

/// How wide a chart may be, in pixels, so that it and the names beside it stand on a screen of 1,280.
const SCREEN: f64 = 930.0;

/// The rows with as many stretches folded as it takes, those that take most room first.
pub fn folded(example: &Counterexample, mut rows: Vec<Row>) -> Vec<Row> {
    let total = |rows: &[Row]| rows.iter().map(width).sum::<f64>();
    while total(&rows) > SCREEN {
        let stretches = stretches(&rows).into_iter();
        let gains = stretches.map(|stretch| {
            let bar = bar(example, &rows[stretch.clone()]);
            (total(&rows[stretch.clone()]) - width(&bar), stretch, bar)
        });
        let widest = gains.max_by(|one, other| one.0.total_cmp(&other.0));
        match widest {
            Some((gain, stretch, bar)) if gain > 0.0 => {
                rows.splice(stretch, [bar]);
            }
            _ => break,
        }
    }
    rows
}

/// Runs of rows of one thread with at least two calls that went well.
fn stretches(rows: &[Row]) -> Vec<std::ops::Range<usize>> {
    let mut found = Vec::new();
    let mut from = 0;
    while from < rows.len() {
        let mine = |row: &&Row| row.thread == rows[from].thread && is_quiet(row);
        let mut until = from + rows[from..].iter().take_while(mine).count();
        // It begins and ends with a call.
        while until > from && rows[until - 1].what != What::Inner {
            until -= 1;
        }
        let calls = |row: &&Row| row.what == What::Inner;
        if rows[from..until].iter().filter(calls).count() > 1 {
            found.push(from..until);
        }
        from = until.max(from + 1);
        while rows.get(from).is_some_and(|row| row.what != What::Inner) {
            from += 1;
        }
    }
    found
}

/// A lock, or a whole call that went well.
fn is_quiet(row: &Row) -> bool {
    match row.what {
        What::Lock => true,
        What::Inner => !row.text.contains(['…', '→', ',']),
        _ => false,
    }
}

fn bar(example: &Counterexample, rows: &[Row]) -> Row {
    let (first, last) = (rows[0].first, rows[rows.len() - 1].last);
    let within = |at: usize| {
        let steps = example.steps[first..=last].iter().enumerate();
        let span = &example.spans[at];
        span.depth > 0
            && steps
                .clone()
                .any(|(nth, step)| span.has(step.thread, first + nth))
    };
    let calls = (0..example.spans.len()).filter(|at| within(*at)).count();
    let mut bar = rows[0].clone();
    (bar.what, bar.last) = (What::Inner, last);
    bar.text = format!("{calls} calls");
    bar
}
