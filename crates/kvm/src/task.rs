//! The calling thread as the kernel sees it: its CPU, its signals, its memory, its files.
//!
//! KVM starts no thread. Whoever calls gives it a [`Task`], and keeps the [`Control`] to send signals
//! or to move the task to another CPU while it is in the kernel.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU32,
    Ordering::{Release, SeqCst},
};

use seamlock_sync::{Action, Name, Section, announce};
use seamlock_tdx_abi::kvm::Errno;
use seamlock_tdx_abi::{Hpa, PAGE_SIZE};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::error::{Error, Result, fail};
use crate::file::File;
use crate::locks::{self, cells};
use crate::vcpu::VcpuRef;
use crate::vm::eventfds::EventFd;

/// An access to user memory that is not mapped, or not in the wanted way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// The memory of the calling process, by user address.
pub trait UserMemory {
    /// Fills `out` from `addr` on. Nothing is promised of `out` when it fails.
    fn read(&self, addr: u64, out: &mut [u8]) -> Result<(), Fault>;
    /// Writes `bytes` from `addr` on. An unknown part of it is written when it fails.
    fn write(&self, addr: u64, bytes: &[u8]) -> Result<(), Fault>;
    /// Shows the page at `addr`, a multiple of 4096, to `sink`, which may not call back.
    fn page(&self, addr: u64, sink: &mut dyn FnMut(&[u8])) -> Result<(), Fault> {
        let mut bytes = [0; PAGE_SIZE as usize];
        self.read(addr, &mut bytes)?;
        sink(&bytes);
        Ok(())
    }
    /// Where the page at `addr`, a multiple of 4096, lies in the machine's memory for as long as the
    /// machine runs; None when it does not, as the memory of a real process.
    fn frame(&self, addr: u64) -> Option<Hpa> {
        let _ = addr;
        None
    }
}

/// The page that a vCPU shares with user space (`struct kvm_run`).
pub trait RunPage: Send + Sync + fmt::Debug {
    /// Fills `out` from byte `offset` on; bytes that are not there read as zero.
    fn read(&self, offset: usize, out: &mut [u8]);
    /// Writes from byte `offset` on; bytes that are not there are dropped.
    fn write(&self, offset: usize, bytes: &[u8]);
}

/// The file descriptors of the calling process.
pub trait Files {
    /// Gives the file a descriptor, the lowest one that is free.
    ///
    /// # Errors
    /// EMFILE when there is none.
    fn install(&self, file: &Arc<File>) -> Result<i32, Errno>;
    /// The file of a descriptor.
    fn file(&self, fd: i32) -> Option<Arc<File>>;
    /// Takes a descriptor out of the table.
    fn remove(&self, fd: i32) -> Option<Arc<File>>;
    /// Memory for a new vCPU's `struct kvm_run`, zeroed, and for its dirty ring of `ring_bytes` bytes, which
    /// starts at page KVM_DIRTY_LOG_PAGE_OFFSET.
    fn run_page(&self, ring_bytes: u32) -> Arc<dyn RunPage>;
    /// The eventfd of a descriptor. A process without real descriptors has none.
    ///
    /// # Errors
    /// EBADF when it is not open, EINVAL when it is something else.
    fn eventfd(&self, _fd: i32) -> Result<Arc<dyn EventFd>, Errno> {
        Err(Errno::EBADF)
    }
}

/// What the rest of the world may do to a task while it runs.
#[derive(Debug, Default)]
pub struct Control {
    number: u64,
    cpu: AtomicU32,
    /// Where the task is, plus 1; 0 while it is not in the kernel.
    at: AtomicU32,
    pending: AtomicBool,
    fatal: AtomicBool,
}

impl Control {
    /// A task on this CPU with no signal pending.
    pub fn on(cpu: u32) -> Control {
        Control {
            cpu: AtomicU32::new(cpu),
            ..Control::default()
        }
    }

    /// The same for task number `number`, which tells its cells from those of other tasks.
    pub fn numbered(self, number: u64) -> Control {
        Control { number, ..self }
    }

    /// Moves the task to `cpu` as soon as it can be preempted.
    pub fn migrate(&self, cpu: u32) {
        announce(
            Action::Store,
            cells::RESCHED.at(self.number),
            u64::from(cpu),
        );
        self.cpu.store(cpu, SeqCst);
    }

    /// What a signal to the task is announced on.
    pub fn signals(&self) -> Name {
        cells::SIGNALS.at(self.number)
    }

    /// The CPU that the task is on while it is in the kernel. Who wants a CPU to itself, as to take it
    /// offline, moves the tasks away and waits until none is there.
    pub fn on_cpu(&self) -> Option<u32> {
        self.at.load(SeqCst).checked_sub(1)
    }

    /// The task goes where it is wanted. The CPU that it was wanted on is told before it is looked at
    /// again, so that nobody who moves it away misses it.
    fn arrive(&self) -> u32 {
        let mut cpu = self.cpu.load(SeqCst);
        loop {
            self.at.store(cpu + 1, SeqCst);
            match self.cpu.load(SeqCst) {
                wanted if wanted == cpu => return cpu,
                wanted => cpu = wanted,
            }
        }
    }

    /// Sends a signal; a fatal one also ends killable waits.
    pub fn signal(&self, fatal: bool) {
        announce(Action::Notify, self.signals(), u64::from(fatal));
        self.fatal.fetch_or(fatal, SeqCst);
        self.pending.store(true, SeqCst);
    }

    /// Takes all signals back, as their handlers do.
    pub fn clear_signals(&self) {
        self.pending.store(false, SeqCst);
        self.fatal.store(false, SeqCst);
    }
}

/// The signals of a thread that has real ones. Asked on that thread.
pub trait Signals {
    /// `signal_pending(current)`.
    fn pending(&self) -> bool;
    /// `fatal_signal_pending(current)`. A real process does not live to see it.
    fn fatal(&self) -> bool {
        false
    }
}

/// One thread in the kernel. Belongs to that thread.
pub struct Task<'a> {
    signals: Option<&'a dyn Signals>,
    control: &'a Control,
    memory: &'a dyn UserMemory,
    files: &'a dyn Files,
    mm: u64,
    cpu: Cell<u32>,
    loaded: RefCell<Option<VcpuRef>>,
    /// Files whose last reference this task gave back within a system call (`task_works`).
    work: RefCell<Vec<Arc<File>>>,
}

impl fmt::Debug for Task<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Task {{ mm: {}, cpu: {} }}", self.mm, self.cpu.get())
    }
}

impl Drop for Task<'_> {
    fn drop(&mut self) {
        // Who sees that the task has left sees what it did; nothing is looked at afterwards.
        self.control.at.store(0, Release);
    }
}

impl<'a> Task<'a> {
    /// A thread of the process whose address space is number `mm`.
    pub fn new(
        control: &'a Control,
        mm: u64,
        memory: &'a dyn UserMemory,
        files: &'a dyn Files,
    ) -> Task<'a> {
        let cpu = Cell::new(control.arrive());
        Task {
            signals: None,
            control,
            memory,
            files,
            mm,
            cpu,
            loaded: RefCell::new(None),
            work: RefCell::default(),
        }
    }

    /// The same thread, which gets these signals too.
    pub fn with_signals(mut self, signals: &'a dyn Signals) -> Task<'a> {
        self.signals = Some(signals);
        self
    }

    /// The address space (`current->mm`).
    pub fn mm(&self) -> u64 {
        self.mm
    }

    /// The CPU that the task runs on (`raw_smp_processor_id`). Changes only in
    /// [`resched`](Task::resched).
    pub fn cpu(&self) -> u32 {
        self.cpu.get()
    }

    /// The file descriptors.
    pub fn files(&self) -> &'a dyn Files {
        self.files
    }

    /// `signal_pending(current)`.
    pub fn signal_pending(&self) -> bool {
        announce(Action::Load, self.control.signals(), 0);
        self.control.pending.load(SeqCst) || self.signals.is_some_and(Signals::pending)
    }

    /// Whether a fatal signal is pending: what ends a killable wait.
    pub fn killed(&self) -> bool {
        self.control.fatal.load(SeqCst) || self.signals.is_some_and(Signals::fatal)
    }

    /// A point where the scheduler may preempt the task and move it. A vCPU that is loaded is taken
    /// off the old CPU and put on the new one, as the preempt notifiers do.
    #[track_caller]
    pub fn resched(&self) {
        announce(Action::Point, cells::RESCHED.at(self.control.number), 0);
        if self.control.cpu.load(SeqCst) == self.cpu.get() {
            return;
        }
        let loaded = self.loaded.borrow().clone();
        if let Some(vcpu) = &loaded {
            vcpu.sched_out(self);
        }
        self.cpu.set(self.control.arrive());
        if let Some(vcpu) = &loaded {
            vcpu.sched_in(self);
        }
    }

    /// `task_work_add(current, …, TWA_RESUME)` of `____fput`.
    pub(crate) fn add_work(&self, file: Arc<File>) {
        self.work.borrow_mut().push(file);
    }

    /// `task_work_run`: the task returns to user space, without any lock.
    pub(crate) fn run_work(&self) {
        loop {
            let next = self.work.borrow_mut().pop();
            match next {
                Some(file) => file.release(self),
                None => break,
            }
        }
    }

    /// Which vCPU the task has loaded (`kvm_running_vcpu`).
    pub(crate) fn set_loaded(&self, vcpu: Option<VcpuRef>) {
        *self.loaded.borrow_mut() = vcpu;
    }

    /// `copy_from_user` of a structure.
    pub(crate) fn get<T: FromBytes + IntoBytes>(&self, addr: u64, site: &'static str) -> Result<T> {
        let mut value = T::new_zeroed();
        self.get_bytes(addr, value.as_mut_bytes(), site)?;
        Ok(value)
    }

    /// `copy_from_user` of bytes.
    pub(crate) fn get_bytes(&self, addr: u64, out: &mut [u8], site: &'static str) -> Result<()> {
        if self.memory.read(addr, out).is_err() {
            return Err(unreadable(addr, out.len(), site));
        }
        Ok(())
    }

    /// `copy_to_user` of a structure.
    pub(crate) fn put<T: IntoBytes + Immutable + ?Sized>(
        &self,
        addr: u64,
        value: &T,
        site: &'static str,
    ) -> Result<()> {
        let bytes = value.as_bytes();
        if self.memory.write(addr, bytes).is_err() {
            let reason = format!("{} bytes at {addr:#x} are not writable", bytes.len());
            return Err(Error::with(Errno::EFAULT, site, reason));
        }
        Ok(())
    }

    /// `get_user_pages_fast` of one page for reading: where it lies, or else its contents are shown to
    /// `sink`.
    pub(crate) fn pin_page(
        &self,
        addr: u64,
        site: &'static str,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<Option<Hpa>> {
        let _mmap = Section::enter(locks::MMAP_LOCK.at(self.mm));
        let frame = self.memory.frame(addr);
        if frame.is_none() && self.memory.page(addr, sink).is_err() {
            return fail(Errno::EFAULT, site, "the source page is not mapped");
        }
        Ok(frame)
    }
}

#[cold]
fn unreadable(addr: u64, len: usize, site: &'static str) -> Error {
    Error::with(
        Errno::EFAULT,
        site,
        format!("{len} bytes at {addr:#x} are not readable"),
    )
}
