//! What is checked: fresh state, threads, and oracles that judge them.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use seamlock_sync::{Name, Op, Outcome, Private};

use crate::clock::MAX_THREADS;
use crate::engine::Engine;
use crate::shadow::SETUP;
use crate::story::{Legend, Mark};

/// Something that must not happen, and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The oracle that says so, such as `deadlock` or `no-fail SEAMCALL`.
    pub oracle: Cow<'static, str>,
    /// What happened in few words; the same for schedules with the same cause.
    pub cause: String,
    /// The particulars of this schedule, for people.
    pub detail: String,
}

impl Violation {
    /// A violation whose particulars are to be added.
    pub fn new(oracle: impl Into<Cow<'static, str>>, cause: impl Into<String>) -> Violation {
        Violation {
            oracle: oracle.into(),
            cause: cause.into(),
            detail: String::new(),
        }
    }

    /// The same with its particulars.
    pub fn with_detail(mut self, detail: impl Into<String>) -> Violation {
        self.detail = detail.into();
        self
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.oracle, self.cause)?;
        if !self.detail.is_empty() {
            write!(f, " ({})", self.detail)?;
        }
        Ok(())
    }
}

/// A violation and the number of operations that were done when it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) after: usize,
    pub(crate) violation: Violation,
}

/// What the scenario's own code is in touch with the checker by. Clones are in touch with the same.
#[derive(Clone, Debug, Default)]
pub struct Reporter(Arc<Reported>);

#[derive(Debug, Default)]
struct Reported {
    found: Private<Vec<Found>>,
    // How many operations were done, times 16, and the thread that goes on.
    at: AtomicUsize,
    shown: AtomicBool,
    marks: Private<Vec<Mark>>,
}

impl Reporter {
    /// This must not happen, and did, in the operation that the thread did last.
    pub fn report(&self, violation: Violation) {
        let (after, _) = self.at();
        self.0
            .found
            .with(|found| found.push(Found { after, violation }));
    }

    /// Whether this execution is shown to people, and [`begin`](Reporter::begin) and
    /// [`end`](Reporter::end) are of use.
    pub fn is_shown(&self) -> bool {
        self.0.shown.load(Relaxed)
    }

    /// The running thread begins to do this, within what it has begun and not ended.
    pub fn begin(&self, what: impl Into<String>) {
        self.mark(true, what);
    }

    /// What the running thread began last has ended, so.
    pub fn end(&self, how: impl Into<String>) {
        self.mark(false, how);
    }

    fn mark(&self, begins: bool, text: impl Into<String>) {
        let (after, thread) = self.at();
        if !self.is_shown() || thread >= MAX_THREADS {
            return;
        }
        let text = text.into();
        let mark = Mark {
            thread,
            after,
            begins,
            text,
        };
        self.0.marks.with(|marks| marks.push(mark));
    }

    fn at(&self) -> (usize, usize) {
        let at = self.0.at.load(Relaxed);
        (at / 16, at % 16)
    }

    #[inline]
    pub(crate) fn move_to(&self, done: usize, thread: u8) {
        self.0.at.store(done * 16 + usize::from(thread), Relaxed);
    }

    pub(crate) fn show(&self) {
        self.move_to(0, SETUP);
        self.0.shown.store(true, Relaxed);
    }

    pub(crate) fn marks(&self) -> Vec<Mark> {
        self.0.marks.with(|marks| marks.clone())
    }

    pub(crate) fn take(&self) -> Vec<Found> {
        self.0.found.with(std::mem::take)
    }
}

/// One operation that was just done.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// How many operations were done before it.
    pub index: usize,
    /// The number of the thread that did it.
    pub thread: usize,
    /// What was done.
    pub op: &'a Op,
    /// How it ended.
    pub outcome: Outcome,
}

/// How an object is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The number of the thread, or `None` for the scenario's set-up.
    pub thread: Option<usize>,
    /// Whether it holds the object alone.
    pub alone: bool,
}

/// What an oracle can see of the scenario besides its own state.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub(crate) engine: &'a Engine,
}

impl View<'_> {
    /// The name of a thread.
    pub fn thread_name(&self, thread: usize) -> &str {
        self.engine
            .threads
            .get(thread)
            .map_or("set-up", |thread| &thread.name)
    }

    /// Who holds the object of this name now.
    pub fn holders(&self, name: Name) -> Vec<Holder> {
        self.engine.holders(&name)
    }

    /// The objects that a thread holds now, by name.
    pub fn held_by(&self, thread: usize) -> Vec<Name> {
        self.engine.held_by(thread)
    }
}

/// Judges an execution while it runs and when it has ended.
///
/// An oracle may look at anything that is the same in every order of commuting operations: outcomes
/// of operations, who holds what they were refused by, the state at the end. It may not announce
/// operations of its own (they pass unseen) nor wait.
pub trait Oracle {
    /// An operation was done.
    fn step(&mut self, view: &View<'_>, step: &Step<'_>) -> Option<Violation> {
        let _ = (view, step);
        None
    }

    /// All threads have ended, none of them in a deadlock.
    fn end(&mut self, view: &View<'_>) -> Option<Violation> {
        let _ = view;
        None
    }
}

/// The body of a thread.
pub(crate) type Body = Box<dyn FnOnce()>;

/// A judge of the end state.
pub(crate) type AtEnd = Box<dyn FnOnce() -> Option<Violation>>;

/// Which thread of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ThreadId(pub usize);

/// Takes a scenario's parts while it builds its state.
///
/// The state is built under the checker's hook: locks that the set-up takes and does not give back are
/// held when the threads start.
#[derive(Default)]
pub struct Setup {
    pub(crate) names: Vec<Cow<'static, str>>,
    pub(crate) bodies: Vec<Body>,
    pub(crate) signals: Vec<Option<Name>>,
    pub(crate) oracles: Vec<Box<dyn Oracle>>,
    pub(crate) ends: Vec<AtEnd>,
    pub(crate) reporter: Reporter,
    pub(crate) legend: Option<Box<dyn Legend>>,
}

impl Setup {
    /// Adds a thread. Its name goes into schedules, where white space and `*:#` become `_`.
    pub fn thread(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        body: impl FnOnce() + 'static,
    ) -> ThreadId {
        self.names.push(name.into());
        self.bodies.push(Box::new(body));
        self.signals.push(None);
        ThreadId(self.bodies.len() - 1)
    }

    /// A [`Notify`](seamlock_sync::Action::Notify) announced on `name` is a fatal signal for
    /// `thread`: it ends the thread's killable waits from then on.
    pub fn signal(&mut self, thread: ThreadId, name: Name) {
        if let Some(signal) = self.signals.get_mut(thread.0) {
            *signal = Some(name);
        }
    }

    /// Adds an oracle.
    pub fn oracle(&mut self, oracle: impl Oracle + 'static) {
        self.oracles.push(Box::new(oracle));
    }

    /// Judges the state when all threads have ended.
    pub fn at_end(&mut self, judge: impl FnOnce() -> Option<Violation> + 'static) {
        self.ends.push(Box::new(judge));
    }

    /// The words to show an execution in.
    pub fn legend(&mut self, legend: impl Legend + 'static) {
        self.legend = Some(Box::new(legend));
    }

    /// Where the scenario's own code reports violations.
    pub fn reporter(&self) -> Reporter {
        self.reporter.clone()
    }
}

/// A scenario builds the same fresh state, threads and oracles each time it is called: no clock, no
/// address and nothing left over from the call before may make a difference.
pub type Scenario<'a> = dyn Fn(&mut Setup) + 'a;
