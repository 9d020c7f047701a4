//! The memory of the process by address, with a fault where the kernel would have one.
//!
//! Two ways to copy. What lies on the calling thread's stack, above the frame that copies, is mapped as
//! long as the thread will ever return, so it is copied as it is; small ioctl arguments usually are
//! there (5 ns). Everything else goes through `process_vm_readv` and `process_vm_writev` on ourselves,
//! which fail where a plain access would be a SIGSEGV (0.8 us, 1.0 us for a page). Where a sandbox
//! forbids these, a pipe does it: the kernel copies in and out of a pipe with the same checks.

use std::cell::Cell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use libc::iovec;
use seamlock_kvm::task::{Fault, UserMemory};

use crate::signals::close;

/// The memory of the calling process.
#[derive(Debug)]
pub struct Own;

impl UserMemory for Own {
    fn read(&self, addr: u64, out: &mut [u8]) -> Result<(), Fault> {
        if on_own_stack(addr, out.len()) {
            // SAFETY: the range lies between this frame and the base of this thread's stack, which
            // is mapped. Bytes have no invalid values.
            unsafe { std::ptr::copy(addr as *const u8, out.as_mut_ptr(), out.len()) };
            return Ok(());
        }
        let (local, len) = (out.as_mut_ptr(), out.len());
        checked(Way::In, addr, local, len)
    }

    fn write(&self, addr: u64, bytes: &[u8]) -> Result<(), Fault> {
        if on_own_stack(addr, bytes.len()) {
            // SAFETY: as in `read`; the VMM gave the address of its own object for us to fill.
            unsafe { std::ptr::copy(bytes.as_ptr(), addr as *mut u8, bytes.len()) };
            return Ok(());
        }
        checked(Way::Out, addr, bytes.as_ptr().cast_mut(), bytes.len())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// From the address to us.
    In,
    /// From us to the address; `local` is only read.
    Out,
}

/// A thread's stack, from its lowest address to its base.
#[derive(Clone, Copy)]
struct Stack {
    start: u64,
    end: u64,
}

thread_local! {
    /// The stack that the thread was started on, once it is known.
    static STACK: Cell<Option<Stack>> = const { Cell::new(None) };
}

/// Whether the range lies in this thread's stack, in frames that are still to be returned to.
// Not inlined: `here` must lie below the caller's frame.
#[inline(never)]
fn on_own_stack(addr: u64, len: usize) -> bool {
    let frame = 0u8;
    let here = (&raw const frame) as u64;
    if addr < here {
        return false;
    }
    let stack = STACK.try_with(|cell| cell.get().unwrap_or_else(|| find_stack(cell)));
    match (stack, addr.checked_add(len as u64)) {
        // On a coroutine's or a signal handler's own stack `here` lies outside: only the slow way
        // is safe then.
        (Ok(stack), Some(last)) => stack.start <= here && here < stack.end && last <= stack.end,
        _ => false,
    }
}

#[cold]
fn find_stack(cell: &Cell<Option<Stack>>) -> Stack {
    let mut start: *mut c_void = std::ptr::null_mut();
    let mut size = 0usize;
    // SAFETY: `attr` is initialised by pthread_getattr_np before it is read, and destroyed once.
    let known = unsafe {
        let mut attr = std::mem::zeroed::<libc::pthread_attr_t>();
        libc::pthread_getattr_np(libc::pthread_self(), &mut attr) == 0 && {
            let got = libc::pthread_attr_getstack(&attr, &mut start, &mut size);
            libc::pthread_attr_destroy(&mut attr);
            got == 0
        }
    };
    let start = start as u64;
    // An empty stack holds nothing: the thread stays on the slow way.
    let stack = Stack {
        start,
        end: if known { start + size as u64 } else { start },
    };
    cell.set(Some(stack));
    stack
}

/// Set when `process_vm_readv` is not allowed here.
static FORBIDDEN: AtomicBool = AtomicBool::new(false);

fn checked(way: Way, addr: u64, local: *mut u8, len: usize) -> Result<(), Fault> {
    if len == 0 {
        return Ok(());
    }
    if !FORBIDDEN.load(Relaxed) {
        match by_process_vm(way, addr, local, len) {
            Ok(done) => return done,
            Err(Forbidden) => FORBIDDEN.store(true, Relaxed),
        }
    }
    by_pipe(way, addr, local, len)
}

struct Forbidden;

fn by_process_vm(
    way: Way,
    addr: u64,
    local: *mut u8,
    len: usize,
) -> Result<Result<(), Fault>, Forbidden> {
    let ours = iovec {
        iov_base: local.cast(),
        iov_len: len,
    };
    let theirs = iovec {
        iov_base: addr as *mut c_void,
        iov_len: len,
    };
    // SAFETY: `ours` is a live buffer of `len` bytes, written only for Way::In, where it came from
    // a `&mut`; `theirs` is checked by the kernel.
    let copied = unsafe {
        let pid = libc::getpid();
        match way {
            Way::In => libc::process_vm_readv(pid, &ours, 1, &theirs, 1, 0),
            Way::Out => libc::process_vm_writev(pid, &ours, 1, &theirs, 1, 0),
        }
    };
    if copied == len as isize {
        return Ok(Ok(()));
    }
    match crate::errno::last() {
        libc::ENOSYS | libc::EPERM if copied < 0 => Err(Forbidden),
        _ => Ok(Err(Fault)),
    }
}

/// Bytes that go through the pipe at once: what a pipe holds at the least.
const PIPE_CHUNK: usize = 4096;

fn by_pipe(way: Way, addr: u64, local: *mut u8, len: usize) -> Result<(), Fault> {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(Fault);
    }
    let mut done = Ok(());
    let mut at = 0;
    while at < len && done.is_ok() {
        let n = PIPE_CHUNK.min(len - at);
        let theirs = addr.wrapping_add(at as u64) as *mut c_void;
        // SAFETY: `local` has `len` bytes, so `at` is inside.
        let ours = unsafe { local.add(at) }.cast::<c_void>();
        let (from, to) = if way == Way::In {
            (theirs, ours)
        } else {
            (ours, theirs)
        };
        // SAFETY: the side that is ours is live and large enough; the other is checked by the
        // kernel.
        let moved = unsafe {
            libc::syscall(libc::SYS_write, ends[1], from, n) == n as i64
                && libc::syscall(libc::SYS_read, ends[0], to, n) == n as i64
        };
        if !moved {
            done = Err(Fault);
        }
        at += n;
    }
    ends.into_iter().for_each(close);
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hole() -> u64 {
        // SAFETY: maps a fresh page without access.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                4096,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(page, libc::MAP_FAILED);
        page as u64
    }

    #[test]
    fn the_stack_and_the_heap_are_read_and_written() {
        let mut stack = [1u8, 2, 3, 4];
        let mut heap = vec![5u8, 6, 7, 8];
        let mut out = [0; 4];
        assert!(on_own_stack((&raw const stack) as u64, 4));
        assert!(!on_own_stack(heap.as_ptr() as u64, 4));
        for (addr, was) in [
            ((&raw mut stack) as u64, [1, 2, 3, 4]),
            (heap.as_mut_ptr() as u64, [5, 6, 7, 8]),
        ] {
            assert_eq!(Own.read(addr, &mut out), Ok(()));
            assert_eq!(out, was);
            assert_eq!(Own.write(addr, &[9; 4]), Ok(()));
            assert_eq!(Own.read(addr, &mut out), Ok(()));
            assert_eq!(out, [9; 4]);
        }
    }

    #[test]
    fn what_is_not_mapped_faults_by_either_way() {
        let hole = hole();
        let mut out = [0u8; 8];
        for addr in [
            0,
            8,
            hole,
            hole - 4 + 4096,
            u64::MAX - 3,
            0xffff_8000_0000_0000,
        ] {
            assert_eq!(Own.read(addr, &mut out), Err(Fault), "{addr:#x}");
            assert_eq!(Own.write(addr, &out), Err(Fault), "{addr:#x}");
            assert_eq!(
                by_pipe(Way::In, addr, out.as_mut_ptr(), 8),
                Err(Fault),
                "{addr:#x}"
            );
            assert_eq!(
                by_pipe(Way::Out, addr, out.as_mut_ptr(), 8),
                Err(Fault),
                "{addr:#x}"
            );
        }
    }

    #[test]
    fn the_pipe_copies_more_than_it_holds() {
        let from: Vec<u8> = (0..10_000u32).map(|i| i as u8).collect();
        let mut to = vec![0; from.len()];
        let len = from.len();
        assert_eq!(
            by_pipe(Way::In, from.as_ptr() as u64, to.as_mut_ptr(), len),
            Ok(())
        );
        assert_eq!(from, to);
        to.fill(0);
        let ours = from.as_ptr().cast_mut();
        assert_eq!(by_pipe(Way::Out, to.as_mut_ptr() as u64, ours, len), Ok(()));
        assert_eq!(from, to);
    }
}
