//! The calling thread's `errno`.

use std::ffi::c_int;

/// Reads it.
pub fn last() -> c_int {
    // SAFETY: the C library gives a valid pointer to the thread's own errno.
    unsafe { *libc::__errno_location() }
}

/// Writes it.
pub fn set(errno: c_int) {
    // SAFETY: as above; the place belongs to this thread.
    unsafe { *libc::__errno_location() = errno }
}

/// Sets it and gives the -1 that goes with it.
pub fn fail(errno: c_int) -> c_int {
    set(errno);
    -1
}
