//! The machine of this process, and calls into it.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Instant;

use seamlock_kvm::file::Kind;
use seamlock_kvm::task::{Files, RunPage, UserMemory};
use seamlock_kvm::vm::eventfds::EventFd;
use seamlock_kvm::{Control, Error, File, Host, Options, Task};
use seamlock_tdx_abi::kvm::{
    Errno, KVM_CREATE_VCPU, KVM_CREATE_VM, KVM_MEMORY_ENCRYPT_OP, KVM_PRE_FAULT_MEMORY, KVM_RUN,
    KVM_SET_MEMORY_ATTRIBUTES, KVM_SET_USER_MEMORY_REGION, KVM_SET_USER_MEMORY_REGION2,
};
use seamlock_tdx_module::Platform;
use seamlock_wear::{Event, Settings};

use crate::descriptor;
use crate::eventfd::Known;
use crate::log::record;
use crate::memory::Own;
use crate::native::Seen;
use crate::process::process;
use crate::run_page::RunMapping;
use crate::signals::{Held, close};
use crate::watch::{Command, Observing, Watch};

/// A booted machine.
#[derive(Debug)]
pub struct Machine {
    host: Arc<Host>,
    watch: Arc<Watch>,
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
        let watch = Arc::new(Watch::new(settings.verbose));
        let options = Options {
            observer: Some(Arc::new(Observing(watch.clone()))),
            ..Options::default()
        };
        let host = Host::boot_with(platform, options)
            .map_err(|error| format!("the machine does not boot: {error}"))?;
        let program = std::env::args().next().unwrap_or_default();
        record(&Event::Boot {
            pid: std::process::id(),
            program,
            took_us: opened.elapsed().as_micros() as u64,
        });
        at_exit();
        Ok(Machine {
            host,
            watch,
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
        let running = match file.kind() {
            Kind::Vcpu(vcpu) if request == KVM_RUN => Some(vcpu),
            _ => None,
        };
        let mask = running.and_then(|vcpu| vcpu.signal_mask());
        let held = is_long(request).then(|| Held::back(mask));
        if let Some(vcpu) = running {
            let since = self.opened.elapsed().as_micros() as u64;
            self.watch
                .runs(&self.host, vcpu.kvm().number, vcpu.id(), since);
        }
        let memory = match command.as_ref().and_then(Command::init_vm) {
            Some(init) => Seen::by_init_vm(init, &self.host),
            None => Seen::default(),
        };
        let result = call_with(&self.host, &memory, held.as_ref(), |task| {
            seamlock_kvm::ioctl(task, file, request, arg)
        });
        if let Some(command) = command {
            command.after(file.kind(), result.is_ok());
        }
        self.watch.done(file, request, arg, &result);
        result
    }

    /// Records the counts so far.
    pub fn tell_counts(&self) {
        self.watch.tell_counts(&self.host);
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

/// The number of this process's address space, as KVM compares them: one process, one number.
fn mm() -> u64 {
    u64::from(std::process::id())
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

/// Calls KVM on behalf of the calling thread, whose signals are held back meanwhile.
pub fn call<R>(host: &Host, body: impl FnOnce(&Task) -> R) -> R {
    let held = Held::back(None);
    call_with(host, &Own, Some(&held), body)
}

fn call_with<R>(
    host: &Host,
    memory: &dyn UserMemory,
    held: Option<&Held>,
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

/// The descriptors of this process, for the length of one call.
#[derive(Debug, Default)]
struct Descriptors {
    /// The `struct kvm_run` of a vCPU that is being created.
    run: RefCell<Option<Arc<RunMapping>>>,
}

impl Files for Descriptors {
    fn install(&self, file: &Arc<File>) -> Result<i32, Errno> {
        let run = self.run.borrow_mut().take();
        let fd = descriptor::make(file, run.as_deref())?;
        match process().table.insert(fd, file.clone()) {
            Ok(_) => Ok(fd),
            Err(_) => {
                close(fd);
                Err(Errno::EMFILE)
            }
        }
    }

    fn file(&self, fd: i32) -> Option<Arc<File>> {
        process().file(fd)
    }

    fn remove(&self, fd: i32) -> Option<Arc<File>> {
        let file = process().table.remove(fd);
        if file.is_some() {
            close(fd);
        }
        file
    }

    fn eventfd(&self, fd: i32) -> Result<Arc<dyn EventFd>, Errno> {
        Ok(Arc::new(Known::of(fd)?))
    }

    fn run_page(&self) -> Arc<dyn RunPage> {
        match RunMapping::new() {
            Ok(run) => {
                let run = Arc::new(run);
                *self.run.borrow_mut() = Some(run.clone());
                run
            }
            // Without a descriptor, `install` fails as well.
            Err(_) => Arc::new(Nowhere),
        }
    }
}

/// A run page that could not be had.
#[derive(Debug)]
struct Nowhere;

impl RunPage for Nowhere {
    fn read(&self, _: usize, out: &mut [u8]) {
        out.fill(0);
    }
    fn write(&self, _: usize, _: &[u8]) {}
}
