//! Runs a random program on real objects and remembers what its threads saw.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use seamlock_sync::{
    Action, Class, Mode, Mutex, Name, RwLock, Shared, SharexHp, WaitQueue, announce, relax,
};

use crate::clock::{MAX_THREADS, mix};
use crate::fuzz::program::{OBJECTS, Program, Stmt};
use crate::scenario::Setup;

static MUTEX: Class = Class::new("mutex");
static RWLOCK: Class = Class::new("rwlock");
static WORD: Class = Class::new("word");
static CELL: Class = Class::new("cell");
static QUEUE: Class = Class::new("queue");
static SIGNAL: Class = Class::new("signal");

/// The objects of a program, and what its threads saw of them.
pub(crate) struct World {
    // What a mutex guards is seen by whoever has it, and by no hook.
    mutexes: Vec<Mutex<Vec<usize>>>,
    rwlocks: Vec<RwLock<()>>,
    words: Vec<SharexHp>,
    cells: Vec<Shared<u64>>,
    queues: Vec<WaitQueue>,
    killed: [Cell<bool>; MAX_THREADS],
    seen: RefCell<[u64; MAX_THREADS]>,
}

impl World {
    fn new() -> World {
        let all = || 0..u64::from(OBJECTS);
        World {
            mutexes: all().map(|i| Mutex::new(MUTEX.at(i), Vec::new())).collect(),
            rwlocks: all().map(|i| RwLock::new(RWLOCK.at(i), ())).collect(),
            words: all().map(|_| SharexHp::new()).collect(),
            cells: all().map(|i| Shared::new(CELL.at(i), 0)).collect(),
            queues: all().map(|i| WaitQueue::new(QUEUE.at(i))).collect(),
            killed: [const { Cell::new(false) }; MAX_THREADS],
            seen: RefCell::default(),
        }
    }

    /// A number for what every thread has seen and what was left behind.
    pub(crate) fn digest(&self) -> u64 {
        let mut hash = 0;
        let mut add = |value: u64| hash = mix(hash ^ value);
        self.seen.borrow().iter().for_each(|&seen| add(seen));
        self.cells.iter().for_each(|cell| add(cell.peek()));
        for word in &self.words {
            let view = word.view();
            let marks = u64::from(view.exclusive) << 1 | u64::from(view.host_priority);
            add(marks << 16 | u64::from(view.readers));
        }
        hash
    }
}

/// Builds a program's threads; `last` is where its objects can be found afterwards.
pub(crate) fn build(program: &Program, setup: &mut Setup, last: &RefCell<Option<Rc<World>>>) {
    let world = Rc::new(World::new());
    for (slot, body) in program.threads.iter().enumerate() {
        let (world, body) = (world.clone(), body.clone());
        let thread = setup.thread(NAMES[slot % NAMES.len()], move || {
            Runner {
                world: &world,
                slot,
                last: 0,
            }
            .run(&body);
        });
        setup.signal(thread, SIGNAL.at(slot as u64));
    }
    *last.borrow_mut() = Some(world);
}

const NAMES: [&str; 4] = ["t0", "t1", "t2", "t3"];

struct Runner<'a> {
    world: &'a World,
    slot: usize,
    last: u64,
}

impl<'a> Runner<'a> {
    fn run(&mut self, body: &[Stmt]) {
        body.iter().for_each(|stmt| self.stmt(stmt));
    }

    fn saw(&mut self, value: u64) {
        self.last = value;
        let mut seen = self.world.seen.borrow_mut();
        seen[self.slot] = mix(seen[self.slot] ^ (value + 1));
    }

    fn killed(&self) -> bool {
        self.world.killed[self.slot].get()
    }

    fn stmt(&mut self, stmt: &Stmt) {
        match stmt {
            Stmt::Lock(i, body) => {
                let _guard = self.world.mutexes[usize::from(*i)].lock();
                self.run(body);
            }
            Stmt::Killable(i, body, other) => {
                let world = self.world;
                let taken = world.mutexes[usize::from(*i)].lock_killable(None, || self.killed());
                self.saw(u64::from(taken.is_ok()));
                self.run(if taken.is_ok() { body } else { other });
            }
            Stmt::TryLock(i, body, other) => {
                let taken = self.world.mutexes[usize::from(*i)].try_lock();
                self.saw(u64::from(taken.is_some()));
                self.run(if taken.is_some() { body } else { other });
            }
            Stmt::Enlist(i) => self.world.mutexes[usize::from(*i)].lock().push(self.slot),
            Stmt::Drain(i, body) => {
                let mut list = self.world.mutexes[usize::from(*i)].lock();
                for slot in std::mem::take(&mut *list) {
                    self.saw(slot as u64);
                    self.run(body);
                }
            }
            Stmt::Read(i, body) => {
                let _guard = self.world.rwlocks[usize::from(*i)].read();
                self.run(body);
            }
            Stmt::Write(i, body) => {
                let _guard = self.world.rwlocks[usize::from(*i)].write();
                self.run(body);
            }
            Stmt::If(value, body, other) => {
                self.run(if self.last == u64::from(*value) {
                    body
                } else {
                    other
                });
            }
            Stmt::Load(i) => self.saw(self.world.cells[usize::from(*i)].load()),
            Stmt::Store(i, value) => self.world.cells[usize::from(*i)].store(u64::from(*value)),
            Stmt::Add(i) => self.saw(self.world.cells[usize::from(*i)].fetch_add(1)),
            Stmt::Bump(i) => self.world.cells[usize::from(*i)].add(1),
            Stmt::Signal(thread) => {
                announce(Action::Notify, SIGNAL.at(u64::from(*thread)), 0);
                self.world.killed[usize::from(*thread)].set(true);
            }
            Stmt::Sleep(i) => self.sleep(usize::from(*i)),
            Stmt::Wake(i) => {
                self.world.cells[usize::from(*i)].store(1);
                self.world.queues[usize::from(*i)].notify();
            }
            Stmt::Try(..) | Stmt::Retry(..) | Stmt::Promote(_) | Stmt::Guest(..) => self.word(stmt),
        }
    }

    fn sleep(&mut self, i: usize) {
        let world = self.world;
        let ready = || world.cells[i].load() != 0;
        let woken = world.queues[i].wait_until(ready, || self.killed());
        self.saw(u64::from(woken.is_ok()));
    }

    fn word(&mut self, stmt: &Stmt) {
        match stmt {
            Stmt::Try(i, mode, body, other) => {
                let (word, name) = self.named(*i);
                let taken = word.try_acquire(*mode, name);
                self.saw(u64::from(taken));
                self.run(if taken { body } else { other });
                if taken {
                    word.release(*mode, name);
                }
            }
            Stmt::Retry(i, mode, body) => {
                let (word, name) = self.named(*i);
                while !word.try_acquire(*mode, name) {
                    relax(name);
                }
                self.run(body);
                word.release(*mode, name);
            }
            Stmt::Promote(i) => {
                let (word, name) = self.named(*i);
                if !word.try_shared(name) {
                    return self.saw(0);
                }
                let alone = word.promote(name);
                self.saw(1 + u64::from(alone));
                word.release(if alone { Mode::Exclusive } else { Mode::Shared }, name);
            }
            Stmt::Guest(i, mode) => {
                let (word, name) = self.named(*i);
                let taken = word.guest_try(*mode, name);
                self.saw(taken.map_or_else(|busy| busy as u64, |()| 2));
                if taken.is_ok() {
                    word.release(*mode, name);
                }
            }
            _ => {}
        }
    }

    fn named(&self, i: u8) -> (&'a SharexHp, Name) {
        (&self.world.words[usize::from(i)], WORD.at(u64::from(i)))
    }
}
