//! The threads of a scenario as coroutines of one OS thread, on stacks that are used again.
//!
//! This is the one module of the crate with `unsafe` code, and it is one expression: a coroutine is
//! suspended from deep inside the code under test, where nobody passes the coroutine's own handle
//! along, so the handle's address is kept while the coroutine runs.
#![allow(unsafe_code)]

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::rc::Rc;

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};

use crate::clock::MAX_THREADS;

type Handle = Yielder<(), ()>;
type Body = Coroutine<(), (), (), DefaultStack>;

/// Bytes of stack for one thread. Only the pages that are touched cost memory.
const STACK_BYTES: usize = 1 << 20;

/// How a coroutine came back.
pub(crate) enum Back {
    /// It suspended itself.
    Suspended,
    /// Its body has returned.
    Finished,
    /// Its body panicked with this payload.
    Panicked(Box<dyn Any + Send>),
}

/// The coroutines of one scenario, by thread number.
pub(crate) struct Stage {
    bodies: RefCell<Vec<Option<Body>>>,
    stacks: RefCell<Vec<DefaultStack>>,
    // Where the handle of each coroutine is; null while its body does not run.
    handles: Rc<[Cell<*const Handle>; MAX_THREADS]>,
    current: Cell<Option<usize>>,
}

impl Stage {
    /// A stage without coroutines.
    pub(crate) fn new() -> Stage {
        Stage {
            bodies: RefCell::default(),
            stacks: RefCell::default(),
            handles: Rc::new([const { Cell::new(ptr::null()) }; MAX_THREADS]),
            current: Cell::new(None),
        }
    }

    /// Adds a coroutine; it does not run yet.
    ///
    /// # Errors
    /// When there is no memory for its stack.
    pub(crate) fn add(&self, body: Box<dyn FnOnce()>) -> std::io::Result<()> {
        let stack = match self.stacks.borrow_mut().pop() {
            Some(stack) => stack,
            None => DefaultStack::new(STACK_BYTES)?,
        };
        let mut bodies = self.bodies.borrow_mut();
        let (slot, handles) = (bodies.len(), self.handles.clone());
        bodies.push(Some(Coroutine::with_stack(
            stack,
            move |handle: &Handle, ()| {
                let _entered = Entered::new(&handles[slot], handle);
                body();
            },
        )));
        Ok(())
    }

    /// Runs a coroutine until it suspends itself or ends.
    pub(crate) fn resume(&self, slot: usize) -> Back {
        let Some(mut body) = self.bodies.borrow_mut()[slot].take() else {
            return Back::Finished;
        };
        let outer = self.current.replace(Some(slot));
        let back = catch_unwind(AssertUnwindSafe(|| body.resume(())));
        self.current.set(outer);
        match back {
            Ok(CoroutineResult::Yield(())) => {
                self.bodies.borrow_mut()[slot] = Some(body);
                Back::Suspended
            }
            Ok(CoroutineResult::Return(())) => {
                self.stacks.borrow_mut().push(body.into_stack());
                Back::Finished
            }
            Err(payload) => {
                self.stacks.borrow_mut().push(body.into_stack());
                Back::Panicked(payload)
            }
        }
    }

    /// Suspends the coroutine that is running, until it is resumed.
    pub(crate) fn suspend(&self) {
        let Some(slot) = self.current.get() else {
            return;
        };
        let handle = self.handles[slot].get();
        if handle.is_null() {
            return;
        }
        // SAFETY: the handle lives on the coroutine's stack from the start of its body to its end,
        // and `Entered` clears the address at the end, unwinding included, so it is alive. `current`
        // is `slot` only while `resume` or `clear` has switched to that coroutine, and this stage
        // cannot leave its OS thread (it has `Rc` and raw pointers), so this is the coroutine that
        // runs and may suspend itself.
        unsafe { &*handle }.suspend(());
    }

    /// Ends all coroutines: what is on their stacks is dropped.
    pub(crate) fn clear(&self) {
        let count = self.bodies.borrow().len();
        for slot in 0..count {
            let Some(mut body) = self.bodies.borrow_mut()[slot].take() else {
                continue;
            };
            let outer = self.current.replace(Some(slot));
            body.force_unwind();
            self.current.set(outer);
            self.stacks.borrow_mut().push(body.into_stack());
        }
        self.bodies.borrow_mut().clear();
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The stretch in which a coroutine's handle is alive.
struct Entered<'a>(&'a Cell<*const Handle>);

impl<'a> Entered<'a> {
    fn new(cell: &'a Cell<*const Handle>, handle: &Handle) -> Entered<'a> {
        cell.set(handle);
        Entered(cell)
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.set(ptr::null());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coroutines_take_turns_and_their_stacks_are_used_again() {
        let stage = Rc::new(Stage::new());
        for _ in 0..3 {
            let said = Rc::new(RefCell::new(Vec::new()));
            for slot in 0..2 {
                let (said, inside) = (said.clone(), stage.clone());
                let body = move || {
                    said.borrow_mut().push((slot, 1));
                    inside.suspend();
                    said.borrow_mut().push((slot, 2));
                };
                stage.add(Box::new(body)).unwrap();
            }
            for slot in [0, 1, 1, 0] {
                stage.resume(slot);
            }
            stage.clear();
            assert_eq!(*said.borrow(), [(0, 1), (1, 1), (1, 2), (0, 2)]);
        }
        assert_eq!(stage.stacks.borrow().len(), 2);
    }

    #[test]
    fn what_a_suspended_coroutine_holds_is_dropped_with_it() {
        let stage = Rc::new(Stage::new());
        let (held, inside) = (Rc::new(()), stage.clone());
        let holds = held.clone();
        let body = move || {
            let _holds = holds;
            inside.suspend();
        };
        stage.add(Box::new(body)).unwrap();
        assert!(matches!(stage.resume(0), Back::Suspended));
        assert_eq!(Rc::strong_count(&held), 2);
        stage.clear();
        assert_eq!(Rc::strong_count(&held), 1);
    }

    #[test]
    fn a_panic_comes_back_as_a_value() {
        let stage = Stage::new();
        stage
            .add(Box::new(|| std::panic::resume_unwind(Box::new("gone"))))
            .unwrap();
        let Back::Panicked(payload) = stage.resume(0) else {
            panic!("it panicked")
        };
        assert_eq!(payload.downcast_ref::<&str>(), Some(&"gone"));
    }
}
