//! `fcntl`.

use std::ffi::{c_int, c_ulong};

use super::dup::duplicated;
use super::hooks;
use crate::{errno, real, table};

hooks! {
    /// `fcntl(2)`. Seals are a memfd's, and a file of KVM has none.
    fn fcntl(fd: c_int, command: c_int, arg: c_ulong) -> c_int {
        if table::sort(fd).is_none() {
            // SAFETY: the caller's promise, passed on.
            return unsafe { real::fcntl(fd, command, arg) };
        }
        match command {
            libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => {
                // SAFETY: the caller's promise, passed on.
                duplicated(fd, unsafe { real::fcntl(fd, command, arg) })
            }
            libc::F_ADD_SEALS | libc::F_GET_SEALS => errno::fail(libc::EINVAL),
            // SAFETY: the caller's promise, passed on.
            _ => unsafe { real::fcntl(fd, command, arg) },
        }
    }

    /// As [`fcntl`].
    fn fcntl64(fd: c_int, command: c_int, arg: c_ulong) -> c_int {
        // SAFETY: the caller's promise, passed on.
        unsafe { fcntl(fd, command, arg) }
    }
}
