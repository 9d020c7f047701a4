//! Lines of several threads side by side: one column per thread, time downwards.

use std::fmt::{self, Formatter};

use crate::counterexample::Counterexample;

/// A number, the thread whose line it is, and its words.
pub(crate) type Line = (usize, usize, String);

/// The width of everything.
const WIDEST: usize = 120;
/// Room for the number on the left.
const NUMBER: usize = 6;
/// Space between columns.
const SPACE: usize = 2;
/// A column that is narrower than this is none: the threads' names then stand in front of the lines.
const NARROWEST: usize = 32;
/// How far a line that goes on is indented.
const INDENT: usize = 4;

/// Writes the lines, with the threads' names above.
pub(crate) fn columns(
    example: &Counterexample,
    lines: &[Line],
    f: &mut Formatter<'_>,
) -> fmt::Result {
    let heads: Vec<String> = (0..example.threads.len())
        .map(|thread| head(example, thread))
        .collect();
    let natural: Vec<usize> = (0..heads.len())
        .map(|thread| width_of(&heads[thread], thread, lines))
        .collect();
    let Some(widths) = fit(&natural) else {
        return one_column(example, lines, f);
    };
    let mut first = String::new();
    let shown = heads.iter().zip(&widths).filter(|column| *column.1 > 0);
    for (head, width) in shown {
        first += &format!("{head:<width$}{:SPACE$}", "");
    }
    writeln!(f, "{:NUMBER$}{}", "", first.trim_end())?;
    for (number, thread, text) in lines {
        let before = widths[..*thread].iter().filter(|width| **width > 0);
        let indent: usize = before.map(|width| width + SPACE).sum();
        for (nth, part) in wrap(text, widths[*thread]).iter().enumerate() {
            let number = if nth == 0 {
                number.to_string()
            } else {
                String::new()
            };
            writeln!(f, "{number:>4}  {:indent$}{part}", "")?;
        }
    }
    Ok(())
}

/// Writes a text that belongs to no column.
pub(crate) fn remarks(text: &str, f: &mut Formatter<'_>) -> fmt::Result {
    let parts = wrap(text, WIDEST - NUMBER);
    let mut parts = parts.iter().filter(|part| !part.is_empty());
    parts.try_for_each(|part| writeln!(f, "{:NUMBER$}{part}", ""))
}

/// What stands above the column of a thread.
fn head(example: &Counterexample, thread: usize) -> String {
    let about = example.about.get(thread).map_or("", String::as_str);
    let space = if about.is_empty() { "" } else { " " };
    format!("{}{space}{about}", example.threads[thread])
}

fn one_column(example: &Counterexample, lines: &[Line], f: &mut Formatter<'_>) -> fmt::Result {
    let names = example.threads.iter().map(|name| name.chars().count());
    let widest = names.max().unwrap_or(0);
    for (number, thread, text) in lines {
        writeln!(
            f,
            "{number:>4}  {:<widest$}  {text}",
            example.threads[*thread]
        )?;
    }
    Ok(())
}

fn width_of(head: &str, thread: usize, lines: &[Line]) -> usize {
    let mine = lines.iter().filter(|line| line.1 == thread);
    let widest = mine.map(|line| line.2.chars().count()).max();
    // A thread that does nothing needs no column.
    widest.map_or(0, |widest| widest.max(head.chars().count()))
}

/// Narrows the widest columns until all fit, or returns nothing when they get too narrow for that.
fn fit(natural: &[usize]) -> Option<Vec<usize>> {
    let mut widths = natural.to_vec();
    let gaps = natural.iter().filter(|width| **width > 0).count() * SPACE;
    let room = WIDEST.saturating_sub(NUMBER + gaps);
    while widths.iter().sum::<usize>() > room {
        let widest = widths.iter_mut().max()?;
        if *widest <= NARROWEST {
            return None;
        }
        *widest -= 1;
    }
    Some(widths)
}

/// Breaks a line at spaces; what goes on is indented.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    let mut part = String::new();
    // Two spaces in front of a remark are kept.
    for word in text.split_inclusive(' ') {
        let used = part.chars().count() + word.trim_end().chars().count();
        let full = used > width && part.chars().count() > INDENT;
        if full && !part.trim().is_empty() {
            parts.push(part.trim_end().to_owned());
            part = " ".repeat(INDENT);
            if word.trim().is_empty() {
                continue;
            }
        }
        part += word;
    }
    parts.push(part.trim_end().to_owned());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_broken_where_it_is_too_long_for_its_column() {
        let text = "TDH.VP.INIT has what others want  [tdx_td_vcpu_init]";
        assert_eq!(wrap(text, 80), [text]);
        let parts = wrap(text, 24);
        assert_eq!(
            parts,
            [
                "TDH.VP.INIT has what",
                "    others want",
                "    [tdx_td_vcpu_init]"
            ]
        );
        assert!(parts.iter().all(|part| part.chars().count() <= 24));
        assert_eq!(wrap("a_word_that_is_too_long_for_it b", 8).len(), 2);
        assert_eq!(wrap("", 8), [""]);
    }

    #[test]
    fn the_widest_columns_give_room_and_too_many_threads_have_no_columns() {
        assert_eq!(fit(&[30, 40]), Some(vec![30, 40]));
        assert_eq!(fit(&[30, 0, 90]), Some(vec![30, 0, 80]));
        let narrow = fit(&[90, 90]).expect("two columns");
        assert_eq!(narrow.iter().sum::<usize>() + NUMBER + 2 * SPACE, WIDEST);
        assert_eq!(fit(&[60; 5]), None);
    }
}
