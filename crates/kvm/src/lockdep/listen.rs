//! The listener: which machine's lockdep hears the operations of this thread.
//!
//! One listener for all threads and machines. A thread that enters a machine's kernel says so
//! ([`Lockdep::enter`]); its operations go there until it returns.

use std::cell::RefCell;
use std::sync::{Arc, Once};

use seamlock_sync::{Action, Hook, Op, Outcome, Verdict, install_global};

use super::{Held, Lockdep};

struct Frame {
    lockdep: Arc<Lockdep>,
    held: Held,
    depth: usize,
}

thread_local! {
    // The machines whose kernel the thread is in, the latest last.
    static FRAMES: RefCell<Vec<Frame>> = const { RefCell::new(Vec::new()) };
}

fn with_latest(f: impl FnOnce(&mut Frame)) {
    FRAMES.with(|frames| {
        if let Some(frame) = frames.borrow_mut().last_mut() {
            f(frame);
        }
    });
}

/// Hands an operation of this thread to the lockdep of the machine it is in. For hooks that take the
/// listener's place on their thread.
pub fn before(op: &Op) {
    with_latest(|frame| frame.lockdep.before(&frame.held, op));
}

/// As [`before`], when the operation has been done.
pub fn after(op: &Op, outcome: Outcome) {
    with_latest(|frame| frame.lockdep.after(&mut frame.held, op, outcome));
}

struct Listener;

impl Hook for Listener {
    fn before(&self, op: &Op) -> Verdict {
        before(op);
        Verdict::Go
    }

    fn after(&self, op: &Op, outcome: Outcome) {
        after(op, outcome);
        if op.action == Action::AwaitRelease {
            // Watched, a retry loop leaves it to the hook to let the holder go on.
            std::thread::yield_now();
        }
    }
}

/// The thread is in a machine's kernel until this is dropped.
#[derive(Debug)]
pub struct Inside(Arc<Lockdep>);

impl Lockdep {
    /// The thread enters the kernel of this lockdep's machine.
    pub fn enter(self: &Arc<Self>) -> Inside {
        FRAMES.with(|frames| {
            let mut frames = frames.borrow_mut();
            match frames
                .iter_mut()
                .find(|frame| Arc::ptr_eq(&frame.lockdep, self))
            {
                Some(frame) => frame.depth += 1,
                None => frames.push(Frame {
                    lockdep: self.clone(),
                    held: Held::default(),
                    depth: 1,
                }),
            }
        });
        Inside(self.clone())
    }

    /// Listens to all threads that have no hook of their own, from now on.
    pub(crate) fn listen() {
        static LISTENING: Once = Once::new();
        LISTENING.call_once(|| install_global(Some(Arc::new(Listener))));
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let left = FRAMES.with(|frames| {
            let mut frames = frames.borrow_mut();
            let at = frames
                .iter()
                .position(|frame| Arc::ptr_eq(&frame.lockdep, &self.0))?;
            frames[at].depth -= 1;
            (frames[at].depth == 0).then(|| frames.remove(at))
        });
        if let Some(mut frame) = left {
            self.0.leave(&mut frame.held);
        }
    }
}
