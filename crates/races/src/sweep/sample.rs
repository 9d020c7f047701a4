//! Which cells come first when there is no time for all of them.

use std::collections::BTreeMap;
use std::fmt;

use fastrand::Rng;

use super::{By, Cell, STATES};

/// Who takes part in a cell, and how many of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Company {
    /// Operations of user space.
    pub user: u8,
    /// Operations of the host.
    pub host: u8,
    /// Operations of the scheduler.
    pub scheduler: u8,
}

impl Company {
    /// Of a cell.
    pub fn of(cell: &Cell) -> Company {
        let mut company = Company::default();
        for operation in &cell.operations {
            match operation.by {
                By::User => company.user += 1,
                By::Host => company.host += 1,
                By::Scheduler => company.scheduler += 1,
            }
        }
        company
    }
}

impl fmt::Display for Company {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            (self.user, "user"),
            (self.host, "host"),
            (self.scheduler, "scheduler"),
        ];
        let mut words = counts
            .iter()
            .flat_map(|&(n, word)| (0..n).map(move |_| word));
        f.write_str(words.next().unwrap_or("nobody"))?;
        words.try_for_each(|word| write!(f, "+{word}"))
    }
}

/// Puts cells into an order whose every beginning has its share of each state and company, chosen at
/// random. The same cells and the same seed give the same order.
pub fn spread(cells: &mut Vec<Cell>, seed: u64) {
    let mut kinds: BTreeMap<(usize, Company), Vec<Cell>> = BTreeMap::new();
    for cell in cells.drain(..) {
        let state = STATES
            .iter()
            .position(|state| state.name == cell.state.name);
        let kind = (state.unwrap_or(STATES.len()), Company::of(&cell));
        kinds.entry(kind).or_default().push(cell);
    }
    let mut rng = Rng::with_seed(seed);
    let mut placed = Vec::new();
    for mut kind in kinds.into_values() {
        rng.shuffle(&mut kind);
        // Number n of a kind comes when (2n + 1) of its 2 size halves of everything are done.
        let size = kind.len() as u64;
        let place = |(n, cell)| (((2 * n as u64 + 1) << 32) / size, cell);
        placed.extend(kind.into_iter().enumerate().map(place));
    }
    placed.sort_by_key(|(place, _)| *place);
    cells.extend(placed.into_iter().map(|(_, cell)| cell));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::cells;

    #[test]
    fn every_beginning_has_its_share_of_each_kind_and_nothing_is_lost() {
        let names = |cells: &[Cell]| cells.iter().map(Cell::to_string).collect::<Vec<_>>();
        let all = cells(3);
        let mut some = all.clone();
        spread(&mut some, 1);
        let count = |cells: &[Cell]| {
            let mut counts: BTreeMap<(&str, Company), usize> = BTreeMap::new();
            for cell in cells {
                *counts
                    .entry((cell.state.name, Company::of(cell)))
                    .or_default() += 1;
            }
            counts
        };
        let (whole, tenth) = (count(&all), count(&some[..all.len() / 10]));
        for (kind, size) in &whole {
            let had = tenth.get(kind).copied().unwrap_or(0);
            assert!(had.abs_diff(size / 10) <= 1, "{kind:?}: {had} of {size}");
        }
        let (mut sorted, mut known) = (names(&some), names(&all));
        sorted.sort();
        known.sort();
        assert_eq!(sorted, known);
        let mut again = all.clone();
        spread(&mut again, 1);
        assert_eq!(names(&again), names(&some));
        spread(&mut again, 2);
        assert_ne!(names(&again), names(&some));
    }

    #[test]
    fn a_company_is_told_in_words() {
        let cell: Cell = "runnable/run0+punch+kill".parse().expect("a cell");
        assert_eq!(Company::of(&cell).to_string(), "user+user+scheduler");
    }
}
