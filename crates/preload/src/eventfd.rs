//! Eventfds of the VMM, as KVM keeps them.
//!
//! The kernel holds the eventfd itself; we know a number. To hold it we would need a descriptor of our own
//! for each, which the VMM would see and might close. So the eventfd is known by the identity that the
//! kernel gives it, and looked up again when it is signalled: one whose descriptor was closed meanwhile
//! is not signalled.

use std::ffi::{c_int, c_void};

use seamlock_kvm::vm::eventfds::EventFd;
use seamlock_tdx_abi::kvm::Errno;

/// An eventfd of the VMM.
#[derive(Debug)]
pub struct Known {
    fd: c_int,
    id: u64,
}

impl Known {
    /// The eventfd of a descriptor.
    ///
    /// # Errors
    /// EBADF when it is not open, EINVAL when it is something else.
    pub fn of(fd: c_int) -> Result<Known, Errno> {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}"));
        let info = info.map_err(|_| Errno::EBADF)?;
        match identity(&info) {
            Some(id) => Ok(Known { fd, id }),
            None => Err(Errno::EINVAL),
        }
    }
}

/// The line `eventfd-id`.
fn identity(fdinfo: &str) -> Option<u64> {
    fdinfo
        .lines()
        .find_map(|line| line.strip_prefix("eventfd-id:")?.trim().parse().ok())
}

impl EventFd for Known {
    fn id(&self) -> u64 {
        self.id
    }

    fn signal(&self) {
        if Known::of(self.fd).is_ok_and(|now| now.id == self.id) {
            let one = 1u64;
            // SAFETY: a live value of eight bytes. A full counter refuses it, as the kernel drops it.
            unsafe {
                libc::syscall(
                    libc::SYS_write,
                    self.fd,
                    (&raw const one).cast::<c_void>(),
                    8,
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signals::close;

    fn eventfd() -> c_int {
        // SAFETY: no pointers.
        unsafe { libc::eventfd(0, libc::EFD_NONBLOCK) }
    }

    #[test]
    fn an_eventfd_is_known_by_its_identity_and_not_by_its_number() {
        let (a, b) = (eventfd(), eventfd());
        // SAFETY: no pointers.
        let copy = unsafe { libc::dup(a) };
        let known = Known::of(a).expect("an eventfd");
        assert_eq!(known.id(), Known::of(copy).expect("the same").id());
        assert_ne!(known.id(), Known::of(b).expect("another").id());
        known.signal();
        let mut count = 0u64;
        // SAFETY: a live place of eight bytes.
        let read = unsafe { libc::read(copy, (&raw mut count).cast(), 8) };
        assert_eq!((read, count), (8, 1));
        [a, b, copy].into_iter().for_each(close);
        assert_eq!(Known::of(a).err(), Some(Errno::EBADF));
        assert_eq!(Known::of(2).err(), Some(Errno::EINVAL));
    }
}
