//! Who goes on next: the ways to choose.

use crate::access::Accesses;
use crate::dfs::Dfs;
use crate::dpor::Dpor;
use crate::engine::End;
use crate::follow::Follow;
use crate::object::Objects;
use crate::thread::Thread;
use crate::wakeup::Item;
use crate::walk::Walk;

/// What a choice is made from.
pub(crate) struct Moment<'a> {
    /// How many operations were done.
    pub(crate) depth: usize,
    /// The threads that can go on; not empty.
    pub(crate) enabled: u16,
    /// The thread that went on last.
    pub(crate) running: u8,
    /// All threads.
    pub(crate) threads: &'a [Thread],
    /// What they do something to.
    pub(crate) objects: &'a Objects,
}

impl Moment<'_> {
    /// The choice with the fewest switches among `allowed`, a subset of the enabled threads.
    #[inline]
    pub(crate) fn stay(&self, allowed: u16) -> u8 {
        if self.running < 16 && allowed & (1 << self.running) != 0 {
            return self.running;
        }
        allowed.trailing_zeros() as u8
    }
}

/// A choice.
pub(crate) enum Pick {
    /// This thread goes on.
    Run(u8),
    /// The execution ends here, for this reason.
    Stop(End),
    /// This was planned from an execution before, and the thread cannot do it now.
    Unplanned(Item),
}

/// A way to choose.
#[derive(Debug)]
pub(crate) enum Strategy {
    /// None: nothing runs now.
    Idle,
    /// At random.
    Walk(Walk),
    /// All of them.
    Dfs(Dfs),
    /// One of each trace.
    Dpor(Box<Dpor>),
    /// As a schedule says.
    Follow(Follow),
}

impl Strategy {
    /// Whether the choice needs to know what happens before what.
    pub(crate) fn needs_clocks(&self) -> bool {
        !matches!(self, Strategy::Walk(_) | Strategy::Idle)
    }

    /// Another execution starts; returns how many of its events must be those of the one before.
    pub(crate) fn restart(&mut self) -> usize {
        match self {
            Strategy::Walk(walk) => walk.restart(),
            Strategy::Dfs(dfs) => return dfs.known(),
            Strategy::Dpor(dpor) => return dpor.known(),
            Strategy::Follow(_) | Strategy::Idle => {}
        }
        0
    }

    /// The thread that must go on at this depth, if that was decided before the execution.
    #[inline]
    pub(crate) fn forced(&self, depth: usize) -> Option<u8> {
        match self {
            Strategy::Dpor(dpor) => dpor.forced(depth),
            Strategy::Dfs(dfs) => dfs.forced(depth),
            Strategy::Walk(_) | Strategy::Follow(_) | Strategy::Idle => None,
        }
    }

    /// Whether the running thread simply goes on, with an operation that concerns no other.
    #[inline]
    pub(crate) fn goes_on(&mut self, thread: u8) -> bool {
        match self {
            Strategy::Walk(_) => true,
            Strategy::Dpor(dpor) => dpor.goes_on(thread),
            Strategy::Dfs(_) | Strategy::Follow(_) | Strategy::Idle => false,
        }
    }

    /// Chooses.
    pub(crate) fn pick(&mut self, moment: &Moment<'_>) -> Pick {
        match self {
            Strategy::Walk(walk) => walk.pick(moment),
            Strategy::Dfs(dfs) => dfs.pick(moment),
            Strategy::Dpor(dpor) => dpor.pick(moment),
            Strategy::Follow(follow) => follow.pick(moment),
            Strategy::Idle => Pick::Stop(End::Diverged),
        }
    }

    /// An operation with these effects was chosen at this depth.
    #[inline]
    pub(crate) fn committed(&mut self, depth: usize, accesses: &Accesses, threads: &[Thread]) {
        if let Strategy::Dpor(dpor) = self {
            dpor.committed(depth, accesses, threads);
        }
    }
}
