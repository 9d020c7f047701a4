//! The edge between the VMM and us: what it may never see is a panic, a lost errno, or us calling
//! ourselves.

use std::cell::Cell;
use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::errno;

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

struct Inside;

impl Inside {
    /// Enters KVM. None when the thread is in it already: a signal handler that interrupted us, which
    /// may not wait for locks that its own thread holds; or a thread that is past its end.
    fn enter() -> Option<Inside> {
        match INSIDE.try_with(|inside| inside.replace(true)) {
            Ok(false) => Some(Inside),
            _ => None,
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = INSIDE.try_with(|inside| inside.set(false));
    }
}

/// Whether the thread is in KVM.
pub fn is_inside() -> bool {
    INSIDE.try_with(Cell::get).unwrap_or(false)
}

/// Runs `body` for the VMM: with its errno kept on success, and set on an error. A panic is logged and
/// becomes EIO; a call out of a signal handler that interrupted KVM on this thread gets EINTR.
pub fn guarded(call: &'static str, body: impl FnOnce() -> Result<i64, c_int>) -> i64 {
    let saved = errno::last();
    let Some(_inside) = Inside::enter() else {
        crate::log::warn(&format!(
            "{call} from a signal handler that interrupted KVM: EINTR"
        ));
        return i64::from(errno::fail(libc::EINTR));
    };
    crate::log::hear_panics();
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
        crate::log::panicked(call);
        Err(libc::EIO)
    });
    match result {
        Ok(value) => {
            errno::set(saved);
            value
        }
        Err(errno) => i64::from(errno::fail(errno)),
    }
}
