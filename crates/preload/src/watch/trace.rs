//! Everything that happened, one JSON line each: ioctls, SEAMCALLs, and locks if they are asked for.
//!
//! # Locking
//! Lines gather behind a [`Private`] and are appended to the file when there are many of them, and
//! whenever the counts are told.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use seamlock_kvm::Error;
use seamlock_kvm::lockdep;
use seamlock_kvm::observer::Seamcall;
use seamlock_kvm::task::UserMemory;
use seamlock_sync::{Action, Hook, Op, Outcome, Private, Verdict};
use seamlock_wear::{Line, Span};

use crate::log::append;
use crate::memory::Own;

/// Bytes that gather before they are written.
const FLUSH_BYTES: usize = 64 << 10;
/// Bytes of an ioctl's argument that a line shows.
const SHOWN_BYTES: usize = 64;

/// The trace of one process.
#[derive(Debug)]
pub struct Trace {
    path: PathBuf,
    start: Instant,
    lines: Private<Vec<u8>>,
}

/// An ioctl that has begun.
#[derive(Debug)]
pub struct Begun {
    at_ns: u64,
    arg: u64,
    bytes: String,
}

impl Trace {
    /// A trace that goes to this file.
    // Times are for the reader only.
    #[allow(clippy::disallowed_methods)]
    pub fn new(path: PathBuf) -> Trace {
        Trace {
            path,
            start: Instant::now(),
            lines: Private::default(),
        }
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn add(&self, line: &Line) {
        let Ok(mut json) = serde_json::to_vec(line) else {
            return;
        };
        json.push(b'\n');
        let full = self.lines.with(|lines| {
            lines.extend_from_slice(&json);
            (lines.len() >= FLUSH_BYTES).then(|| std::mem::take(lines))
        });
        if let Some(lines) = full {
            append(&self.path, &lines);
        }
    }

    /// Writes what has gathered.
    pub fn flush(&self) {
        let lines = self.lines.with(std::mem::take);
        if !lines.is_empty() {
            append(&self.path, &lines);
        }
    }

    /// An ioctl begins. Its argument is shown as it is now.
    pub fn begin(&self, request: u32, arg: u64) -> Begun {
        let size = (request >> 16 & 0x3fff) as usize;
        let mut bytes = vec![0; size.min(SHOWN_BYTES)];
        let shown = size > 0 && Own.read(arg, &mut bytes).is_ok();
        let bytes = if shown {
            super::hex(&bytes)
        } else {
            String::new()
        };
        Begun {
            at_ns: self.now(),
            arg,
            bytes,
        }
    }

    /// It is over.
    pub fn end(
        &self,
        begun: Begun,
        name: String,
        result: &Result<i64, Error>,
        exit: Option<String>,
    ) {
        let (value, errno, cause) = match result {
            Ok(value) => (Some(*value), None, exit),
            Err(error) => (None, Some(error.errno.to_string()), Some(error.to_string())),
        };
        self.add(&Line {
            at_ns: begun.at_ns,
            took_ns: self.now() - begun.at_ns,
            thread: thread(),
            span: Span::Ioctl {
                name,
                arg: begun.arg,
                bytes: begun.bytes,
                value,
                errno,
                cause,
            },
        });
    }

    /// A SEAMCALL came back.
    pub fn seamcall(&self, call: &Seamcall) {
        let operands = [call.input.rcx, call.input.rdx, call.input.r8, call.input.r9];
        self.add(&Line {
            at_ns: self.now(),
            took_ns: 0,
            thread: thread(),
            span: Span::Seamcall {
                leaf: call.leaf().to_string(),
                cpu: call.cpu,
                operands,
                status: call.status().to_string(),
            },
        });
    }
}

/// The thread's number, as the kernel counts.
fn thread() -> u64 {
    // SAFETY: no arguments.
    unsafe { libc::syscall(libc::SYS_gettid) as u64 }
}

/// Hears every operation on a lock, and hands it on to lockdep.
#[derive(Debug)]
pub struct Locks(pub Arc<Trace>);

impl Hook for Locks {
    fn before(&self, op: &Op) -> Verdict {
        lockdep::before(op);
        Verdict::Go
    }

    fn after(&self, op: &Op, outcome: Outcome) {
        lockdep::after(op, outcome);
        match op.action {
            Action::Load | Action::Store | Action::Update | Action::Point => return,
            Action::AwaitRelease => std::thread::yield_now(),
            _ => {}
        }
        self.0.add(&Line {
            at_ns: self.0.now(),
            took_ns: 0,
            thread: thread(),
            span: Span::Lock {
                action: format!("{:?}", op.action),
                name: op.name.to_string(),
                outcome: format!("{outcome:?}"),
                site: op.site.to_string(),
            },
        });
    }
}
