//! Everything that happened, one JSON line each: ioctls, SEAMCALLs, and locks if they are asked for.
//!
//! A SEAMCALL or lock has the number of the ioctl that its thread is in.
//!
//! # Locking
//! Lines gather behind a [`Private`], and are appended to the file at the end of each ioctl, so that a VMM that
//! is killed loses no more than what the ioctls did that it was in.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use seamlock_kvm::file::{Kind, Statistics};
use seamlock_kvm::observer::Seamcall;
use seamlock_kvm::task::UserMemory;
use seamlock_kvm::{Error, File, Kvm, VcpuRef, lockdep};
use seamlock_sync::{Action, Hook, Op, Outcome, Private, Verdict};
use seamlock_tdx_abi::kvm::{Errno, KVM_MEMORY_ENCRYPT_OP, KVM_RUN};
use seamlock_tdx_abi::regs::Regs;
use seamlock_wear::{Line, Span};

use super::td::Command;
use super::{exits, words};

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
    /// ioctls that have begun.
    begun: AtomicU64,
    lines: Private<Vec<u8>>,
}

/// An ioctl that has begun.
#[derive(Debug)]
pub struct Begun {
    call: u64,
    at_ns: u64,
    request: u32,
    arg: u64,
    words: String,
    bytes: Vec<u8>,
}

thread_local! {
    /// The ioctl that the thread is in; 0 when it is in none.
    static CALL: Cell<u64> = const { Cell::new(0) };
    /// When the SEAMCALL began that the thread is in.
    static SEAMCALL: Cell<u64> = const { Cell::new(0) };
}

/// The ioctl that the thread is in.
fn call() -> Option<u64> {
    let call = CALL.try_with(Cell::get).unwrap_or(0);
    (call != 0).then_some(call)
}

/// Nanoseconds of CLOCK_MONOTONIC, which all processes of a run share.
fn now() -> u64 {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: a live place; zeros are a valid time.
    let time = unsafe {
        libc::clock_gettime(libc::CLOCK_MONOTONIC, time.as_mut_ptr());
        time.assume_init()
    };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

impl Trace {
    /// A trace that goes to this file.
    pub fn new(path: PathBuf) -> Trace {
        Trace {
            path,
            begun: AtomicU64::new(0),
            lines: Private::default(),
        }
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
    pub fn begin(&self, file: &File, request: u32, arg: u64, command: Option<&Command>) -> Begun {
        let call = self.begun.fetch_add(1, Relaxed) + 1;
        let _ = CALL.try_with(|cell| cell.set(call));
        let words = match vcpu_that_runs(file, request) {
            Some(vcpu) => exits::answer(&**vcpu.run_page()),
            None => words::argument(request, arg, command),
        };
        Begun {
            call,
            at_ns: now(),
            request,
            arg,
            words,
            bytes: bytes(request, arg),
        }
    }

    /// It is over.
    pub fn end(
        &self,
        begun: Begun,
        file: &File,
        name: String,
        command: Option<&Command>,
        result: &Result<i64, Error>,
    ) {
        let took_ns = now() - begun.at_ns;
        let Begun { request, arg, .. } = begun;
        let exited = match result {
            Ok(_) => vcpu_that_runs(file, request),
            // A memory fault fails KVM_RUN, and comes with an exit all the same.
            Err(error) if error.is(Errno::EFAULT) => vcpu_that_runs(file, request),
            Err(_) => None,
        };
        let outcome = match exited {
            Some(vcpu) => exits::words(&**vcpu.run_page()),
            None => words::outcome(request, arg, command),
        };
        let after = bytes(request, arg);
        let written = if after == begun.bytes {
            &[][..]
        } else {
            &after
        };
        self.add(&Line {
            at_ns: begun.at_ns,
            took_ns,
            thread: thread(),
            call: Some(begun.call),
            span: Span::Ioctl {
                name,
                file: name_of(file),
                arg: format!("{arg:#x}"),
                words: begun.words,
                bytes: super::hex(&begun.bytes),
                written: super::hex(written),
                value: result.as_ref().ok().copied(),
                outcome,
                errno: result.as_ref().err().map(|error| error.errno.to_string()),
                cause: result.as_ref().err().map(Error::to_string),
            },
        });
        let _ = CALL.try_with(|cell| cell.set(0));
        self.flush();
    }

    /// A SEAMCALL is about to be made.
    pub fn seamcall_begins(&self) {
        let _ = SEAMCALL.try_with(|cell| cell.set(now()));
    }

    /// A SEAMCALL came back.
    pub fn seamcall(&self, seamcall: &Seamcall) {
        let ended = now();
        let at_ns = SEAMCALL.try_with(Cell::get).unwrap_or(ended);
        let operands = |regs: &Regs| {
            let operands = [regs.rcx, regs.rdx, regs.r8, regs.r9];
            operands.map(|operand| format!("{operand:#x}"))
        };
        let (before, after) = (operands(seamcall.input), operands(seamcall.output));
        self.add(&Line {
            at_ns,
            took_ns: ended - at_ns,
            thread: thread(),
            call: call(),
            span: Span::Seamcall {
                leaf: seamcall.leaf().to_string(),
                cpu: seamcall.cpu,
                results: (after != before).then_some(after),
                operands: before,
                status: seamcall.status().to_string(),
            },
        });
    }
}

/// The vCPU, of KVM_RUN.
fn vcpu_that_runs(file: &File, request: u32) -> Option<&VcpuRef> {
    match file.kind() {
        Kind::Vcpu(vcpu) if request == KVM_RUN => Some(vcpu),
        _ => None,
    }
}

/// What an argument points to, as far as its size is known and it is shown.
fn bytes(request: u32, arg: u64) -> Vec<u8> {
    // The number is made with `unsigned long`; the structure is larger.
    let size = match request {
        KVM_MEMORY_ENCRYPT_OP => size_of::<seamlock_tdx_abi::kvm::KvmTdxCmd>(),
        _ => (request >> 16 & 0x3fff) as usize,
    };
    let mut bytes = vec![0; size.min(SHOWN_BYTES)];
    match Own.read(arg, &mut bytes) {
        Ok(()) => bytes,
        Err(_) => Vec::new(),
    }
}

/// What a file is, and whose.
fn name_of(file: &File) -> String {
    let vm = |kvm: &Kvm| format!("VM {}", kvm.number);
    let vcpu = |vcpu: &VcpuRef| format!("{}, vCPU {}", vm(vcpu.kvm()), vcpu.id());
    match file.kind() {
        Kind::System(_) => "/dev/kvm".to_owned(),
        Kind::Vm(kvm) => vm(kvm),
        Kind::Vcpu(of) => vcpu(of),
        Kind::Gmem(gmem) => format!("{}, guest_memfd", vm(gmem.kvm())),
        Kind::Stats(Statistics::Vm(kvm)) => format!("{}, statistics", vm(kvm)),
        Kind::Stats(Statistics::Vcpu(of)) => format!("{}, statistics", vcpu(of)),
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
            at_ns: now(),
            took_ns: 0,
            thread: thread(),
            call: call(),
            span: Span::Lock {
                action: format!("{:?}", op.action),
                name: op.name.to_string(),
                outcome: format!("{outcome:?}"),
                site: op.site.to_string(),
            },
        });
    }
}
