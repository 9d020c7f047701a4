//! Where on the time axis an operation is.

use seamlock_check::{Row, What};

/// Width of a character of the chart's font.
const CHARACTER: f64 = 6.7;

/// The time axis: for each line of the outline its operations and where it is.
#[derive(Debug)]
pub struct Time {
    columns: Vec<(usize, usize, f64, f64)>,
}

/// How much room words take.
pub fn width_of(words: &str) -> f64 {
    words.chars().count() as f64 * CHARACTER
}

/// What stands in the bar of a line: of a call that goes on, that it does, and of a SEAMCALL what its lane
/// does not say.
pub fn label(row: &Row) -> String {
    if row.text.starts_with('…') {
        return "goes on".to_owned();
    }
    let end = row.text.find([',', '→', '…']).unwrap_or(row.text.len());
    let text = row.text[..end].trim();
    text.strip_prefix("TDH.").unwrap_or(text).to_owned()
}

/// How much room a line takes.
pub fn width(row: &Row) -> f64 {
    match row.what {
        What::Inner => width_of(&label(row)) + 12.0,
        What::Busy => 46.0,
        What::Lock | What::Other => 18.0,
        What::Begins | What::Ends => 10.0,
    }
}

impl Time {
    /// The axis for these lines.
    pub fn of(rows: &[Row]) -> Time {
        let mut x = 0.0;
        let column = |row: &Row| {
            let width = width(row);
            x += width;
            (row.first, row.last, x - width, width)
        };
        Time {
            columns: rows.iter().map(column).collect(),
        }
    }

    /// Where the last line ends.
    pub fn width(&self) -> f64 {
        self.columns
            .last()
            .map_or(0.0, |column| column.2 + column.3)
    }

    /// Where a line begins, by its place among all. Several lines can begin with one operation.
    pub fn line(&self, at: usize) -> f64 {
        self.columns.get(at).map_or(0.0, |column| column.2)
    }

    /// Where an operation begins.
    pub fn start(&self, operation: usize) -> f64 {
        self.at(operation, 0)
    }

    /// Where it ends.
    pub fn end(&self, operation: usize) -> f64 {
        self.at(operation, 1)
    }

    fn at(&self, operation: usize, more: usize) -> f64 {
        let after = self.columns.partition_point(|column| column.0 <= operation);
        let Some(&(first, last, x, width)) = self.columns[..after].last() else {
            return 0.0;
        };
        let done = (operation + more - first) as f64 / (last + 1 - first) as f64;
        x + width * done.min(1.0)
    }
}
