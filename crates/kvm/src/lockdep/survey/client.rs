//! The process that makes the calls: raw request numbers and user memory.

use std::sync::Arc;

use seamlock_tdx_abi::PAGE_SIZE;
use seamlock_tdx_abi::kvm::{KVM_MEMORY_ENCRYPT_OP, KvmTdxCmd, TdxCmdId};
use zerocopy::{Immutable, IntoBytes};

use super::{Call, record};
use crate::error::Result;
use crate::file::{File, Kind};
use crate::host::Host;
use crate::ioctl::ioctl_fd;
use crate::lockdep::trace::Recorder;
use crate::process::Process;
use crate::task::{Control, Fault, Files, Task, UserMemory};

/// A process with a thread, and what is recorded of it.
pub(super) struct Client {
    pub(super) host: Arc<Host>,
    pub(super) process: Process,
    pub(super) control: Arc<Control>,
    pub(super) kvm: i32,
    pub(super) recorder: Recorder,
    pub(super) calls: Vec<Call>,
    /// A page of zeros, and the first page of the address space where that is mapped.
    low: Low,
}

/// User memory whose first page is mapped. The mail's `tdx_get_cmd` copies 8 bytes of 24, so `data` is 0
/// whatever was asked for: with that discipline a VMM has to have its structures there.
struct Low {
    page: u64,
    at_zero: bool,
}

struct Memory<'a>(&'a Process, &'a Low);

impl Memory<'_> {
    fn translate(&self, addr: u64) -> u64 {
        if self.1.at_zero && addr < PAGE_SIZE {
            self.1.page + addr
        } else {
            addr
        }
    }
}

impl UserMemory for Memory<'_> {
    fn read(&self, addr: u64, out: &mut [u8]) -> Result<(), Fault> {
        self.0.read(self.translate(addr), out)
    }

    fn write(&self, addr: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.0.write(self.translate(addr), bytes)
    }
}

impl Client {
    /// A process on the machine with `/dev/kvm` open.
    pub(super) fn on(host: Arc<Host>, control: Arc<Control>, recorder: Recorder) -> Client {
        let process = Process::new(1);
        let low = Low {
            page: process.map(PAGE_SIZE),
            at_zero: host.discipline().commands.cmd_bytes < size_of::<KvmTdxCmd>(),
        };
        // The table is empty, so there is a free descriptor.
        let kvm = process.install(&File::open_kvm(&host)).unwrap_or(-1);
        Client {
            host,
            process,
            control,
            kvm,
            recorder,
            calls: Vec::new(),
            low,
        }
    }

    /// Runs as the client's thread, recorded.
    pub(super) fn call(
        &mut self,
        name: impl Into<String>,
        f: impl FnOnce(&Task) -> Result<i64>,
    ) -> i64 {
        let memory = Memory(&self.process, &self.low);
        let task = Task::new(&self.control, 1, &memory, &self.process);
        let call = record(&self.recorder, name, || f(&task));
        let result = call.result.as_ref().map_or(-1, |value| *value);
        self.calls.push(call);
        result
    }

    /// An ioctl with a plain argument; -1 when it was refused.
    pub(super) fn ioctl(&mut self, name: &str, fd: i32, request: u32, arg: u64) -> i64 {
        self.call(name, |task| ioctl_fd(task, fd, request, arg))
    }

    /// An ioctl whose argument is a structure.
    pub(super) fn ioctl_with<T: IntoBytes + Immutable + ?Sized>(
        &mut self,
        name: &str,
        fd: i32,
        request: u32,
        value: &T,
    ) -> i64 {
        let arg = self.process.map_copy(value.as_bytes());
        self.ioctl(name, fd, request, arg)
    }

    /// A TDX command whose data is these bytes.
    pub(super) fn tdx(&mut self, fd: i32, id: TdxCmdId, data: &[u8]) -> i64 {
        let at = self.process.map_copy(data);
        if self.low.at_zero {
            // As long as a page at most, or the rest is not looked at.
            let head = &data[..data.len().min(PAGE_SIZE as usize)];
            let _ = self.process.write(self.low.page, head);
        }
        let measured = u32::from(id == TdxCmdId::KVM_TDX_INIT_MEM_REGION);
        let cmd = KvmTdxCmd {
            id: id.0,
            flags: measured,
            data: at,
            hw_error: 0,
        };
        let name = id.name().unwrap_or("KVM_MEMORY_ENCRYPT_OP");
        self.ioctl_with(name, fd, KVM_MEMORY_ENCRYPT_OP, &cmd)
    }

    /// The CPU that a vCPU was loaded on last.
    pub(super) fn cpu_of(&self, vcpu: i32) -> u32 {
        match self.process.file(vcpu).as_deref().map(File::kind) {
            Some(Kind::Vcpu(vcpu)) => vcpu.cpu().max(0) as u32,
            _ => 0,
        }
    }

    /// Closes a descriptor by the way; it is no call.
    pub(super) fn close(&self, fd: i32) {
        let memory = Memory(&self.process, &self.low);
        let task = Task::new(&self.control, 1, &memory, &self.process);
        // It was just opened.
        let _ = crate::file::close(&task, fd);
    }

    /// A page of zeros, as an argument for what is not looked at.
    pub(super) fn zeros(&self) -> u64 {
        self.process.map(2 * PAGE_SIZE)
    }

    /// The next call of the thread is made on this CPU.
    pub(super) fn move_to(&self, cpu: u32) {
        self.control.migrate(cpu);
    }
}
