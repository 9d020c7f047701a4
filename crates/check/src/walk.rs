//! Random walks: they refute, they never prove.

use fastrand::Rng;

use crate::clock::MAX_THREADS;
use crate::strategy::{Moment, Pick};

/// How a walk chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkKind {
    /// Every thread that can go on is as likely at every operation; only a thread whose operation is on
    /// an object that no other thread has ever used simply goes on.
    Uniform,
    /// PCT: threads have random priorities, and the one that is running loses its own at `depth - 1`
    /// random operations. Finds any bug that needs that many ordering constraints with a probability
    /// that is known. Burckhardt et al., ASPLOS 2010.
    Pct {
        /// The number of ordering constraints, 1 and up.
        depth: u32,
    },
}

/// Random executions, one after the other, all from one seed.
#[derive(Debug)]
pub(crate) struct Walk {
    kind: WalkKind,
    rng: Rng,
    // PCT: higher goes first. Priorities below MAX_THREADS are those of threads that lost theirs.
    priority: [u32; MAX_THREADS + 1],
    changes: Vec<usize>,
    longest: usize,
    steps: usize,
}

impl Walk {
    pub(crate) fn new(kind: WalkKind, seed: u64) -> Walk {
        Walk {
            kind,
            rng: Rng::with_seed(seed),
            priority: [0; MAX_THREADS + 1],
            changes: Vec::new(),
            longest: 32,
            steps: 0,
        }
    }

    pub(crate) fn restart(&mut self) {
        self.longest = self.longest.max(self.steps);
        self.steps = 0;
        let WalkKind::Pct { depth } = self.kind else {
            return;
        };
        let mut order: Vec<u32> = (0..=MAX_THREADS as u32).collect();
        self.rng.shuffle(&mut order);
        for (slot, rank) in order.into_iter().enumerate() {
            self.priority[slot] = 1000 + rank;
        }
        let longest = self.longest;
        self.changes.clear();
        for _ in 1..depth {
            self.changes.push(self.rng.usize(0..longest));
        }
        self.changes.sort_unstable_by(|a, b| b.cmp(a));
    }

    pub(crate) fn pick(&mut self, moment: &Moment<'_>) -> Pick {
        self.steps = moment.depth + 1;
        Pick::Run(match self.kind {
            WalkKind::Uniform => self.any(moment.enabled),
            WalkKind::Pct { .. } => self.first(moment),
        })
    }

    fn any(&mut self, enabled: u16) -> u8 {
        random_bit(&mut self.rng, enabled)
    }

    fn first(&mut self, moment: &Moment<'_>) -> u8 {
        let best = self.highest(moment.enabled);
        // The last is the next, and the lowest priority goes to the last change.
        match self.changes.last() {
            Some(&at) if at <= moment.depth => {
                self.changes.pop();
                self.priority[usize::from(best)] = self.changes.len() as u32;
                self.highest(moment.enabled)
            }
            _ => best,
        }
    }

    fn highest(&self, enabled: u16) -> u8 {
        let threads = (0..16u8).filter(|&t| enabled & (1 << t) != 0);
        threads
            .max_by_key(|&t| self.priority[usize::from(t)])
            .unwrap_or(0)
    }
}

/// One of the set bits of a mask that is not empty.
pub(crate) fn random_bit(rng: &mut Rng, mask: u16) -> u8 {
    let mut left = mask;
    for _ in 0..rng.u32(0..mask.count_ones().max(1)) {
        left &= left - 1;
    }
    left.trailing_zeros() as u8
}
