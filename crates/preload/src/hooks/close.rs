//! `close` and its kind.

use std::ffi::{c_int, c_uint};
use std::sync::Arc;

use seamlock_kvm::File;

use super::hooks;
use crate::boundary::guarded;
use crate::machine::call;
use crate::process::process;
use crate::{fork, real, table};

/// Takes the file of a descriptor that is about to be closed or replaced. Before the number is free: once
/// it is, another thread may get it.
pub(super) fn take(fd: c_int) -> Option<Arc<File>> {
    if table::sort(fd).is_none() || fork::in_vfork_child() {
        return None;
    }
    let file = process().table.remove(fd);
    table::forget(fd);
    file
}

/// Gives a descriptor's reference back; the last one ends a VM.
pub(super) fn put(file: &Arc<File>) {
    guarded("close", || {
        call(file.host(), |task| file.put(task));
        Ok(0)
    });
}

/// Closes the descriptors of ours in a range, before the C library closes the range.
fn close_ours(first: c_uint, last: c_uint) {
    for fd in table::ours_in(first, last) {
        if let Some(file) = take(fd) {
            crate::signals::close(fd);
            put(&file);
        }
    }
}

hooks! {
    /// `close(2)`.
    fn close(fd: c_int) -> c_int {
        if table::sort(fd).is_none() {
            // SAFETY: the caller's promise, passed on.
            return unsafe { real::close(fd) };
        }
        let file = take(fd);
        // SAFETY: the caller's promise, passed on.
        let result = unsafe { real::close(fd) };
        if let Some(file) = file {
            put(&file);
        }
        result
    }

    /// `close_range(2)`.
    fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
        const CLOSE_RANGE_CLOEXEC: c_int = 1 << 2;
        if flags & CLOSE_RANGE_CLOEXEC == 0 && first <= last {
            close_ours(first, last);
        }
        // SAFETY: the caller's promise, passed on.
        unsafe { real::close_range(first, last, flags) }
    }

    /// `closefrom(3)`: the C library's calls its own `close_range`, which is not this one.
    fn closefrom(first: c_int) -> () {
        let first = first.max(0) as c_uint;
        close_ours(first, c_uint::MAX);
        // SAFETY: as `close_range`'s.
        unsafe { real::close_range(first, c_uint::MAX, 0) };
    }
}
