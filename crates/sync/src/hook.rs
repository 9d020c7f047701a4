//! The hook: who watches the operations of this thread.

use std::cell::{Cell, RefCell};
use std::panic::Location;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::name::Name;

/// What an operation does to its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Takes a blocking lock, alone.
    Lock,
    /// Takes a blocking lock, alone; a fatal signal may end the wait.
    LockKillable,
    /// Tries to take a blocking lock, alone, once.
    TryLock,
    /// Gives a blocking lock back.
    Unlock,
    /// Takes a blocking lock together with other readers.
    LockShared,
    /// Gives a shared blocking lock back.
    UnlockShared,
    /// One attempt at a lock word, shared.
    TryShared,
    /// One attempt at a lock word, exclusive.
    TryExclusive,
    /// One attempt to turn the caller's shared hold of a lock word into an exclusive one.
    Promote,
    /// Turns the caller's exclusive hold of a lock word into a shared one.
    Demote,
    /// Gives a shared hold of a lock word back.
    ReleaseShared,
    /// Gives an exclusive hold of a lock word back.
    ReleaseExclusive,
    /// Reads a cell.
    Load,
    /// Writes a cell.
    Store,
    /// Reads and writes a cell in one step.
    Update,
    /// Adds to a cell without looking at it, so that additions may come in any order.
    Add,
    /// Sleeps until the queue's epoch is no longer `arg`; a signal may end the sleep.
    Wait,
    /// The same, and no signal ends it.
    WaitUninterruptible,
    /// Waits until the cell was written since this thread looked at it last, instead of spinning on it; a
    /// signal may end the wait.
    AwaitChange,
    /// Moves the queue's epoch on and wakes its sleepers.
    Notify,
    /// Waits until the lock word that was busy has been given back, instead of spinning on it.
    AwaitRelease,
    /// Enters a section that has no lock of its own, such as an SRCU read side or interrupts off.
    Enter,
    /// Leaves such a section.
    Leave,
    /// A place where the scheduler may run another thread or move this one.
    Point,
}

/// One operation on one object.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    /// What is done.
    pub action: Action,
    /// To which object.
    pub name: Name,
    /// The lock that makes several locks of one class safe to hold (the kernel's `nest_lock`).
    pub nest: Option<Name>,
    /// The value written, the amount added, or the epoch a wait has seen.
    pub arg: u64,
    /// Where in the source it is done.
    pub site: &'static Location<'static>,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// The lock word or lock was busy, or the cell held another value than was expected.
    Busy,
    /// A signal ended the wait.
    Interrupted,
    /// It was done, and read or left this value.
    Value(u64),
}

/// What the hook answers before an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Do it now. A hook that schedules returns this for a blocking lock only when it is free.
    Go,
    /// Do not wait: a fatal signal is delivered here. Only an answer to [`Action::LockKillable`],
    /// [`Action::Wait`] and [`Action::AwaitChange`].
    Interrupted,
}

/// Somebody who watches, or decides, what the threads do.
///
/// [`before`](Hook::before) is called ahead of each operation and [`after`](Hook::after) when it has
/// been done. A scheduler keeps the thread in `before` until it is its turn; a listener returns at
/// once.
pub trait Hook {
    /// The operation is about to be done by this thread.
    fn before(&self, op: &Op) -> Verdict;
    /// The operation has been done.
    fn after(&self, op: &Op, outcome: Outcome);
}

thread_local! {
    static HOOKED: Cell<bool> = const { Cell::new(false) };
    static HOOK: RefCell<Option<Rc<dyn Hook>>> = const { RefCell::new(None) };
}

static GLOBAL_ON: AtomicBool = AtomicBool::new(false);
static GLOBAL: parking_lot::RwLock<Option<Arc<dyn Hook + Send + Sync>>> =
    parking_lot::RwLock::new(None);

/// Whether operations of this thread are watched.
#[inline(always)]
pub fn hooked() -> bool {
    HOOKED.with(Cell::get) || GLOBAL_ON.load(Ordering::Relaxed)
}

/// Installs `hook` for this thread, or removes it, and returns the one that was there.
pub fn install(hook: Option<Rc<dyn Hook>>) -> Option<Rc<dyn Hook>> {
    HOOKED.with(|flag| flag.set(hook.is_some()));
    HOOK.with(|slot| slot.replace(hook))
}

/// Installs a listener for every thread that has no hook of its own, or removes it.
pub fn install_global(hook: Option<Arc<dyn Hook + Send + Sync>>) {
    let on = hook.is_some();
    *GLOBAL.write() = hook;
    GLOBAL_ON.store(on, Ordering::SeqCst);
}

/// Announces an operation that is not one of this crate's own objects, such as a point where the
/// scheduler may preempt. Does nothing without a hook.
#[track_caller]
pub fn announce(action: Action, name: Name, arg: u64) -> Verdict {
    if !hooked() {
        return Verdict::Go;
    }
    let op = Op {
        action,
        name,
        nest: None,
        arg,
        site: Location::caller(),
    };
    let verdict = before(&op);
    let outcome = match verdict {
        Verdict::Go => Outcome::Done,
        Verdict::Interrupted => Outcome::Interrupted,
    };
    after(&op, outcome);
    verdict
}

enum Watcher {
    Thread(Rc<dyn Hook>),
    Global(Arc<dyn Hook + Send + Sync>),
}

fn watcher() -> Option<Watcher> {
    if let Some(hook) = HOOK.with(|slot| slot.borrow().clone()) {
        return Some(Watcher::Thread(hook));
    }
    GLOBAL.read().clone().map(Watcher::Global)
}

#[cold]
pub(crate) fn before(op: &Op) -> Verdict {
    crate::private::assert_none_held(op);
    // The hook is cloned out of its slot: it may switch to another coroutine of this thread.
    match watcher() {
        Some(Watcher::Thread(hook)) => hook.before(op),
        Some(Watcher::Global(hook)) => hook.before(op),
        None => Verdict::Go,
    }
}

#[cold]
pub(crate) fn after(op: &Op, outcome: Outcome) {
    match watcher() {
        Some(Watcher::Thread(hook)) => hook.after(op, outcome),
        Some(Watcher::Global(hook)) => hook.after(op, outcome),
        None => {}
    }
}

/// Does `act` as a watched operation.
#[inline(always)]
#[track_caller]
pub(crate) fn watched<R>(
    action: Action,
    name: Name,
    arg: u64,
    act: impl FnOnce() -> R,
    outcome: impl FnOnce(&R) -> Outcome,
) -> R {
    if !hooked() {
        return act();
    }
    let op = Op {
        action,
        name,
        nest: None,
        arg,
        site: Location::caller(),
    };
    before(&op);
    let result = act();
    after(&op, outcome(&result));
    result
}
