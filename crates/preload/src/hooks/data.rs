//! `read`, `write` and their kind. Of KVM's files only statistics have contents; the memfds below the
//! others do, and are not to be seen.

use std::ffi::{c_int, c_void};

use libc::{iovec, off_t, size_t, ssize_t};

use super::hooks;
use crate::boundary::guarded;
use crate::machine::call;
use crate::process::process;
use crate::table::Sort;
use crate::{errno, real, table};

/// `read(2)`, or with an offset `pread(2)`, of a file of ours.
fn read_ours(fd: c_int, to: u64, len: size_t, at: Option<u64>) -> ssize_t {
    guarded("read", || {
        let file = process().file(fd).ok_or(libc::EIO)?;
        call(file.host(), |task| file.read(task, to, len, at)).map_err(|error| error.errno.0)
    }) as ssize_t
}

/// Statistics are open for reading only; the others can't be written at all.
fn refuse_write(sort: Sort) -> ssize_t {
    let errno = match sort {
        Sort::Stats => libc::EBADF,
        _ => libc::EINVAL,
    };
    errno::fail(errno) as ssize_t
}

/// One part after the other, until one is not filled; an error counts when nothing was read before it.
///
/// # Safety
/// As `readv(2)`'s.
unsafe fn read_parts(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t {
    let mut done = 0;
    for i in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: the caller's promise: `count` parts are there.
        let part = unsafe { &*parts.add(i) };
        match read_ours(fd, part.iov_base as u64, part.iov_len, None) {
            -1 if done == 0 => return -1,
            -1 => break,
            read => {
                done += read;
                if (read as size_t) < part.iov_len {
                    break;
                }
            }
        }
    }
    done
}

hooks! {
    /// `read(2)`.
    fn read(fd: c_int, to: *mut c_void, len: size_t) -> ssize_t {
        if table::sort(fd).is_some() {
            return read_ours(fd, to as u64, len, None);
        }
        // SAFETY: the caller's promise, passed on.
        unsafe { real::read(fd, to, len) }
    }

    /// `pread(2)`.
    fn pread(fd: c_int, to: *mut c_void, len: size_t, offset: off_t) -> ssize_t {
        if table::sort(fd).is_some() {
            return read_ours(fd, to as u64, len, Some(offset as u64));
        }
        // SAFETY: the caller's promise, passed on.
        unsafe { real::pread(fd, to, len, offset) }
    }

    /// As [`pread`].
    fn pread64(fd: c_int, to: *mut c_void, len: size_t, offset: off_t) -> ssize_t {
        // SAFETY: the caller's promise, passed on.
        unsafe { pread(fd, to, len, offset) }
    }

    /// `read(2)` of programs that were built with checks of their buffers.
    fn __read_chk(fd: c_int, to: *mut c_void, len: size_t, room: size_t) -> ssize_t {
        if table::sort(fd).is_some() && len <= room {
            return read_ours(fd, to as u64, len, None);
        }
        // SAFETY: the caller's promise, passed on.
        unsafe { real::read_chk(fd, to, len, room) }
    }

    /// As [`__read_chk`], of `pread(2)`.
    fn __pread_chk(
        fd: c_int,
        to: *mut c_void,
        len: size_t,
        offset: off_t,
        room: size_t,
    ) -> ssize_t {
        if table::sort(fd).is_some() && len <= room {
            return read_ours(fd, to as u64, len, Some(offset as u64));
        }
        // SAFETY: the caller's promise, passed on.
        unsafe { real::pread_chk(fd, to, len, offset, room) }
    }

    /// As [`__pread_chk`].
    fn __pread64_chk(
        fd: c_int,
        to: *mut c_void,
        len: size_t,
        offset: off_t,
        room: size_t,
    ) -> ssize_t {
        // SAFETY: the caller's promise, passed on.
        unsafe { __pread_chk(fd, to, len, offset, room) }
    }

    /// `readv(2)`.
    fn readv(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t {
        // SAFETY: the caller's promise, passed on.
        unsafe {
            match table::sort(fd) {
                Some(_) => read_parts(fd, parts, count),
                None => real::readv(fd, parts, count),
            }
        }
    }

    /// `lseek(2)`: statistics stay where they are (`noop_llseek`); a guest_memfd has its memfd's.
    fn lseek(fd: c_int, offset: off_t, whence: c_int) -> off_t {
        if table::sort(fd) == Some(Sort::Stats) {
            let position = process().file(fd).map(|file| file.position());
            return position.map_or_else(|| errno::fail(libc::EIO).into(), |at| at as off_t);
        }
        // SAFETY: the caller's promise, passed on.
        unsafe { real::lseek(fd, offset, whence) }
    }

    /// As [`lseek`].
    fn lseek64(fd: c_int, offset: off_t, whence: c_int) -> off_t {
        // SAFETY: the caller's promise, passed on.
        unsafe { lseek(fd, offset, whence) }
    }
}

macro_rules! writes {
    ($($(#[$meta:meta])* $name:ident, $real:ident [$($arg:ident: $ty:ty),*];)*) => {
        hooks! {$(
            $(#[$meta])*
            fn $name(fd: c_int $(, $arg: $ty)*) -> ssize_t {
                if let Some(sort) = table::sort(fd) {
                    return refuse_write(sort);
                }
                // SAFETY: the caller's promise, passed on.
                unsafe { real::$real(fd $(, $arg)*) }
            }
        )*}
    };
}

writes! {
    /// `write(2)`.
    write, write [from: *const c_void, len: size_t];
    /// `pwrite(2)`.
    pwrite, pwrite [from: *const c_void, len: size_t, offset: off_t];
    /// As [`pwrite`].
    pwrite64, pwrite [from: *const c_void, len: size_t, offset: off_t];
    /// `writev(2)`.
    writev, writev [parts: *const iovec, count: c_int];
}
