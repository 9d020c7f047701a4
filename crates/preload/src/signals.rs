//! Signals of the calling thread, held back while it is in KVM.
//!
//! The kernel runs no handler while a thread is inside an ioctl; the signal is pending until the ioctl
//! returns, and a sleeping KVM_RUN returns -EINTR for it. [`Held`] does the same: it blocks every signal
//! from the first look at `immediate_exit` to the return, so that none is lost in between, and asks which
//! are pending, without taking them. Handlers run when the mask is restored.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;

use libc::{sigset_t, timespec};
use seamlock_kvm::task::Signals;

/// Highest signal number of Linux.
const LAST_SIGNAL: c_int = 64;
/// Bytes of the kernel's signal set.
const KERNEL_SET_BYTES: usize = 8;

/// The thread's signals are held back while this lives.
pub struct Held {
    before: sigset_t,
    /// Signals that end a sleep.
    wanted: sigset_t,
}

impl Held {
    /// Blocks every signal. `mask`, where given, stands for the thread's own (KVM_SET_SIGNAL_MASK).
    pub fn back(mask: Option<u64>) -> Held {
        let mut before = full_set();
        // SAFETY: both sets are initialised and live. The C library keeps its own two signals out.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &full_set(), &mut before) };
        let blocked = |signal| match mask {
            Some(mask) => mask >> (signal - 1) & 1 == 1,
            None => contains(&before, signal),
        };
        let mut wanted = empty_set();
        for signal in (1..=LAST_SIGNAL).filter(|signal| !blocked(*signal)) {
            // SAFETY: an initialised set and a signal number in range.
            unsafe { libc::sigaddset(&mut wanted, signal) };
        }
        Held { before, wanted }
    }
}

impl Signals for Held {
    /// Whether a signal waits that would be handled, or would end us.
    fn pending(&self) -> bool {
        let mut pending = empty_set();
        // SAFETY: a live set.
        if unsafe { libc::sigpending(&mut pending) } != 0 {
            return false;
        }
        let mut found = false;
        for signal in 1..=LAST_SIGNAL {
            if contains(&pending, signal) && contains(&self.wanted, signal) {
                // While it is blocked, even an ignored signal is kept; the kernel would have
                // dropped it.
                if ignored(signal) {
                    drop_pending(signal);
                } else {
                    found = true;
                }
            }
        }
        found
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: restores the mask that `back` read. Pending handlers run now.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut()) };
    }
}

/// Closes a descriptor of our own, past our hooks.
pub fn close(fd: c_int) {
    // SAFETY: closing is memory safe; the callers own the descriptor.
    unsafe { libc::syscall(libc::SYS_close, fd) };
}

fn contains(set: &sigset_t, signal: c_int) -> bool {
    // SAFETY: an initialised set and a signal number in range.
    unsafe { libc::sigismember(set, signal) == 1 }
}

/// Whether the process ignores the signal, on purpose or by default.
fn ignored(signal: c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: only reads the action, into a live place; all zeros is a valid one.
    let handler = unsafe {
        if libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) != 0 {
            return true;
        }
        action.assume_init().sa_sigaction
    };
    let harmless = [libc::SIGCHLD, libc::SIGCONT, libc::SIGURG, libc::SIGWINCH];
    handler == libc::SIG_IGN || (handler == libc::SIG_DFL && harmless.contains(&signal))
}

fn drop_pending(signal: c_int) {
    let mut set = empty_set();
    let now = timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: an initialised set, no information wanted, and a live time of zero.
    unsafe {
        libc::sigaddset(&mut set, signal);
        libc::syscall(
            libc::SYS_rt_sigtimedwait,
            &raw const set,
            std::ptr::null_mut::<c_void>(),
            &raw const now,
            KERNEL_SET_BYTES,
        );
    }
}

fn empty_set() -> sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the whole set.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    }
}

fn full_set() -> sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigfillset initialises the whole set.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        set.assume_init()
    }
}
