//! Host memory that needs a lock only because Rust does.

use crate::hook::Op;

#[cfg(debug_assertions)]
thread_local! {
    static HELD: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

/// A value behind a lock that neither the TDX module nor the kernel has.
///
/// No hook sees it: a check explores the interleavings of the real locks, and a lock of ours in
/// between would order threads that nothing orders. The value is reached through
/// [`with`](Private::with) only, and no watched operation may happen inside, because a scheduler would
/// switch threads there while the lock is held; debug builds panic when one does.
#[derive(Debug, Default)]
pub struct Private<T> {
    inner: parking_lot::Mutex<T>,
}

impl<T> Private<T> {
    /// Wraps a value.
    pub const fn new(value: T) -> Private<T> {
        Private {
            inner: parking_lot::Mutex::new(value),
        }
    }

    /// Runs `f` on the value, alone.
    #[inline]
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        let mut value = self.inner.lock();
        let _inside = Inside::enter();
        f(&mut value)
    }

    /// The value, when the wrapper is no longer needed.
    pub fn into_inner(self) -> T {
        self.inner.into_inner()
    }
}

struct Inside;

impl Inside {
    #[inline]
    fn enter() -> Inside {
        #[cfg(debug_assertions)]
        HELD.with(|held| held.set(held.get() + 1));
        Inside
    }
}

impl Drop for Inside {
    #[inline]
    fn drop(&mut self) {
        #[cfg(debug_assertions)]
        HELD.with(|held| held.set(held.get() - 1));
    }
}

/// Our own bug, never a caller's: a watched operation inside [`Private::with`].
pub(crate) fn assert_none_held(op: &Op) {
    #[cfg(debug_assertions)]
    HELD.with(|held| {
        assert!(
            held.get() == 0,
            "{:?} on {} inside a Private at {}",
            op.action,
            op.name,
            op.site
        );
    });
    #[cfg(not(debug_assertions))]
    let _ = op;
}
