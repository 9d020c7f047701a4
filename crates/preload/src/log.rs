//! What we have to say: on stderr, and as events in the record of the run.
//!
//! # Locking
//! None. A line is one `write` to a file opened for appending, so that lines of several threads never
//! mix, nothing stays open, and a killed VMM loses nothing.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_int, c_void};
use std::path::Path;
use std::sync::Once;

use seamlock_wear::{Event, Record};

use crate::signals::close;

/// Says one line on stderr.
pub fn say(text: &str) {
    let line = format!("seamlock: {text}\n");
    write(2, line.as_bytes());
}

/// Says a line on stderr and records it as a warning.
pub fn warn(text: &str) {
    say(text);
    record(&Event::Warning {
        text: text.to_owned(),
    });
}

thread_local! {
    /// Where the thread panicked last, and why.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// From now on a panic is kept for [`panicked`], and not printed in many lines to the VMM's stderr. The
/// hook is that of our own copy of the Rust library: a VMM in Rust has another.
pub fn hear_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let why = info.payload_as_str().unwrap_or_default();
            let at = info
                .location()
                .map(|at| format!(" at {}:{}", at.file(), at.line()));
            let text = format!("{why}{}", at.unwrap_or_default());
            // A thread that ends has nowhere to keep it.
            let _ = PANIC.try_with(|panic| panic.replace(text));
        }));
    });
}

/// Says that a call panicked. That is a bug of ours; the VMM sees EIO.
pub fn panicked(call: &str) {
    let text = PANIC.try_with(RefCell::take).unwrap_or_default();
    let text = format!("{call} panicked: {text}");
    say(&format!("bug: {text}; it returns EIO"));
    record(&Event::Bug { text });
}

/// Whether this run keeps a record.
pub fn is_recording() -> bool {
    crate::process::settings().records.is_some()
}

/// Records an event, if this run keeps a record.
pub fn record(event: &Event) {
    let Some(dir) = crate::process::settings().records.as_deref() else {
        return;
    };
    let Ok(mut line) = serde_json::to_vec(event) else {
        return;
    };
    line.push(b'\n');
    append(&Record::path(dir, std::process::id()), &line);
}

/// Appends bytes to a file, past our hooks.
pub fn append(path: &Path, bytes: &[u8]) {
    if let Ok(path) = CString::new(path.as_os_str().as_encoded_bytes()) {
        append_to(&path, bytes);
    }
}

/// As [`append`], and may be called in a signal handler.
pub fn append_to(path: &CStr, bytes: &[u8]) {
    // SAFETY: a C string; the flags create a file that only its owner writes.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_openat,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT | libc::O_CLOEXEC,
            0o644,
        )
    } as c_int;
    if fd >= 0 {
        write(fd, bytes);
        close(fd);
    }
}

/// Writes to a descriptor, past our hooks. May be called in a signal handler.
pub fn write(fd: c_int, bytes: &[u8]) {
    // SAFETY: a live buffer. What can't be written is lost, as a log line may be.
    unsafe {
        libc::syscall(
            libc::SYS_write,
            fd,
            bytes.as_ptr().cast::<c_void>(),
            bytes.len(),
        )
    };
}
