//! Signals of the calling thread, held back while it is in KVM.
//!
//! The kernel runs no handler while a thread is inside an ioctl; the signal is pending until the ioctl
//! returns, and a sleeping KVM_RUN returns -EINTR for it. [`Held`] does the same: it blocks signals
//! from the first look at `immediate_exit` to the return, so that none is lost in between, and asks which
//! are pending, without taking them. Handlers run when the mask is restored.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;

use libc::timespec;
use seamlock_kvm::task::Signals;

/// The kernel's signal set: signal 1 in bit 0.
type Set = u64;

/// The C library's own two signals, which it never lets anybody block: cancellation, and setuid.
const THREADS: Set = 3 << 31;
/// Faults of the thread itself. Blocked they would end the process without a word.
const FAULTS: Set = 1 << (libc::SIGSEGV - 1) | 1 << (libc::SIGILL - 1) | 1 << (libc::SIGFPE - 1);

/// The thread's signals are held back while this lives.
pub struct Held {
    before: Set,
    /// Signals that end a sleep.
    wanted: Set,
}

impl Held {
    /// Blocks every signal but [`FAULTS`]. `mask`, where given, stands for the thread's own (KVM_SET_SIGNAL_MASK).
    pub fn back(mask: Option<u64>) -> Held {
        let before = set_mask(libc::SIG_BLOCK, !(THREADS | FAULTS));
        Held {
            before,
            wanted: !mask.unwrap_or(before),
        }
    }
}

impl Signals for Held {
    /// Whether a signal waits that would be handled, or would end us.
    fn pending(&self) -> bool {
        let mut found = false;
        let mut left = pending() & self.wanted;
        while left != 0 {
            let signal = left.trailing_zeros() as c_int + 1;
            left &= left - 1;
            // While it is blocked, even an ignored signal is kept; the kernel would have dropped it.
            if ignored(signal) {
                drop_pending(signal);
            } else {
                found = true;
            }
        }
        found
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Pending handlers run now.
        set_mask(libc::SIG_SETMASK, self.before);
    }
}

/// Signals for a KVM_RUN that returns at once, because `immediate_exit` was set when it was looked at:
/// nothing is held back. Should a handler have cleared it since, then that was the signal that ends it.
pub struct AtOnce;

impl Signals for AtOnce {
    fn pending(&self) -> bool {
        true
    }
}

/// Changes the thread's mask; what it was before.
fn set_mask(how: c_int, set: Set) -> Set {
    let mut before: Set = 0;
    // SAFETY: two live sets of the kernel's size.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            how,
            &raw const set,
            &raw mut before,
            size_of::<Set>(),
        )
    };
    before
}

/// Signals that wait for this thread or for any.
fn pending() -> Set {
    let mut set: Set = 0;
    // SAFETY: a live set of the kernel's size.
    let failed = unsafe { libc::syscall(libc::SYS_rt_sigpending, &raw mut set, size_of::<Set>()) };
    if failed == 0 { set } else { 0 }
}

/// Closes a descriptor of our own, past our hooks.
pub fn close(fd: c_int) {
    // SAFETY: closing is memory safe; the callers own the descriptor.
    unsafe { libc::syscall(libc::SYS_close, fd) };
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
    let set: Set = 1 << (signal - 1);
    let now = timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a live set of the kernel's size, no information wanted, and a live time of zero.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigtimedwait,
            &raw const set,
            std::ptr::null_mut::<c_void>(),
            &raw const now,
            size_of::<Set>(),
        );
    }
}
