//! `stat`, `access` and their kind: tools look whether there is a `/dev/kvm` before they open it.
//!
//! What is asked about ours is asked of a device that anybody may use, and its number is put in.

use std::ffi::{c_char, c_int, c_uint};

use seamlock_kvm::file::Kind;

use super::hooks;
use crate::device::{self, MAJOR, MINOR, STAND_IN};
use crate::process::process;
use crate::table::Sort;
use crate::{real, table};

/// Puts our device number into an answer that succeeded.
///
/// # Safety
/// `out` was filled in when `result` is 0.
unsafe fn with_number(result: c_int, out: *mut libc::stat) -> c_int {
    if result == 0 {
        // SAFETY: the caller's promise.
        unsafe { (*out).st_rdev = libc::makedev(MAJOR, MINOR) };
    }
    result
}

/// The size of a guest_memfd. The memfd below it is empty where user space may touch no page of it.
fn gmem_size(fd: c_int) -> Option<u64> {
    if table::sort(fd) != Some(Sort::Gmem) {
        return None;
    }
    match process().file(fd)?.kind() {
        Kind::Gmem(gmem) => Some(gmem.size()),
        _ => None,
    }
}

/// Puts the size of a guest_memfd into an answer that succeeded.
///
/// # Safety
/// `out` was filled in when `result` is 0.
unsafe fn with_size(result: c_int, fd: c_int, out: *mut libc::stat) -> c_int {
    if result == 0
        && let Some(size) = gmem_size(fd)
    {
        // SAFETY: the caller's promise.
        unsafe { (*out).st_size = size as libc::off_t };
    }
    result
}

/// The path to ask about.
///
/// # Safety
/// `path` is null or a C string.
unsafe fn asked(path: *const c_char) -> *const c_char {
    // SAFETY: the caller's promise.
    if unsafe { device::is_kvm(path) } {
        STAND_IN.as_ptr()
    } else {
        path
    }
}

macro_rules! by_path {
    ($($(#[$meta:meta])* $name:ident, $real:ident [$($before:ident: $bt:ty),*] [$($after:ident: $at:ty),*];)*) => {
        hooks! {$(
            $(#[$meta])*
            fn $name($($before: $bt,)* path: *const c_char, out: *mut libc::stat $(, $after: $at)*) -> c_int {
                // SAFETY: the caller's promise, passed on.
                unsafe {
                    let result = real::$real($($before,)* asked(path), out $(, $after)*);
                    if device::is_kvm(path) { with_number(result, out) } else { result }
                }
            }
        )*}
    };
}

by_path! {
    /// `stat(2)`.
    stat, stat [] [];
    /// `stat(2)`.
    stat64, stat [] [];
    /// `lstat(2)`.
    lstat, lstat [] [];
    /// `lstat(2)`.
    lstat64, lstat [] [];
    /// `fstatat(2)`; with an empty path, see [`fstat`].
    fstatat, fstatat [dir: c_int] [flags: c_int];
    /// As [`fstatat`].
    fstatat64, fstatat [dir: c_int] [flags: c_int];
    /// `stat(2)` of programs built against an older C library.
    __xstat, xstat [version: c_int] [];
    /// As [`__xstat`].
    __xstat64, xstat [version: c_int] [];
    /// `lstat(2)` of programs built against an older C library.
    __lxstat, lxstat [version: c_int] [];
    /// As [`__lxstat`].
    __lxstat64, lxstat [version: c_int] [];
    /// `fstatat(2)` of programs built against an older C library.
    __fxstatat, fxstatat [version: c_int, dir: c_int] [flags: c_int];
    /// As [`__fxstatat`].
    __fxstatat64, fxstatat [version: c_int, dir: c_int] [flags: c_int];
}

hooks! {
    /// `fstat(2)`: our `/dev/kvm` is a device, and a guest_memfd has its size.
    fn fstat(fd: c_int, out: *mut libc::stat) -> c_int {
        // SAFETY: the caller's promise, passed on.
        unsafe {
            if table::sort(fd) == Some(Sort::System) {
                return with_number(real::stat(STAND_IN.as_ptr(), out), out);
            }
            with_size(real::fstat(fd, out), fd, out)
        }
    }

    /// As [`fstat`].
    fn fstat64(fd: c_int, out: *mut libc::stat) -> c_int {
        // SAFETY: the caller's promise, passed on.
        unsafe { fstat(fd, out) }
    }

    /// `fstat(2)` of programs built against an older C library.
    fn __fxstat(version: c_int, fd: c_int, out: *mut libc::stat) -> c_int {
        // SAFETY: the caller's promise, passed on.
        unsafe {
            if table::sort(fd) == Some(Sort::System) {
                return with_number(real::xstat(version, STAND_IN.as_ptr(), out), out);
            }
            with_size(real::fxstat(version, fd, out), fd, out)
        }
    }

    /// As [`__fxstat`].
    fn __fxstat64(version: c_int, fd: c_int, out: *mut libc::stat) -> c_int {
        // SAFETY: the caller's promise, passed on.
        unsafe { __fxstat(version, fd, out) }
    }

    /// `statx(2)`.
    fn statx(
        dir: c_int,
        path: *const c_char,
        flags: c_int,
        mask: c_uint,
        out: *mut libc::statx,
    ) -> c_int {
        // SAFETY: the caller's promise, passed on; the C library's function fills `out` when it
        // returns 0.
        unsafe {
            let by_fd = !path.is_null() && *path == 0 && flags & libc::AT_EMPTY_PATH != 0;
            let ours = if by_fd {
                table::sort(dir) == Some(Sort::System)
            } else {
                device::is_kvm(path)
            };
            if !ours {
                let result = real::statx(dir, path, flags, mask, out);
                if result == 0 && by_fd && let Some(size) = gmem_size(dir) {
                    (*out).stx_size = size;
                }
                return result;
            }
            let result = real::statx(dir, STAND_IN.as_ptr(), flags, mask, out);
            if result == 0 {
                (*out).stx_rdev_major = MAJOR;
                (*out).stx_rdev_minor = MINOR;
            }
            result
        }
    }

    /// `access(2)`.
    fn access(path: *const c_char, mode: c_int) -> c_int {
        // SAFETY: the caller's promise, passed on.
        unsafe { real::access(asked(path), mode) }
    }

    /// `eaccess(3)`.
    fn eaccess(path: *const c_char, mode: c_int) -> c_int {
        // SAFETY: the caller's promise, passed on.
        unsafe { real::eaccess(asked(path), mode) }
    }

    /// As [`eaccess`].
    fn euidaccess(path: *const c_char, mode: c_int) -> c_int {
        // SAFETY: the caller's promise, passed on.
        unsafe { real::eaccess(asked(path), mode) }
    }

    /// `faccessat(2)`.
    fn faccessat(dir: c_int, path: *const c_char, mode: c_int, flags: c_int) -> c_int {
        // SAFETY: the caller's promise, passed on.
        unsafe { real::faccessat(dir, asked(path), mode, flags) }
    }
}
