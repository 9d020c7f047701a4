//! Whether this is still the process that we knew: a page that the kernel wipes in a forked child.
//!
//! That needs no `pthread_atfork` handler, costs a load, and holds for a bare `clone` as well.

use std::ffi::c_void;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering::SeqCst};

const PAGE: usize = 4096;

static MARK: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());

fn mark() -> Option<&'static AtomicU64> {
    let at = MARK.load(SeqCst);
    // SAFETY: null, or a page that `claim` mapped and nobody unmaps; zeros are a valid AtomicU64.
    unsafe { at.as_ref() }
}

/// Whether this process called [`claim`]; not the one that it was forked from.
#[inline]
pub fn is_ours() -> bool {
    owner().is_some()
}

/// The number of the process that [`claim`] was called in; None in one that was forked from it.
#[inline]
pub fn owner() -> Option<u64> {
    mark()
        .map(|mark| mark.load(SeqCst))
        .filter(|owner| *owner != 0)
}

/// Whether this is a `vfork` child, which still runs in its parent's memory. Costs a system call.
pub fn in_vfork_child() -> bool {
    owner().is_some_and(|owner| owner != pid())
}

/// The process's number.
pub fn pid() -> u64 {
    u64::from(std::process::id())
}

/// Makes the process ours.
pub fn claim() {
    if mark().is_none() {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return;
        }
        // SAFETY: the page was just mapped; the advice changes only what a child sees of it.
        unsafe { libc::madvise(page, PAGE, libc::MADV_WIPEONFORK) };
        let null = std::ptr::null_mut();
        if MARK
            .compare_exchange(null, page.cast::<AtomicU64>(), SeqCst, SeqCst)
            .is_err()
        {
            // SAFETY: another thread was faster; nobody knows of this page.
            unsafe { libc::munmap(page.cast::<c_void>(), PAGE) };
        }
    }
    if let Some(mark) = mark() {
        mark.store(pid(), SeqCst);
    }
}
