//! `dup` and its kind: one more descriptor of the same file.

use std::ffi::c_int;
use std::sync::Arc;

use seamlock_kvm::File;

use super::close::{put, take};
use super::hooks;
use crate::boundary::guarded;
use crate::process::process;
use crate::{fork, real, table};

/// A reference for a second descriptor.
fn reference(fd: c_int) -> Option<Arc<File>> {
    if fork::in_vfork_child() {
        return None;
    }
    let mut found = None;
    guarded("dup", || {
        found = process().file(fd).filter(|file| file.get());
        Ok(0)
    });
    found
}

/// The C library duplicated `fd` to `to`.
pub(super) fn duplicated(fd: c_int, to: c_int) -> c_int {
    if to < 0 || table::sort(fd).is_none() {
        return to;
    }
    if let Some(file) = reference(fd) {
        match process().table.insert(to, file) {
            Ok(None) => {}
            Ok(Some(file)) | Err(file) => put(&file),
        }
    }
    to
}

/// As `dup2`, by `duplicate`. The file that `to` stood for loses its descriptor.
fn replace(fd: c_int, to: c_int, duplicate: impl FnOnce() -> c_int) -> c_int {
    if fd == to || (table::sort(fd).is_none() && table::sort(to).is_none()) {
        return duplicate();
    }
    let replaced = take(to);
    let result = duplicate();
    match replaced {
        Some(file) if result < 0 => {
            // Nothing was replaced.
            drop(process().table.insert(to, file));
        }
        Some(file) => put(&file),
        None => {}
    }
    duplicated(fd, result)
}

hooks! {
    /// `dup(2)`.
    fn dup(fd: c_int) -> c_int {
        // SAFETY: the caller's promise, passed on.
        duplicated(fd, unsafe { real::dup(fd) })
    }

    /// `dup2(2)`.
    fn dup2(fd: c_int, to: c_int) -> c_int {
        // SAFETY: the caller's promise, passed on.
        replace(fd, to, || unsafe { real::dup2(fd, to) })
    }

    /// `dup3(2)`.
    fn dup3(fd: c_int, to: c_int, flags: c_int) -> c_int {
        // SAFETY: the caller's promise, passed on.
        replace(fd, to, || unsafe { real::dup3(fd, to, flags) })
    }
}
