//! The machine of this process, and calls into it.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Instant;

use seamlock_kvm::task::{Files, RunPage};
use seamlock_kvm::{Control, Error, File, Host, Options, Task};
use seamlock_tdx_abi::kvm::Errno;
use seamlock_tdx_module::Platform;
use seamlock_wear::{Event, Settings};

use crate::descriptor;
use crate::log::record;
use crate::memory::Own;
use crate::process::process;
use crate::run_page::RunMapping;
use crate::signals::close;

/// A booted machine.
#[derive(Debug)]
pub struct Machine {
    host: Arc<Host>,
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
        let host = Host::boot_with(platform, Options::default())
            .map_err(|error| format!("the machine does not boot: {error}"))?;
        let program = std::env::args().next().unwrap_or_default();
        record(&Event::Boot {
            pid: std::process::id(),
            program,
            took_us: opened.elapsed().as_micros() as u64,
        });
        Ok(Machine { host, opened })
    }

    /// A new file of `/dev/kvm`.
    pub fn open(&self) -> Arc<File> {
        File::open_kvm(&self.host)
    }

    /// The machine's kernel.
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Microseconds since `/dev/kvm` was first opened.
    pub fn since_open_us(&self) -> u64 {
        self.opened.elapsed().as_micros() as u64
    }
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

/// Calls KVM on behalf of the calling thread.
pub fn call<R>(host: &Host, body: impl FnOnce(&Task) -> R) -> R {
    let control = Control::on(cpu(host));
    let descriptors = Descriptors::default();
    let task = Task::new(&control, mm(), &Own, &descriptors);
    body(&task)
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

/// An ioctl on a file of ours.
///
/// # Errors
/// KVM's refusal.
pub fn ioctl(file: &Arc<File>, request: u32, arg: u64) -> Result<i64, Error> {
    call(file.host(), |task| {
        seamlock_kvm::ioctl(task, file, request, arg)
    })
}
