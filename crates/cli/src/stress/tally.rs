//! How many calls of each kind there were, how they ended and what they took.

use std::collections::BTreeMap;
use std::time::Duration;

use seamlock_kvm::Error;
use seamlock_tdx_abi::kvm::Errno;

use super::ops::OPS;

/// Calls of which one should have succeeded.
const MANY: u64 = 1_000;

/// One operation.
#[derive(Clone, Debug)]
pub struct Row {
    /// Calls.
    pub calls: u64,
    /// Time in all of them.
    pub spent: Duration,
    /// The quickest.
    pub quickest: Duration,
    /// How often each error was answered.
    pub errors: BTreeMap<Errno, u64>,
}

impl Default for Row {
    fn default() -> Row {
        Row {
            calls: 0,
            spent: Duration::ZERO,
            quickest: Duration::MAX,
            errors: BTreeMap::new(),
        }
    }
}

/// All operations.
#[derive(Clone, Debug)]
pub struct Tally {
    /// By place in [`OPS`].
    pub rows: Vec<Row>,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally {
            rows: vec![Row::default(); OPS.len()],
        }
    }
}

impl Tally {
    /// Notes a call.
    pub fn note(&mut self, op: usize, spent: Duration, error: Option<&Error>) {
        let row = &mut self.rows[op];
        row.calls += 1;
        row.spent += spent;
        row.quickest = row.quickest.min(spent);
        if let Some(error) = error {
            *row.errors.entry(error.errno).or_default() += 1;
        }
    }

    /// Calls of all kinds.
    pub fn calls(&self) -> u64 {
        self.rows.iter().map(|row| row.calls).sum()
    }

    /// A command that KVM never granted, however often it was asked, and with which errors: what comes
    /// after it was not tested either. The first of them in the life of a TD.
    pub fn never_granted(&self) -> Option<(&'static str, &Row)> {
        let rows = OPS.iter().zip(&self.rows).map(|(op, row)| (op.name, row));
        let mut commands = rows.filter(|(name, _)| name.starts_with("KVM_TDX_"));
        commands.find(|(_, row)| {
            let refused: u64 = row.errors.values().sum();
            row.calls >= MANY && refused == row.calls
        })
    }

    /// Adds another thread's.
    pub fn add(&mut self, other: &Tally) {
        for (row, more) in self.rows.iter_mut().zip(&other.rows) {
            row.calls += more.calls;
            row.spent += more.spent;
            row.quickest = row.quickest.min(more.quickest);
            for (errno, times) in &more.errors {
                *row.errors.entry(*errno).or_default() += times;
            }
        }
    }
}
