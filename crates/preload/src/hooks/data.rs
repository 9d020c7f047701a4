//! `read`, `write` and their kind: files of KVM have no contents, though the memfds below them do.

use std::ffi::{c_int, c_void};

use libc::{iovec, off_t, size_t, ssize_t};

use super::hooks;
use crate::{errno, real, table};

macro_rules! refused {
    ($($(#[$meta:meta])* $name:ident, $real:ident [$($arg:ident: $ty:ty),*];)*) => {
        hooks! {$(
            $(#[$meta])*
            fn $name(fd: c_int $(, $arg: $ty)*) -> ssize_t {
                if table::sort(fd).is_some() {
                    return errno::fail(libc::EINVAL) as ssize_t;
                }
                // SAFETY: the caller's promise, passed on.
                unsafe { real::$real(fd $(, $arg)*) }
            }
        )*}
    };
}

refused! {
    /// `read(2)`.
    read, read [to: *mut c_void, len: size_t];
    /// `write(2)`.
    write, write [from: *const c_void, len: size_t];
    /// `pread(2)`.
    pread, pread [to: *mut c_void, len: size_t, offset: off_t];
    /// As [`pread`].
    pread64, pread [to: *mut c_void, len: size_t, offset: off_t];
    /// `pwrite(2)`.
    pwrite, pwrite [from: *const c_void, len: size_t, offset: off_t];
    /// As [`pwrite`].
    pwrite64, pwrite [from: *const c_void, len: size_t, offset: off_t];
    /// `readv(2)`.
    readv, readv [parts: *const iovec, count: c_int];
    /// `writev(2)`.
    writev, writev [parts: *const iovec, count: c_int];
}
