//! One program, explored twice.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::rc::Rc;

use crate::clock::mix;
use crate::dfs::Dfs;
use crate::dpor::{Dpor, Faults};
use crate::engine::{End, Engine};
use crate::fuzz::program::{Mix, Program};
use crate::fuzz::world::{World, build};
use crate::log::Event;
use crate::scenario::Setup;
use crate::sched::Scheduler;
use crate::strategy::Strategy;
use crate::verdict::CheckError;

/// A random program that the checker explores otherwise than plain search does.
#[derive(Clone, Debug)]
pub struct Mismatch {
    /// The seed that makes the program.
    pub seed: u64,
    /// The program.
    pub program: Program,
    /// What differs.
    pub what: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: {}\n{}", self.seed, self.what, self.program)
    }
}

/// What exploring a program gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Different traces.
    pub traces: u64,
    /// Schedules that plain search ran.
    pub schedules: u64,
    /// Whether some schedule ends in a deadlock.
    pub deadlock: bool,
}

/// What exploring many programs gave.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Programs that were compared.
    pub compared: u64,
    /// Programs with too many schedules for plain search.
    pub too_large: u64,
    /// Programs with a deadlock.
    pub deadlocks: u64,
    /// Traces of all programs.
    pub traces: u64,
    /// Schedules of all programs.
    pub schedules: u64,
    /// Programs that differed.
    pub mismatches: Vec<Mismatch>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} programs compared ({} too large), {} of them can deadlock; {} schedules, {} traces; {} \
             mismatches",
            self.compared,
            self.too_large,
            self.deadlocks,
            self.schedules,
            self.traces,
            self.mismatches.len()
        )
    }
}

/// Compares `count` programs from this seed on. Programs with more than `limit` schedules are left out.
pub fn compare_many(seed: u64, count: u64, mix: Mix, limit: u64, faults: Faults) -> Summary {
    let mut summary = Summary::default();
    for seed in seed..seed.saturating_add(count) {
        let program = Program::random(seed, mix);
        match compare(&program, limit, seed, faults) {
            Ok(None) => summary.too_large += 1,
            Ok(Some(compared)) => {
                summary.compared += 1;
                summary.traces += compared.traces;
                summary.schedules += compared.schedules;
                summary.deadlocks += u64::from(compared.deadlock);
            }
            Err(what) => {
                summary.compared += 1;
                summary.mismatches.push(Mismatch {
                    seed,
                    program,
                    what,
                });
            }
        }
    }
    summary
}

/// Explores a program by plain search, and by the checker both with few switches and at random.
/// `None` when it has more than `limit` schedules.
///
/// # Errors
/// What differs.
pub fn compare(
    program: &Program,
    limit: u64,
    seed: u64,
    faults: Faults,
) -> Result<Option<Compared>, String> {
    let plain = explore(program, Strategy::Dfs(Dfs::default()), limit);
    let Some(plain) = plain.map_err(|error| format!("plain search: {error}"))? else {
        return Ok(None);
    };
    for random in [None, Some(seed)] {
        let strategy = Strategy::Dpor(Box::new(Dpor::new(random, faults)));
        let how = if random.is_some() {
            "at random"
        } else {
            "with few switches"
        };
        match explore(program, strategy, limit.saturating_mul(4)) {
            Err(error) => return Err(format!("{how}: {error}")),
            Ok(None) => return Err(format!("{how}: it does not end")),
            Ok(Some(seen)) => plain.same(&seen).map_err(|what| format!("{how}: {what}"))?,
        }
    }
    Ok(Some(Compared {
        traces: plain.traces.len() as u64,
        schedules: plain.executions,
        deadlock: plain.deadlock,
    }))
}

/// What an exploration has seen.
#[derive(Default)]
struct Seen {
    executions: u64,
    traces: BTreeSet<u64>,
    hashes: BTreeSet<u64>,
    states: BTreeSet<u64>,
    deadlock: bool,
}

impl Seen {
    fn same(&self, checker: &Seen) -> Result<(), String> {
        let (wanted, found) = (self.traces.len(), checker.traces.len());
        if self.traces != checker.traces {
            return Err(format!("{found} traces of {wanted}"));
        }
        if checker.executions != wanted as u64 {
            return Err(format!(
                "{} executions for {wanted} traces",
                checker.executions
            ));
        }
        if checker.hashes.len() != wanted {
            return Err(format!(
                "{} trace hashes for {wanted} traces",
                checker.hashes.len()
            ));
        }
        if self.states != checker.states {
            let (found, wanted) = (checker.states.len(), self.states.len());
            return Err(format!("{found} final states of {wanted}"));
        }
        Ok(())
    }

    fn add(&mut self, engine: &Engine, end: End, world: &World) {
        self.executions += 1;
        self.traces.insert(normal_form(engine));
        let hash = |event| crate::dpor::hash(engine, event);
        self.hashes.insert(
            engine
                .log
                .done()
                .iter()
                .map(hash)
                .fold(0, u64::wrapping_add),
        );
        self.deadlock |= end == End::Deadlock;
        // A deadlocked world is judged by who is left with what; its words were not all given back.
        let left = engine.threads.iter().map(|thread| match &thread.pending {
            Some(pending) => mix(engine.name_of(pending).fingerprint() ^ pending.action as u64),
            None => 1,
        });
        self.states
            .insert(left.fold(world.digest(), |hash, left| mix(hash ^ left)));
    }
}

fn explore(program: &Program, strategy: Strategy, limit: u64) -> Result<Option<Seen>, CheckError> {
    let last: RefCell<Option<Rc<World>>> = RefCell::default();
    let scheduler = Scheduler::new(strategy, 1000);
    let scenario = |setup: &mut Setup| build(program, setup, &last);
    let mut seen = Seen::default();
    loop {
        if seen.executions >= limit {
            return Ok(None);
        }
        let ran = scheduler.run(&scenario)?;
        if matches!(ran.end, End::Redundant | End::TooLong | End::Panicked) {
            return Err(CheckError::Engine(format!(
                "an execution ended as {:?}",
                ran.end
            )));
        }
        let more = scheduler.with(|engine| {
            if let Some(world) = &*last.borrow() {
                seen.add(engine, ran.end, world);
            }
            advance(engine)
        });
        if !more {
            return Ok(Some(seen));
        }
    }
}

fn advance(engine: &mut Engine) -> bool {
    let mut strategy = std::mem::replace(&mut engine.strategy, Strategy::Idle);
    let more = match &mut strategy {
        Strategy::Dfs(dfs) => dfs.advance(),
        Strategy::Dpor(dpor) => {
            dpor.learn(engine);
            dpor.advance()
        }
        _ => false,
    };
    engine.strategy = strategy;
    more
}

/// A number for the trace of an execution, without vector clocks: the order of its events that comes
/// first by thread number among all that keep the order of conflicting events.
fn normal_form(engine: &Engine) -> u64 {
    let mut left: Vec<&Event> = engine.log.done().iter().collect();
    let mut hash = 0;
    while !left.is_empty() {
        let free = |&at: &usize| {
            let event = left[at];
            let ordered = |before: &&Event| {
                before.thread == event.thread || before.accesses.conflict(&event.accesses)
            };
            !left[..at].iter().any(ordered)
        };
        let Some(next) = (0..left.len())
            .filter(free)
            .min_by_key(|&at| left[at].thread)
        else {
            break;
        };
        let event = left.remove(next);
        let object = engine.objects.at(event.accesses.first.object).fingerprint;
        hash = mix(hash ^ object ^ (event.action as u64) << 8 ^ u64::from(event.thread));
    }
    hash
}

#[cfg(test)]
mod tests {
    use seamlock_sync::Mode;

    use super::*;
    use crate::fuzz::program::Stmt;

    fn same(threads: Vec<Vec<Stmt>>) -> Compared {
        let program = Program { threads };
        compare(&program, 1_000_000, 7, Faults::default())
            .unwrap()
            .unwrap()
    }

    #[test]
    fn a_writer_comes_before_readers_that_wait_for_each_other_inside() {
        let readers = [
            vec![Stmt::Wake(0), Stmt::Sleep(1)],
            vec![Stmt::Sleep(0), Stmt::Wake(1)],
        ];
        let mut threads: Vec<Vec<Stmt>> = readers
            .into_iter()
            .map(|body| vec![Stmt::Read(0, body)])
            .collect();
        threads.push(vec![Stmt::Write(0, Vec::new())]);
        let compared = same(threads);
        assert!(
            !compared.deadlock,
            "a writer that waits keeps no reader out"
        );
    }

    #[test]
    fn a_refused_thread_goes_on_when_any_of_the_holders_gives_back() {
        let share = || vec![Stmt::Try(0, Mode::Shared, vec![Stmt::Load(0)], Vec::new())];
        same(vec![
            share(),
            share(),
            vec![Stmt::Retry(0, Mode::Exclusive, Vec::new())],
        ]);
    }
}
