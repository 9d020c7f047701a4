//! `open` and its kind.

use std::ffi::{c_char, c_int};

use libc::mode_t;

use super::hooks;
use crate::boundary::guarded;
use crate::device::Parameter;
use crate::process::process;
use crate::signals::close;
use crate::{descriptor, device, errno, real};

/// Opens our `/dev/kvm`.
fn open_kvm(flags: c_int) -> c_int {
    guarded("open", || {
        if flags & libc::O_DIRECTORY != 0 {
            return Err(libc::ENOTDIR);
        }
        if flags & (libc::O_CREAT | libc::O_EXCL) == libc::O_CREAT | libc::O_EXCL {
            return Err(libc::EEXIST);
        }
        let machine = process().machine().ok_or(libc::ENODEV)?;
        let file = machine.open();
        let fd = descriptor::make(&file, None).map_err(|errno| errno.0)?;
        descriptor::seal_size(fd);
        descriptor::set_flags(fd, flags);
        if process().table.insert(fd, file).is_err() {
            close(fd);
            return Err(libc::EMFILE);
        }
        Ok(i64::from(fd))
    }) as c_int
}

/// Opens a parameter of KVM's modules, which nobody may write: a memfd with its text.
fn open_parameter(parameter: Parameter, flags: c_int) -> c_int {
    guarded("open", || {
        let Parameter::Reads(text) = parameter else {
            return Err(libc::ENOENT);
        };
        if flags & libc::O_DIRECTORY != 0 {
            return Err(libc::ENOTDIR);
        }
        if flags & libc::O_ACCMODE != libc::O_RDONLY {
            return Err(libc::EACCES);
        }
        let fd = descriptor::memfd(c"parameter").map_err(|errno| errno.0)?;
        descriptor::fill(fd, format!("{text}\n").as_bytes()).map_err(|errno| errno.0)?;
        descriptor::set_flags(fd, flags);
        Ok(i64::from(fd))
    }) as c_int
}

/// A descriptor of what is not the C library's to open.
///
/// # Safety
/// `path` is null or a C string.
unsafe fn ours(path: *const c_char, flags: c_int) -> Option<c_int> {
    // SAFETY: the caller's promise, passed on.
    unsafe {
        if device::is_kvm(path) {
            return Some(open_kvm(flags));
        }
        device::parameter(path).map(|parameter| open_parameter(parameter, flags))
    }
}

/// A descriptor that the C library opened. Was it the real `/dev/kvm`, by another name, then it is closed
/// and ours is opened instead.
fn opened(fd: c_int, flags: c_int) -> c_int {
    if fd < 0 || flags & libc::O_ACCMODE == libc::O_RDONLY || flags & libc::O_PATH != 0 {
        return fd;
    }
    let before = errno::last();
    let is_kvm = descriptor::is_device(fd, device::MAJOR, device::MINOR);
    errno::set(before);
    if !is_kvm {
        return fd;
    }
    close(fd);
    open_kvm(flags)
}

hooks! {
    /// `open(2)`.
    fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
        // SAFETY: the caller's promise, passed on.
        unsafe {
            if let Some(fd) = ours(path, flags) {
                return fd;
            }
            opened(real::open(path, flags, mode), flags)
        }
    }

    /// `open(2)`; on x86-64 files are large anyway.
    fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
        // SAFETY: the caller's promise, passed on.
        unsafe { open(path, flags, mode) }
    }

    /// `open(2)` of a fortified caller that gives no mode.
    fn __open_2(path: *const c_char, flags: c_int) -> c_int {
        // SAFETY: the caller's promise, passed on.
        unsafe {
            if let Some(fd) = ours(path, flags) {
                return fd;
            }
            opened(real::open_2(path, flags), flags)
        }
    }

    /// As [`__open_2`].
    fn __open64_2(path: *const c_char, flags: c_int) -> c_int {
        // SAFETY: the caller's promise, passed on.
        unsafe { __open_2(path, flags) }
    }

    /// `openat(2)`.
    fn openat(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
        // SAFETY: the caller's promise, passed on.
        unsafe {
            if let Some(fd) = ours(path, flags) {
                return fd;
            }
            opened(real::openat(dir, path, flags, mode), flags)
        }
    }

    /// As [`openat`].
    fn openat64(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
        // SAFETY: the caller's promise, passed on.
        unsafe { openat(dir, path, flags, mode) }
    }

    /// `openat(2)` of a fortified caller that gives no mode.
    fn __openat_2(dir: c_int, path: *const c_char, flags: c_int) -> c_int {
        // SAFETY: the caller's promise, passed on.
        unsafe {
            if let Some(fd) = ours(path, flags) {
                return fd;
            }
            opened(real::openat_2(dir, path, flags), flags)
        }
    }

    /// As [`__openat_2`].
    fn __openat64_2(dir: c_int, path: *const c_char, flags: c_int) -> c_int {
        // SAFETY: the caller's promise, passed on.
        unsafe { __openat_2(dir, path, flags) }
    }
}
