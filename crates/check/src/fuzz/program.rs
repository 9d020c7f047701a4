//! Random programs of a few threads with locks, words, cells, queues and signals.

use std::fmt;

use fastrand::Rng;

use seamlock_sync::Mode;

/// What a thread does. Numbers are those of locks, words, cells and threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stmt {
    /// Takes a mutex around the body.
    Lock(u8, Vec<Stmt>),
    /// The same; a signal leads to the other branch.
    Killable(u8, Vec<Stmt>, Vec<Stmt>),
    /// Tries a mutex once.
    TryLock(u8, Vec<Stmt>, Vec<Stmt>),
    /// Takes a reader-writer lock around the body.
    Read(u8, Vec<Stmt>),
    /// The same, alone.
    Write(u8, Vec<Stmt>),
    /// Tries a lock word once.
    Try(u8, Mode, Vec<Stmt>, Vec<Stmt>),
    /// Tries a lock word until it is had.
    Retry(u8, Mode, Vec<Stmt>),
    /// Shares a lock word, and tries to have it alone.
    Promote(u8),
    /// Tries a lock word as the guest does.
    Guest(u8, Mode),
    /// Reads a cell.
    Load(u8),
    /// Writes a cell.
    Store(u8, u8),
    /// Adds to a cell, and sees what was there.
    Add(u8),
    /// Adds to a cell without looking.
    Bump(u8),
    /// Goes on by the value that was seen last.
    If(u8, Vec<Stmt>, Vec<Stmt>),
    /// Sleeps until a cell is not zero.
    Sleep(u8),
    /// Writes a cell and wakes the sleepers.
    Wake(u8),
    /// Sends a fatal signal to a thread.
    Signal(u8),
    /// Puts an entry on the list that a mutex guards.
    Enlist(u8),
    /// Empties that list, with the body for each entry, all under the mutex.
    Drain(u8, Vec<Stmt>),
}

/// What programs are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mix {
    /// All kinds of statements.
    #[default]
    Everything,
    /// Mostly blocking locks, nested at random.
    Locks,
    /// Mostly lock words and cells.
    Words,
}

/// A random program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    pub(crate) threads: Vec<Vec<Stmt>>,
}

/// Objects of each kind.
pub(crate) const OBJECTS: u8 = 2;

impl Program {
    /// The program that this seed makes.
    pub fn random(seed: u64, mix: Mix) -> Program {
        let mut rng = Rng::with_seed(seed);
        let threads = [2, 2, 3, 3, 4][rng.usize(0..5)];
        let budget = [0, 0, 8, 5, 3][threads];
        let mut maker = Maker {
            rng,
            mix,
            threads: threads as u8,
        };
        let threads = (0..threads)
            .map(|_| {
                let mut left = maker.rng.i32(budget / 2..=budget);
                maker.block(&mut left, 0)
            })
            .collect();
        Program { threads }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (slot, body) in self.threads.iter().enumerate() {
            writeln!(f, "t{slot}: {body:?}")?;
        }
        Ok(())
    }
}

struct Maker {
    rng: Rng,
    mix: Mix,
    threads: u8,
}

impl Maker {
    /// Statements worth about `left` operations.
    fn block(&mut self, left: &mut i32, depth: u32) -> Vec<Stmt> {
        let mut out = Vec::new();
        while *left > 0 && (out.is_empty() || self.rng.u32(0..4) > 0) {
            out.push(self.stmt(left, depth));
        }
        out
    }

    fn stmt(&mut self, left: &mut i32, depth: u32) -> Stmt {
        let object = self.rng.u8(0..OBJECTS);
        let simple = depth >= 3 || *left < 3;
        *left -= 1;
        let kind = match self.mix {
            _ if simple => self.rng.u32(100..112),
            Mix::Everything => self.rng.u32(0..124),
            Mix::Locks => [self.rng.u32(0..50), self.rng.u32(0..124)][self.rng.usize(0..2)],
            Mix::Words => self.rng.u32(50..112),
        };
        match kind {
            0..15 => Stmt::Lock(object, self.inside(left, depth)),
            15..22 => {
                let body = self.inside(left, depth);
                Stmt::Killable(object, body, self.maybe(left, depth))
            }
            22..30 => {
                let body = self.inside(left, depth);
                Stmt::TryLock(object, body, self.maybe(left, depth))
            }
            30..42 => Stmt::Read(object, self.inside(left, depth)),
            42..50 => Stmt::Write(object, self.inside(left, depth)),
            50..72 => {
                *left -= 1;
                let body = self.maybe(left, depth);
                Stmt::Try(object, self.mode(), body, self.maybe(left, depth))
            }
            72..78 => {
                *left -= 1;
                Stmt::Retry(object, self.mode(), self.maybe(left, depth))
            }
            78..81 => {
                *left -= 2;
                Stmt::Promote(object)
            }
            81..84 => {
                *left -= 1;
                Stmt::Guest(object, self.mode())
            }
            84..92 => {
                let value = self.rng.u8(0..2);
                Stmt::If(value, self.maybe(left, depth), self.maybe(left, depth))
            }
            92..96 => {
                *left -= 2;
                Stmt::Sleep(object)
            }
            96..100 => {
                *left -= 1;
                Stmt::Wake(object)
            }
            100..104 => Stmt::Load(object),
            104..108 => Stmt::Store(object, self.rng.u8(0..3)),
            108 => Stmt::Add(object),
            109 => Stmt::Bump(object),
            112..118 => {
                *left -= 1;
                Stmt::Enlist(object)
            }
            118..124 => Stmt::Drain(object, self.inside(left, depth)),
            _ if self.mix == Mix::Words => Stmt::Bump(object),
            _ => Stmt::Signal(self.rng.u8(0..self.threads)),
        }
    }

    /// A body inside a lock, which has to be given back too.
    fn inside(&mut self, left: &mut i32, depth: u32) -> Vec<Stmt> {
        *left -= 1;
        self.maybe(left, depth)
    }

    fn maybe(&mut self, left: &mut i32, depth: u32) -> Vec<Stmt> {
        if self.rng.u32(0..5) == 0 {
            Vec::new()
        } else {
            self.block(left, depth + 1)
        }
    }

    fn mode(&mut self) -> Mode {
        if self.rng.bool() {
            Mode::Shared
        } else {
            Mode::Exclusive
        }
    }
}
