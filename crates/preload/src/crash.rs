//! What is said when the process crashes: where, and whether it was us.
//!
//! A VMM that faults says nothing; whoever sees `signal 11` can't tell its bug from one of ours. From the
//! first use of `/dev/kvm` on, a handler of the signals that a fault gives writes one line, on stderr and into
//! the record, and lets the instruction fault again, for which the kernel then does what it would have done:
//! the exit status and the core are the VMM's. A handler that the VMM has itself is left alone.
//!
//! The handler allocates nothing and takes no lock: the thread may hold any.

use std::ffi::{CStr, CString, c_int, c_void};
use std::fmt::{self, Write};
use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicPtr, Ordering::SeqCst};

use libc::{siginfo_t, ucontext_t};
use seamlock_wear::{Crash, Record, Settings};

use crate::boundary::is_inside;
use crate::log::{append_to, write};
use crate::signals::close;

/// What a fault gives.
const FAULTS: [(c_int, &str); 4] = [
    (libc::SIGSEGV, "SIGSEGV"),
    (libc::SIGBUS, "SIGBUS"),
    (libc::SIGILL, "SIGILL"),
    (libc::SIGFPE, "SIGFPE"),
];

/// The record of a process.
struct Told {
    pid: u32,
    path: CString,
}

static TOLD: AtomicPtr<Told> = AtomicPtr::new(std::ptr::null_mut());

/// Hears of crashes from now on.
pub fn hear(settings: &Settings) {
    if let Some(dir) = settings.records.as_deref() {
        let pid = std::process::id();
        let path = Record::path(dir, pid).into_os_string().into_encoded_bytes();
        if let Ok(path) = CString::new(path) {
            // One for each process; a handler may be reading it.
            TOLD.store(Box::into_raw(Box::new(Told { pid, path })), SeqCst);
        }
    }
    FAULTS.iter().for_each(|(signal, _)| install(*signal));
}

/// Installs the handler of one signal, unless there is one.
fn install(signal: c_int) {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: all zeros is a valid action; the first call only reads, into a live place; the handler has the
    // type that SA_SIGINFO asks for.
    unsafe {
        let known = libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) == 0;
        let mut action = action.assume_init();
        if !known || action.sa_sigaction != libc::SIG_DFL {
            return;
        }
        action.sa_sigaction = crashed as extern "C" fn(c_int, *mut siginfo_t, *mut c_void) as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND;
        libc::sigaction(signal, &action, std::ptr::null_mut());
    }
}

/// The handler. What it stands for is the default again by now (SA_RESETHAND).
extern "C" fn crashed(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gives both to a handler with SA_SIGINFO.
    let (code, address, ip) = unsafe {
        let registers = (*context.cast::<ucontext_t>()).uc_mcontext.gregs;
        let ip = registers[libc::REG_RIP as usize] as u64;
        ((*info).si_code, (*info).si_addr() as u64, ip)
    };
    if code <= 0 {
        // Somebody sent it, and nothing faults again.
        // SAFETY: no pointers.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread(), signal) };
        return;
    }
    let mut module = Text::default();
    let offset = find_module(ip, &mut module);
    let known = FAULTS.iter().find(|(number, _)| *number == signal);
    let own = CStr::to_bytes(c"libseamlock_preload.so");
    tell(&Crash {
        signal: known.map_or("a signal", |(_, name)| name),
        // A general protection fault has none.
        address: (code != libc::SI_KERNEL).then_some(address),
        module: module.as_str(),
        offset,
        inside: is_inside() || module.as_str().as_bytes().ends_with(own),
        thread: thread() as u64,
    });
}

fn tell(crash: &Crash<&str>) {
    let mut line = Text::default();
    let _ = writeln!(line, "seamlock: the VMM crashed: {crash}");
    write(2, line.bytes());
    // SAFETY: null, or leaked.
    let told = unsafe { TOLD.load(SeqCst).as_ref() };
    // A forked child has a record of its own, if it has any.
    if let Some(told) = told.filter(|told| told.pid == std::process::id()) {
        append_to(&told.path, json(crash).bytes());
    }
}

/// A line of the record.
fn json(crash: &Crash<&str>) -> Text {
    let mut line = Text::default();
    let _ = crash.write_event(&mut line);
    line
}

fn thread() -> i64 {
    // SAFETY: no arguments.
    unsafe { libc::syscall(libc::SYS_gettid) }
}

/// Finds the file that an address is mapped from, and how far the address is behind the file's first one.
fn find_module(address: u64, name: &mut Text) -> u64 {
    // SAFETY: a C string.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_openat,
            libc::AT_FDCWD,
            c"/proc/self/maps".as_ptr(),
            libc::O_RDONLY | libc::O_CLOEXEC,
        )
    } as c_int;
    let mut search = Search::new(address, name);
    let mut part = [0u8; 512];
    let mut is_found = false;
    while !is_found {
        // SAFETY: a live buffer of that size.
        let got = unsafe { libc::syscall(libc::SYS_read, fd, part.as_mut_ptr(), part.len()) };
        let Some(part) = usize::try_from(got).ok().and_then(|got| part.get(..got)) else {
            break;
        };
        if part.is_empty() {
            break;
        }
        is_found = part.iter().any(|byte| search.push(*byte));
    }
    close(fd);
    let offset = search.offset;
    if !is_found {
        *name = Text::default();
    }
    offset
}

/// A search through the lines of `/proc/self/maps`, byte by byte.
struct Search<'a> {
    address: u64,
    /// The file of the line before, and its first address.
    name: &'a mut Text,
    base: u64,
    line: Text,
    offset: u64,
}

impl<'a> Search<'a> {
    fn new(address: u64, name: &'a mut Text) -> Search<'a> {
        Search {
            address,
            name,
            base: 0,
            line: Text::default(),
            offset: 0,
        }
    }

    /// One more byte. Whether the address was found with it.
    fn push(&mut self, byte: u8) -> bool {
        if byte != b'\n' {
            self.line.push(byte);
            return false;
        }
        let line = std::mem::take(&mut self.line);
        self.is_in(line.as_str()).unwrap_or(false)
    }

    /// `start-end mode offset device inode name`, where the name may be missing and may have blanks.
    fn is_in(&mut self, line: &str) -> Option<bool> {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let start = u64::from_str_radix(start, 16).ok()?;
        let end = u64::from_str_radix(end, 16).ok()?;
        let name = rest.find('/').map_or("", |at| &rest[at..]);
        if name.is_empty() || self.name.as_str() != name {
            *self.name = Text::default();
            let _ = self.name.write_str(name);
            self.base = start;
        }
        let is_in = (start..end).contains(&self.address);
        if is_in {
            self.offset = self.address - self.base;
        }
        Some(is_in)
    }
}

/// A text in place; what does not fit is cut off.
struct Text {
    bytes: [u8; 512],
    len: usize,
}

impl Default for Text {
    fn default() -> Text {
        Text {
            bytes: [0; 512],
            len: 0,
        }
    }
}

impl Text {
    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = byte;
            self.len += 1;
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Up to the first byte that is no UTF-8.
    fn as_str(&self) -> &str {
        let bytes = self.bytes();
        std::str::from_utf8(bytes).unwrap_or_else(|error| {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default()
        })
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.push(byte));
        Ok(())
    }
}

impl io::Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        bytes.iter().for_each(|byte| self.push(*byte));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_in_its_file_and_in_no_other() {
        let maps = "1000-2000 r--p 00000000 08:01 7 /usr/bin/a vmm\n\
                    2000-4000 r-xp 00001000 08:01 7 /usr/bin/a vmm\n\
                    6000-7000 rw-p 00000000 00:00 0 \n\
                    8000-9000 r-xp 00000000 00:00 0 [vdso]\n\
                    a000-b000 r-xp 00003000 08:01 8 /lib/b.so\n";
        let of = |address| {
            let mut name = Text::default();
            let mut search = Search::new(address, &mut name);
            let found = maps.bytes().any(|byte| search.push(byte));
            let offset = search.offset;
            found.then(|| (name.as_str().to_owned(), offset))
        };
        assert_eq!(of(0x2345), Some(("/usr/bin/a vmm".to_owned(), 0x1345)));
        assert_eq!(of(0xa001), Some(("/lib/b.so".to_owned(), 1)));
        assert_eq!(of(0x8000), Some((String::new(), 0)));
        assert_eq!(of(0x5000), None);
        assert_eq!(of(1), None);
    }

    #[test]
    fn our_own_code_is_found_in_a_file() {
        let mut name = Text::default();
        let here = find_module as fn(u64, &mut Text) -> u64;
        assert!(find_module(here as usize as u64, &mut name) > 0);
        assert!(name.as_str().starts_with('/'), "{}", name.as_str());
        assert_eq!(find_module(1, &mut name), 0);
        assert_eq!(name.as_str(), "");
    }

    #[test]
    fn the_record_has_what_was_found() {
        let crash = Crash {
            signal: "SIGSEGV",
            address: Some(1),
            module: "/usr/bin/\"vmm\"",
            offset: 2,
            inside: true,
            thread: 3,
        };
        let event = serde_json::from_slice(json(&crash).bytes()).expect("an event");
        let seamlock_wear::Event::Crash(read) = event else {
            unreachable!("another event: {event:?}");
        };
        assert_eq!(read.to_string(), crash.to_string());
    }
}
