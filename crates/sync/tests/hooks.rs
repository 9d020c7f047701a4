//! What a hook is told, in which order, and what it can decide.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use seamlock_sync::{
    Action, Class, Hook, Interrupted, Mode, Mutex, Op, Outcome, Private, RwLock, Section, Shared,
    Sharex, SharexHp, Verdict, WaitQueue, announce, hooked, install, relax,
};

static LOCK: Class = Class::new("lock");
static WORD: Class = Class::new("word");
static CELL: Class = Class::new("cell");
static QUEUE: Class = Class::new("queue");
static PLACE: Class = Class::new("place");

#[derive(Default)]
struct Tape {
    said: RefCell<Vec<String>>,
    interrupt: Cell<bool>,
}

impl Hook for Tape {
    fn before(&self, op: &Op) -> Verdict {
        self.said
            .borrow_mut()
            .push(format!("{:?} {}({})?", op.action, op.name, op.arg));
        if self.interrupt.get() {
            Verdict::Interrupted
        } else {
            Verdict::Go
        }
    }

    fn after(&self, op: &Op, outcome: Outcome) {
        self.said
            .borrow_mut()
            .push(format!("{:?} {outcome:?}", op.action));
    }
}

/// What is said while `act` runs.
fn told(interrupt: bool, act: impl FnOnce()) -> Vec<String> {
    let tape = Rc::new(Tape::default());
    tape.interrupt.set(interrupt);
    let before = install(Some(tape.clone()));
    act();
    install(before);
    tape.said.take()
}

#[test]
fn an_operation_is_announced_before_and_its_outcome_after() {
    let mutex = Mutex::new(LOCK.at(1), ());
    let said = told(false, || {
        let _held = mutex.lock();
        assert!(mutex.try_lock().is_none());
    });
    let wanted = [
        "Lock lock[0x1](0)?",
        "Lock Done",
        "TryLock lock[0x1](0)?",
        "TryLock Busy",
        "Unlock lock[0x1](0)?",
        "Unlock Done",
    ];
    assert_eq!(said, wanted);
    assert!(!mutex.is_locked() && !hooked());
}

#[test]
fn nothing_is_said_without_a_hook_or_by_what_is_only_host_memory() {
    let (cell, host) = (Shared::new(CELL.only(), 1u32), Private::new(1));
    cell.store(2);
    let said = told(false, || {
        host.with(|value| *value += 1);
        cell.poke(cell.peek() + 1);
    });
    assert!(said.is_empty(), "{said:?}");
    assert_eq!((cell.load(), host.into_inner()), (3, 2));
}

#[test]
fn cells_tell_what_was_read_and_written() {
    let cell = Shared::new(CELL.only(), 5u64);
    let said = told(false, || {
        cell.store(7);
        assert_eq!(cell.load(), 7);
        assert_eq!(cell.fetch_add(2), 7);
        assert_eq!(cell.fetch_sub(1), 9);
        assert_eq!(cell.compare_exchange(0, 1), Err(8));
        cell.add(2);
        cell.sub(4);
    });
    let outcomes: Vec<&String> = said.iter().skip(1).step_by(2).collect();
    let wanted = [
        "Store Done",
        "Load Value(7)",
        "Update Value(7)",
        "Update Value(9)",
        "Update Busy",
        "Add Done",
        "Add Done",
    ];
    assert_eq!(outcomes, wanted);
    assert!(said[0] == "Store cell(7)?" && cell.load() == 6);
}

#[test]
fn a_fatal_signal_ends_a_killable_lock_only_while_it_is_held() {
    let mutex = Mutex::new(LOCK.only(), 1);
    assert!(
        mutex.lock_killable(None, || true).is_ok(),
        "a free lock is taken"
    );
    let held = mutex.lock();
    assert_eq!(mutex.lock_killable(None, || true).err(), Some(Interrupted));
    let said = told(false, || {
        assert!(mutex.lock_killable(None, || true).is_err())
    });
    assert_eq!(said, ["LockKillable lock(0)?", "LockKillable Interrupted"]);
    drop(held);
    let said = told(true, || {
        assert!(mutex.lock_killable(None, || false).is_err())
    });
    assert_eq!(
        said,
        ["LockKillable lock(0)?", "LockKillable Interrupted"],
        "the hook decides"
    );
    assert!(!mutex.is_locked());
}

#[test]
fn nested_locks_name_what_makes_them_safe() {
    struct Nest(Cell<bool>);
    impl Hook for Nest {
        fn before(&self, op: &Op) -> Verdict {
            self.0.set(self.0.get() | (op.nest == Some(LOCK.at(9))));
            Verdict::Go
        }
        fn after(&self, _: &Op, _: Outcome) {}
    }
    let (nest, mutex) = (Rc::new(Nest(Cell::new(false))), Mutex::new(LOCK.only(), ()));
    let before = install(Some(nest.clone()));
    drop(mutex.lock_nested(Some(LOCK.at(9))));
    install(before);
    assert!(nest.0.get());
}

#[test]
fn a_reader_may_read_again_and_a_writer_is_alone() {
    let lock = RwLock::new(LOCK.only(), 3);
    let said = told(false, || {
        let (one, two) = (lock.read(), lock.read());
        assert_eq!(*one + *two, 6);
        drop((one, two));
        *lock.write() += 1;
    });
    let wanted = [
        "LockShared",
        "LockShared",
        "UnlockShared",
        "UnlockShared",
        "Lock",
        "Unlock",
    ];
    let actions = said.iter().step_by(2).map(|said| said.split(' ').next());
    assert!(actions.eq(wanted.map(Some)), "{said:?}");
    assert!(!lock.is_locked());
    assert_eq!(*lock.read(), 4);
}

#[test]
fn a_sleeper_tells_which_notification_it_has_seen() {
    let queue = WaitQueue::new(QUEUE.only());
    let ready = Cell::new(false);
    let said = told(false, || {
        queue.notify();
        let mut tests = 0;
        let woken = queue.wait_until(
            || {
                tests += 1;
                // What makes the condition true comes between the test and the sleep.
                ready.replace(true) || {
                    queue.notify();
                    false
                }
            },
            || false,
        );
        assert_eq!((woken, tests), (Ok(()), 2));
    });
    let wanted = [
        "Notify queue(0)?",
        "Notify Value(1)",
        "Load queue(0)?",
        "Load Value(1)",
        "Notify queue(0)?",
        "Notify Value(2)",
        "Wait queue(1)?",
        "Wait Value(2)",
        "Load queue(0)?",
        "Load Value(2)",
    ];
    assert_eq!(said, wanted);
}

#[test]
fn a_sleeper_ends_by_a_signal() {
    let queue = WaitQueue::new(QUEUE.only());
    assert_eq!(queue.wait_until(|| false, || true), Err(Interrupted));
    let said = told(false, || {
        assert!(queue.wait_until(|| false, || true).is_err())
    });
    assert_eq!(
        said.last().map(String::as_str),
        Some("Wait Interrupted"),
        "{said:?}"
    );
    let said = told(true, || {
        assert!(queue.wait_until(|| false, || false).is_err())
    });
    assert_eq!(
        said.last().map(String::as_str),
        Some("Wait Interrupted"),
        "{said:?}"
    );
}

#[test]
fn sleepers_of_other_threads_are_woken() {
    let queue = std::sync::Arc::new(WaitQueue::new(QUEUE.only()));
    let ready = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (sleeps, seen) = (queue.clone(), ready.clone());
    let sleep =
        move || sleeps.wait_until(|| seen.load(std::sync::atomic::Ordering::SeqCst), || false);
    #[expect(clippy::disallowed_methods, reason = "real threads are what is tested")]
    let sleeper = std::thread::spawn(sleep);
    ready.store(true, std::sync::atomic::Ordering::SeqCst);
    queue.notify();
    assert_eq!(sleeper.join().unwrap(), Ok(()));
}

#[test]
fn words_tell_the_mode_and_whether_they_were_busy() {
    let (word, plain) = (SharexHp::new(), Sharex::new());
    let name = WORD.at(7);
    let said = told(false, || {
        assert!(word.try_acquire(Mode::Shared, name));
        assert!(!word.try_acquire(Mode::Exclusive, name));
        relax(name);
        assert!(word.promote(name));
        word.release(Mode::Exclusive, name);
        assert!(plain.try_acquire(Mode::Exclusive, name));
        plain.release(Mode::Exclusive, name);
        assert!(word.guest_try(Mode::Shared, name).is_ok());
        word.release(Mode::Shared, name);
    });
    let wanted = [
        "TryShared word[0x7](0)?",
        "TryShared Done",
        "TryExclusive word[0x7](0)?",
        "TryExclusive Busy",
        "AwaitRelease word[0x7](0)?",
        "AwaitRelease Done",
        "Promote word[0x7](0)?",
        "Promote Done",
        "ReleaseExclusive word[0x7](0)?",
        "ReleaseExclusive Done",
        "TryExclusive word[0x7](0)?",
        "TryExclusive Done",
        "ReleaseExclusive word[0x7](0)?",
        "ReleaseExclusive Done",
        "TryShared word[0x7](1)?",
        "TryShared Done",
        "ReleaseShared word[0x7](0)?",
        "ReleaseShared Done",
    ];
    assert_eq!(said, wanted);
}

#[test]
fn sections_and_points_are_announced() {
    let said = told(false, || {
        let section = Section::enter(PLACE.at(1));
        assert_eq!(section.name(), PLACE.at(1));
        announce(Action::Point, PLACE.at(2), 3);
    });
    let wanted = [
        "Enter place[0x1](0)?",
        "Enter Done",
        "Point place[0x2](3)?",
        "Point Done",
        "Leave place[0x1](0)?",
        "Leave Done",
    ];
    assert_eq!(said, wanted);
}

#[test]
fn a_hook_is_put_back_by_whoever_replaced_it() {
    let first = Rc::new(Tape::default());
    let outer = install(Some(first.clone()));
    let said = told(false, || drop(Mutex::new(LOCK.only(), ()).lock()));
    assert_eq!(said.len(), 4);
    assert!(first.said.borrow().is_empty());
    drop(Mutex::new(LOCK.only(), ()).lock());
    assert_eq!(first.said.borrow().len(), 4);
    install(outer);
}
