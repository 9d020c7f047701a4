//! The machine of this process, and calls into it.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Instant;

use seamlock_kvm::file::Kind;
use seamlock_kvm::guest::script::{self, Script};
use seamlock_kvm::host::Inject;
use seamlock_kvm::lockdep::Lockdep;
use seamlock_kvm::task::{Signals, UserMemory};
use seamlock_kvm::{Control, Error, File, Host, Options, Task, VcpuRef, discipline};
use seamlock_tdx_abi::kvm::{
    KVM_CREATE_VCPU, KVM_CREATE_VM, KVM_MEMORY_ENCRYPT_OP, KVM_PRE_FAULT_MEMORY, KVM_RUN,
    KVM_SET_MEMORY_ATTRIBUTES, KVM_SET_USER_MEMORY_REGION, KVM_SET_USER_MEMORY_REGION2, ioctl_info,
};
use seamlock_tdx_module::Platform;
use seamlock_wear::{Event, Record, Settings};

use crate::crash;
use crate::files::Descriptors;
use crate::fork;
use crate::inject::Injections;
use crate::log::record;
use crate::memory::Own;
use crate::native::Seen;
use crate::process::process;
use crate::signals::{AtOnce, Held};
use crate::watch::{Command, Locks, Observing, TELL_EVERY, Trace, Watch};

/// A booted machine.
#[derive(Debug)]
pub struct Machine {
    host: Arc<Host>,
    watch: Arc<Watch>,
    injections: Injections,
    opened: Instant,
}

impl Machine {
    /// Boots a machine.
    ///
    /// # Errors
    /// What is wrong, as a sentence.
    // The time goes into the record only, never into what KVM or the module do.
    #[allow(clippy::disallowed_methods)]
    pub fn boot(settings: &Settings) -> Result<Machine, String> {
        let opened = Instant::now();
        let platform = Platform::sapphire_rapids(settings.memory, settings.lps);
        let (injections, wrong) = Injections::parse(&settings.inject);
        if let Some(text) = wrong.into_iter().next() {
            return Err(text);
        }
        let trace = settings
            .records
            .as_deref()
            .filter(|_| settings.trace)
            .map(|dir| Arc::new(Trace::new(Record::trace_path(dir, std::process::id()))));
        let watch = Arc::new(Watch::new(settings.verbose, trace));
        let options = options(settings, &watch, &injections)?;
        let host = Host::boot_with(platform, options)
            .map_err(|error| format!("the machine does not boot: {error}"))?;
        if let Some(trace) = watch.trace.as_ref().filter(|_| settings.lockdep) {
            seamlock_sync::install_global(Some(Arc::new(Locks(trace.clone()))));
        }
        let program = std::env::args().next().unwrap_or_default();
        record(&Event::Boot {
            pid: std::process::id(),
            program,
            took_us: opened.elapsed().as_micros() as u64,
        });
        at_exit();
        crash::hear(settings);
        Ok(Machine {
            host,
            watch,
            injections,
            opened,
        })
    }

    /// A new file of `/dev/kvm`.
    pub fn open(&self) -> Arc<File> {
        File::open_kvm(&self.host)
    }

    /// An ioctl on a file of ours.
    ///
    /// # Errors
    /// KVM's refusal.
    pub fn ioctl(&self, file: &Arc<File>, request: u32, arg: u64) -> Result<i64, Error> {
        let command = Command::before(request, arg);
        let begun = self
            .watch
            .trace
            .as_ref()
            .map(|trace| (trace, trace.begin(file, request, arg, command.as_ref())));
        let result = self
            .inject(request, command.as_ref())
            .unwrap_or_else(|| self.call(file, request, arg, command.as_ref()));
        if let Some((trace, begun)) = begun {
            let name = name(request, command.as_ref());
            trace.end(begun, file, name, command.as_ref(), &result);
        }
        if let Some(command) = command {
            command.after(file.kind(), result.is_ok());
        }
        self.watch.done(file, request, arg, &result);
        result
    }

    /// The error of an ioctl that is made to fail.
    fn inject(&self, request: u32, command: Option<&Command>) -> Option<Result<i64, Error>> {
        if !self.injections.has_ioctls() {
            return None;
        }
        let known = ioctl_info(request).map(|info| info.name);
        let error = self
            .injections
            .ioctl([known, command.and_then(Command::name)])?;
        self.watch.refused(&name(request, command), &error);
        Some(Err(error))
    }

    /// KVM's answer to an ioctl.
    #[allow(clippy::disallowed_methods)]
    fn call(
        &self,
        file: &Arc<File>,
        request: u32,
        arg: u64,
        command: Option<&Command>,
    ) -> Result<i64, Error> {
        let running = match file.kind() {
            Kind::Vcpu(vcpu) if request == KVM_RUN => Some(vcpu),
            _ => None,
        };
        let mask = running.and_then(|vcpu| vcpu.signal_mask());
        let at_once = running.is_some_and(immediate_exit);
        let held = (is_long(request) && !at_once).then(|| Held::back(mask));
        if let Some(vcpu) = running {
            let since = || self.opened.elapsed().as_micros() as u64;
            self.watch
                .runs(&self.host, vcpu.kvm().number, vcpu.id(), since);
        }
        let memory = match command.and_then(Command::init_vm) {
            Some(init) => Seen::by_init_vm(init, &self.host),
            None => Seen::default(),
        };
        let sleeper = held.as_ref().zip(running).map(|(held, vcpu)| Sleeper {
            held,
            vcpu,
            watch: &self.watch,
            // The time decides when the record is written, and nothing else.
            since: Instant::now(),
            told: Cell::new(false),
        });
        let signals = match (&sleeper, &held) {
            _ if at_once => Some(&AtOnce as &dyn Signals),
            (Some(sleeper), _) => Some(sleeper as &dyn Signals),
            (None, held) => held.as_ref().map(|held| held as &dyn Signals),
        };
        call_with(&self.host, &memory, signals, |task| {
            seamlock_kvm::ioctl(task, file, request, arg)
        })
    }

    /// Records the counts so far.
    pub fn tell_counts(&self) {
        self.watch.tell_counts(&self.host);
    }
}

/// The signals of a thread in KVM_RUN, which asks for them while it sleeps.
struct Sleeper<'a> {
    held: &'a Held,
    vcpu: &'a VcpuRef,
    watch: &'a Watch,
    since: Instant,
    told: Cell<bool>,
}

impl Signals for Sleeper<'_> {
    fn pending(&self) -> bool {
        // Who asks what a sleeping VMM has done is told of all of it.
        if !self.told.get() && self.since.elapsed() >= TELL_EVERY {
            self.told.set(true);
            self.watch.tell(self.vcpu.kvm(), true);
        }
        self.held.pending()
    }
}

/// What a machine is booted with.
fn options(
    settings: &Settings,
    watch: &Arc<Watch>,
    injections: &Injections,
) -> Result<Options, String> {
    let mut options = Options {
        observer: Some(Arc::new(Observing(watch.clone()))),
        inject: injections
            .seamcalls()
            .map(|calls| Arc::new(calls) as Arc<dyn Inject>),
        lockdep: settings.lockdep.then(Lockdep::new),
        ..Options::default()
    };
    let name = &settings.discipline;
    if !name.is_empty() {
        options.discipline =
            discipline::by_name(name).ok_or_else(|| format!("no discipline is called `{name}`"))?;
    }
    if let Some(path) = &settings.script {
        let fail = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| fail(&error))?;
        let steps = script::parse(&text).map_err(|error| fail(&error))?;
        options.guest = Arc::new(Script::new(steps, Box::new(tell_step)));
    }
    Ok(options)
}

fn tell_step(outcome: &script::Outcome) {
    let script::Outcome {
        line,
        vcpu,
        text,
        seen,
    } = outcome.clone();
    record(&Event::Step {
        vcpu,
        line,
        text,
        seen,
    });
}

/// The name of a request, with the TDX command where it is one.
fn name(request: u32, command: Option<&Command>) -> String {
    match (ioctl_info(request), command.and_then(Command::name)) {
        (Some(info), Some(command)) => format!("{}({command})", info.name),
        (Some(info), None) => info.name.to_owned(),
        (None, _) => format!("ioctl {request:#x}"),
    }
}

/// Whether an ioctl may take long or sleep: then signals wait until it returns, as they do for the
/// kernel. For the others that would cost more than they do.
fn is_long(request: u32) -> bool {
    matches!(
        request,
        KVM_RUN
            | KVM_MEMORY_ENCRYPT_OP
            | KVM_PRE_FAULT_MEMORY
            | KVM_CREATE_VM
            | KVM_CREATE_VCPU
            | KVM_SET_USER_MEMORY_REGION
            | KVM_SET_USER_MEMORY_REGION2
            | KVM_SET_MEMORY_ATTRIBUTES
    )
}

/// Has the counts recorded when the process ends by `exit`.
fn at_exit() {
    extern "C" fn tell() {
        crate::boundary::guarded("exit", || {
            if let Some(machine) = process().booted() {
                machine.tell_counts();
            }
            Ok(0)
        });
    }
    // SAFETY: a function that lives as long as the library, which is never unloaded.
    unsafe { libc::atexit(tell) };
}

/// Whether `immediate_exit` of `struct kvm_run` is set.
fn immediate_exit(vcpu: &VcpuRef) -> bool {
    const IMMEDIATE_EXIT: usize = 1;
    let mut byte = [0];
    vcpu.run_page().read(IMMEDIATE_EXIT, &mut byte);
    byte != [0]
}

/// The number of this process's address space, as KVM compares them: one process, one number. A child
/// of `vfork` is in its parent's.
fn mm() -> u64 {
    fork::owner().unwrap_or_else(fork::pid)
}

thread_local! {
    static CPU: Cell<Option<u32>> = const { Cell::new(None) };
}

/// The CPU of the machine that the calling thread runs on. Threads get one each in the order in which
/// they first call, and keep it.
fn cpu(host: &Host) -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let cpus = (host.cpus().len() as u32).max(1);
    CPU.try_with(|cell| {
        cell.get().unwrap_or_else(|| {
            let cpu = NEXT.fetch_add(1, Relaxed) % cpus;
            cell.set(Some(cpu));
            cpu
        })
    })
    .unwrap_or(0)
}

/// Calls `body` with the file of a descriptor, to which the call has a reference of its own: another
/// thread may close the descriptor meanwhile.
///
/// # Errors
/// `foreign` for a file that this process has no part in, because it belongs to another address space;
/// EBADF when it was closed just now; `body`'s.
pub fn with_file<R>(
    fd: i32,
    foreign: i32,
    body: impl FnOnce(&Arc<File>) -> Result<R, i32>,
) -> Result<R, i32> {
    let file = process().file(fd).ok_or(foreign)?;
    if !file.get() {
        return Err(libc::EBADF);
    }
    let result = body(&file);
    if !file.put_unless_last() {
        call(file.host(), |task| file.put(task));
    }
    result
}

/// Calls KVM on behalf of the calling thread, whose signals are held back meanwhile.
pub fn call<R>(host: &Host, body: impl FnOnce(&Task) -> R) -> R {
    let held = Held::back(None);
    call_with(host, &Own, Some(&held), body)
}

fn call_with<R>(
    host: &Host,
    memory: &dyn UserMemory,
    held: Option<&dyn Signals>,
    body: impl FnOnce(&Task) -> R,
) -> R {
    let control = Control::on(cpu(host));
    let descriptors = Descriptors::default();
    let task = Task::new(&control, mm(), memory, &descriptors);
    match held {
        Some(held) => body(&task.with_signals(held)),
        None => body(&task),
    }
}
