//! Eventfds of the VMM, as KVM keeps them.
//!
//! The kernel holds the eventfd itself, until its file is closed. To hold it we would need a descriptor of
//! our own for each, which the VMM would see and might close, and nobody would tell us that the VMM has
//! closed the last of its own. So one epoll instance of ours watches them for nothing: an entry in it lives
//! exactly as long as the file. While it does, the number that the kernel gives the eventfd is no other's.
//!
//! An eventfd is signalled by the descriptor that it was shown by: when that one was closed, it is not.
//!
//! # Locking
//! What was shown is behind a [`Private`], which is not held while KVM is called.

use std::ffi::{c_int, c_void};

use seamlock_kvm::vm::eventfds::EventFd;
use seamlock_sync::Private;
use seamlock_tdx_abi::kvm::Errno;

use crate::process::process;
use crate::signals::close;

/// Where our descriptor goes if it can: out of the way of those that a VMM counts on.
const FAR: c_int = 900;

/// The eventfds of this process that KVM was shown.
#[derive(Debug, Default)]
pub struct Eventfds {
    shown: Private<Shown>,
}

#[derive(Debug, Default)]
struct Shown {
    /// The epoll instance, once it is needed.
    epoll: Option<c_int>,
    /// Every entry of it, with some whose file is closed.
    entries: Vec<Entry>,
    last: u64,
}

/// An entry of the epoll instance: a file by one descriptor.
#[derive(Clone, Copy, Debug)]
struct Entry {
    fd: c_int,
    /// No other entry ever has it.
    token: u64,
    /// The number that the kernel gives the eventfd while its file is open.
    number: u64,
    /// The token of the first entry of the same eventfd.
    id: u64,
}

/// An eventfd of the VMM.
#[derive(Debug)]
pub struct Known {
    entry: Entry,
}

impl Eventfds {
    /// The eventfd of a descriptor.
    ///
    /// # Errors
    /// EBADF when it is not open, EINVAL when it is something else, ENOMEM when it can't be watched.
    pub fn of(&self, fd: c_int) -> Result<Known, Errno> {
        self.shown.with(|shown| {
            loop {
                if let Some(entry) = shown.show(fd)? {
                    return Ok(Known { entry });
                }
            }
        })
    }

    /// Whether a descriptor is still that of the file that an entry was made for.
    fn is_current(&self, entry: &Entry) -> bool {
        self.shown.with(|shown| {
            shown.latest(entry.fd).map(|e| e.token) == Some(entry.token)
                && shown.control(libc::EPOLL_CTL_MOD, entry.fd, entry.token) == Ok(())
        })
    }
}

impl Shown {
    /// The entry of a descriptor; None when another thread gave it to another file meanwhile. One that was
    /// shown already costs one system call.
    fn show(&mut self, fd: c_int) -> Result<Option<Entry>, Errno> {
        let token = self.last + 1;
        match self.control(libc::EPOLL_CTL_ADD, fd, token) {
            Ok(()) => {
                self.last = token;
                self.enter(fd, token)
            }
            Err(libc::EEXIST) => self.latest(fd).ok_or(Errno::ENOMEM).map(Some),
            // Ours was never there, or the VMM has closed it, if it is not the VMM's that is closed: what it
            // watched is not known any more.
            Err(libc::EBADF | libc::EINVAL) => {
                number(fd)?;
                self.entries.clear();
                self.epoll = Some(new_epoll()?);
                Ok(None)
            }
            Err(_) => number(fd).and(Err(Errno::ENOMEM)),
        }
    }

    /// Keeps a new entry, if it is an eventfd's.
    fn enter(&mut self, fd: c_int, token: u64) -> Result<Option<Entry>, Errno> {
        let number = number(fd);
        if self.control(libc::EPOLL_CTL_MOD, fd, token) != Ok(()) {
            return Ok(None);
        }
        let number = number.inspect_err(|_| {
            // It watches nothing else for long.
            let _ = self.control(libc::EPOLL_CTL_DEL, fd, token);
        })?;
        let open = self.tokens();
        self.entries.retain(|entry| open.contains(&entry.token));
        let same = self.entries.iter().find(|entry| entry.number == number);
        let entry = Entry {
            fd,
            token,
            number,
            id: same.map_or(token, |entry| entry.id),
        };
        self.entries.push(entry);
        Ok(Some(entry))
    }

    fn latest(&self, fd: c_int) -> Option<Entry> {
        self.entries.iter().rfind(|entry| entry.fd == fd).copied()
    }

    /// `epoll_ctl`, for no events.
    fn control(&self, operation: c_int, fd: c_int, token: u64) -> Result<(), c_int> {
        let epoll = self.epoll.ok_or(libc::EBADF)?;
        let mut event = libc::epoll_event {
            events: 0,
            u64: token,
        };
        // SAFETY: a live event.
        match unsafe { libc::epoll_ctl(epoll, operation, fd, &raw mut event) } {
            0 => Ok(()),
            _ => Err(crate::errno::last()),
        }
    }

    /// The tokens of the entries whose file is open.
    fn tokens(&self) -> Vec<u64> {
        let path = format!("/proc/self/fdinfo/{}", self.epoll.unwrap_or(-1));
        let info = std::fs::read_to_string(path).unwrap_or_default();
        info.lines().filter_map(token).collect()
    }
}

fn new_epoll() -> Result<c_int, Errno> {
    // SAFETY: no pointers.
    let low = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    if low < 0 {
        return Err(Errno::ENOMEM);
    }
    // SAFETY: no pointers.
    let far = unsafe { libc::syscall(libc::SYS_fcntl, low, libc::F_DUPFD_CLOEXEC, FAR) };
    if far < 0 {
        return Ok(low);
    }
    close(low);
    Ok(far as c_int)
}

/// The token in a line `tfd: 5 events: 0 data: 1 …` of an epoll instance.
fn token(line: &str) -> Option<u64> {
    let data = line.split_once("data:")?.1;
    u64::from_str_radix(data.split_whitespace().next()?, 16).ok()
}

/// What the kernel numbers the eventfd of a descriptor with: the line `eventfd-id`.
fn number(fd: c_int) -> Result<u64, Errno> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}"));
    let info = info.map_err(|_| Errno::EBADF)?;
    let found = info.lines().find_map(|l| l.strip_prefix("eventfd-id:"));
    match found.and_then(|number| number.trim().parse().ok()) {
        Some(number) => Ok(number),
        None if is_for_a_moment(fd) => Err(Errno::EBADF),
        None => Err(Errno::EINVAL),
    }
}

/// Whether a number that the VMM has closed is that of a file which another thread of ours reads or writes
/// just now: the record, or what we ask of `/proc`.
fn is_for_a_moment(fd: c_int) -> bool {
    let Ok(path) = std::fs::read_link(format!("/proc/self/fd/{fd}")) else {
        return true;
    };
    let records = crate::process::settings().records.as_deref();
    path.starts_with("/proc") || records.is_some_and(|records| path.starts_with(records))
}

impl EventFd for Known {
    fn id(&self) -> u64 {
        self.entry.id
    }

    fn signal(&self) {
        if process().eventfds.is_current(&self.entry) {
            let one = 1u64;
            // SAFETY: a live value of eight bytes. A full counter refuses it, as the kernel drops it.
            unsafe {
                libc::syscall(
                    libc::SYS_write,
                    self.entry.fd,
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

    fn eventfd() -> c_int {
        // SAFETY: no pointers.
        unsafe { libc::eventfd(0, libc::EFD_NONBLOCK) }
    }

    fn dup(fd: c_int) -> c_int {
        // SAFETY: no pointers.
        unsafe { libc::dup(fd) }
    }

    fn of(fd: c_int) -> Result<Known, Errno> {
        process().eventfds.of(fd)
    }

    #[test]
    fn an_eventfd_is_known_by_its_identity_and_not_by_its_number() {
        let (a, b) = (eventfd(), eventfd());
        let copy = dup(a);
        let known = of(a).expect("an eventfd");
        assert_eq!(known.id(), of(a).expect("the same").id());
        assert_eq!(known.id(), of(copy).expect("the same").id());
        assert_ne!(known.id(), of(b).expect("another").id());
        known.signal();
        let mut count = 0u64;
        // SAFETY: a live place of eight bytes.
        let read = unsafe { libc::read(copy, (&raw mut count).cast(), 8) };
        assert_eq!((read, count), (8, 1));
        // The file lives on by its copy.
        close(a);
        assert_eq!(known.id(), of(copy).expect("the same").id());
        [b, copy].into_iter().for_each(close);
        assert_eq!(of(-1).err(), Some(Errno::EBADF));
        assert_eq!(of(2).err(), Some(Errno::EINVAL));
    }

    #[test]
    fn an_eventfd_that_was_closed_is_never_taken_for_a_later_one() {
        let mut ids = Vec::new();
        for _ in 0..50 {
            let fd = eventfd();
            ids.push(of(fd).expect("an eventfd").id());
            close(fd);
        }
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 50);
    }

    #[test]
    fn our_own_descriptor_may_be_closed() {
        let (mine, fd) = (Eventfds::default(), eventfd());
        let before = mine.of(fd).expect("an eventfd").id();
        close(mine.shown.with(|shown| shown.epoll.expect("made")));
        let other = eventfd();
        assert_ne!(before, mine.of(other).expect("an eventfd").id());
        [fd, other].into_iter().for_each(close);
    }
}
