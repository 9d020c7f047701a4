//! Whether this is still the process that we knew: a page that the kernel wipes in a forked child.
//!
//! That needs no `pthread_atfork` handler, costs a load, and holds for a bare `clone` as well.

use std::ffi::c_void;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering::SeqCst};

use crate::process::Process;

const PAGE: usize = 4096;

/// What the page holds; in a forked child zeros.
#[derive(Debug)]
struct Mark {
    owner: AtomicU64,
    process: AtomicPtr<Process>,
}

/// The page, once it is there.
static MARK: AtomicPtr<Mark> = AtomicPtr::new(std::ptr::null_mut());
/// In the page's place where there is no memory for one. Nobody wipes it.
static NO_PAGE: Mark = Mark {
    owner: AtomicU64::new(0),
    process: AtomicPtr::new(std::ptr::null_mut()),
};

#[inline]
fn mark() -> Option<&'static Mark> {
    let at = MARK.load(SeqCst);
    // SAFETY: null, or `NO_PAGE`, or a page that `claim` mapped and nobody unmaps; zeros are a valid Mark.
    unsafe { at.as_ref() }
}

/// Where the process keeps what it knows: null in one that was forked, until it is written again.
#[inline]
pub fn process() -> Option<&'static AtomicPtr<Process>> {
    mark().map(|mark| &mark.process)
}

/// The number of the process that [`claim`] was called in; None in one that was forked from it.
#[inline]
pub fn owner() -> Option<u64> {
    mark()
        .map(|mark| mark.owner.load(SeqCst))
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

/// Makes the process ours. Gives the place of [`process`].
pub fn claim() -> &'static AtomicPtr<Process> {
    let mark = mark().unwrap_or_else(map);
    mark.owner.store(pid(), SeqCst);
    &mark.process
}

fn map() -> &'static Mark {
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
    let fresh = if page == libc::MAP_FAILED {
        (&raw const NO_PAGE).cast_mut()
    } else {
        // SAFETY: the page was just mapped; the advice changes only what a child sees of it.
        unsafe { libc::madvise(page, PAGE, libc::MADV_WIPEONFORK) };
        page.cast::<Mark>()
    };
    let null = std::ptr::null_mut();
    let chosen = match MARK.compare_exchange(null, fresh, SeqCst, SeqCst) {
        Ok(_) => fresh,
        Err(other) => {
            if page != libc::MAP_FAILED {
                // SAFETY: another thread was faster; nobody knows of this page.
                unsafe { libc::munmap(page.cast::<c_void>(), PAGE) };
            }
            other
        }
    };
    // SAFETY: as in `mark`.
    unsafe { &*chosen }
}
