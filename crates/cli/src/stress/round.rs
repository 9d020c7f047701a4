//! One round: a machine, its threads, the hand that signals and moves them, and the audit.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use anyhow::Context;
use seamlock_kvm::Discipline;
use seamlock_kvm::lockdep::Lockdep;

use super::audit::{Looked, audit};
use super::desk::Desk;
use super::finding::{Blame, Finding, Findings};
use super::pace::{HAND, Pace};
use super::replay::Replayer;
use super::tally::Tally;
use super::watch::Watch;
use super::worker::Worker;
use super::world::{Shape, World};

/// Calls that each thread makes in a round.
pub const CALLS: u64 = 2_000;
/// How often threads are signalled and moved.
const TICK: Duration = Duration::from_micros(100);
/// Ticks between two steps of taking a CPU offline or online.
const HOTPLUG_TICKS: u64 = 2;
/// One of so many rounds is on a machine with an AMD processor.
const AMD_ROUNDS: u64 = 8;
/// Threads that make no call for so long hang.
const HANG: Duration = Duration::from_secs(30);

/// What all rounds of a run have in common.
pub struct Run {
    pub shape: Shape,
    pub discipline: &'static Discipline,
    pub lockdep: bool,
    /// CPUs go offline and come back.
    pub hotplug: bool,
    pub seed: u64,
    pub start: Instant,
    pub findings: Arc<Findings>,
    pub replayer: Replayer,
}

/// What came of a round.
#[derive(Clone, Debug, Default)]
pub struct Ended {
    pub tally: Tally,
    pub looked: Looked,
    /// Threads hang, so that there can't be another round.
    pub hung: bool,
    /// CPUs that went offline.
    pub offline: u64,
}

impl Run {
    /// Runs a round.
    ///
    /// # Errors
    /// When the machine does not boot.
    pub fn round(&self, number: u64) -> anyhow::Result<Ended> {
        let desk = Arc::new(Desk::new(self.shape.threads));
        let watch = Arc::new(Watch::new(
            self.shape.lps(),
            desk,
            self.findings.clone(),
            self.discipline,
            (self.seed, number),
            self.start,
        ));
        let lockdep = self.lockdep.then(Lockdep::new);
        let amd = number % AMD_ROUNDS == AMD_ROUNDS - 1;
        let world = World::boot(self.shape, self.discipline, lockdep, watch, amd)
            .context("booting the machine")?;
        let running = AtomicUsize::new(self.shape.threads);
        let mut ended = Ended::default();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.shape.threads)
                .map(|seat| {
                    let (world, running) = (&world, &running);
                    let seed = self.seed_of(number, seat as u64);
                    scope.spawn(move || {
                        let mut worker = Worker::new(world, seat, seed);
                        worker.work(CALLS);
                        running.fetch_sub(1, SeqCst);
                        worker.tally
                    })
                })
                .collect();
            let mut hand = Hand::new(&world, self.seed_of(number, u64::MAX), self.hotplug);
            let pace = hand.pace.clone();
            ended.hung = pace.keep(|| hand.guide(&running));
            ended.offline = hand.offline;
            if ended.hung {
                hand.tell_who_hangs();
                crate::stress::give_up(self);
            }
            for thread in threads {
                if let Ok(tally) = thread.join() {
                    ended.tally.add(&tally);
                }
            }
        });
        ended.looked = audit(&world, &self.replayer);
        Ok(ended)
    }

    fn seed_of(&self, round: u64, seat: u64) -> u64 {
        let mut rng = fastrand::Rng::with_seed(self.seed);
        rng.u64(..) ^ round.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seat.rotate_left(40)
    }
}

/// Signals threads, moves them, and takes CPUs away.
struct Hand<'a> {
    world: &'a World,
    rng: fastrand::Rng,
    pace: Rc<Pace>,
    hotplug: bool,
    /// The CPU that goes offline, and whether it is.
    going: Option<(u32, bool)>,
    offline: u64,
}

impl<'a> Hand<'a> {
    fn new(world: &'a World, seed: u64, hotplug: bool) -> Hand<'a> {
        Hand {
            world,
            rng: fastrand::Rng::with_seed(seed),
            pace: Pace::new(&world.watch, HAND, !seed),
            hotplug,
            going: None,
            offline: 0,
        }
    }

    /// Until all threads are done. Whether they hang instead.
    fn guide(&mut self, running: &AtomicUsize) -> bool {
        let desk = &self.world.watch.desk;
        let (mut seen, mut since) = (0, Instant::now());
        for tick in 0u64.. {
            if running.load(SeqCst) == 0 {
                break;
            }
            self.disturb();
            if self.hotplug && tick % HOTPLUG_TICKS == 0 {
                self.plug();
            }
            let calls = desk.calls();
            if calls != seen {
                (seen, since) = (calls, Instant::now());
            } else if since.elapsed() > HANG {
                return true;
            }
            std::thread::sleep(TICK);
        }
        if let Some((cpu, true)) = self.going {
            self.world.host.online_cpu(cpu);
        }
        false
    }

    fn disturb(&mut self) {
        let threads = self.world.controls.len();
        let fatal = self.rng.u32(..4) == 0;
        self.world.signal(self.rng.usize(..threads), fatal);
        // Who runs a vCPU keeps the VM's other callers out.
        for (seat, op, _) in self.world.watch.desk.doing() {
            if op == "KVM_RUN" && self.rng.bool() {
                self.world.signal(seat, fatal);
            }
        }
        let moved = self.rng.usize(..threads);
        self.world.migrate(moved, self.rng.usize(..));
    }

    /// One step: choose a CPU and move everybody away; take it offline when nobody is there; bring it
    /// back.
    fn plug(&mut self) {
        let world = self.world;
        match self.going {
            None => {
                let choice = self.rng.usize(..);
                let cpu = world.cpus.with(|cpus| {
                    let cpu = cpus.remove(choice % cpus.len());
                    for control in &world.controls {
                        control.migrate(cpus[choice % cpus.len()]);
                    }
                    cpu
                });
                self.going = Some((cpu, false));
            }
            Some((cpu, false)) => {
                let free = world.controls.iter().all(|c| c.on_cpu() != Some(cpu));
                let desk = &world.watch.desk;
                self.pace.begin(HAND);
                let gone = free && desk.offline(|| world.host.offline_cpu(cpu));
                self.pace.end();
                if gone {
                    self.offline += 1;
                    self.going = Some((cpu, true));
                }
            }
            Some((cpu, true)) => {
                world.host.online_cpu(cpu);
                world.cpus.with(|cpus| cpus.push(cpu));
                self.going = None;
            }
        }
    }

    fn tell_who_hangs(&self) {
        let watch = &self.world.watch;
        let doing: Vec<String> = watch
            .desk
            .doing()
            .into_iter()
            .map(|(seat, op, vm)| format!("thread {seat}: {op} on VM {vm}"))
            .collect();
        let what = "no thread makes progress, whatever it is signalled".to_owned();
        watch.findings.add(Finding {
            blame: Blame::Discipline,
            beside: doing,
            ..watch.finding("no deadlock", 0, what)
        });
    }
}
