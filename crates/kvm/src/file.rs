//! Files that KVM hands out: `/dev/kvm`, a VM, a vCPU, a guest_memfd.
//!
//! # Locking
//! `f_count` is a cell without a lock, as in the kernel: whoever brings it to zero releases the file,
//! on its own thread and CPU.

use std::sync::Arc;

use seamlock_sync::{Action, Name, Shared, announce};
use seamlock_tdx_abi::kvm::Errno;

use crate::error::{Result, fail};
use crate::gmem::Gmem;
use crate::host::Host;
use crate::locks::cells;
use crate::task::Task;
use crate::vcpu::VcpuRef;
use crate::vm::Kvm;

/// What a file is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// `/dev/kvm`.
    System(Arc<Host>),
    /// A VM.
    Vm(Arc<Kvm>),
    /// A vCPU.
    Vcpu(VcpuRef),
    /// A guest_memfd.
    Gmem(Arc<Gmem>),
}

/// An open file.
#[derive(Debug)]
pub struct File {
    kind: Kind,
    f_count: Shared<u64>,
}

impl File {
    /// Opens `/dev/kvm`.
    pub fn open_kvm(host: &Arc<Host>) -> Arc<File> {
        File::new(Kind::System(host.clone()))
    }

    /// A file with one reference, which belongs to the descriptor table that it is installed in.
    pub(crate) fn new(kind: Kind) -> Arc<File> {
        let (vm, part) = match &kind {
            Kind::System(_) => (0, 0),
            Kind::Vm(kvm) => (kvm.number, 1),
            Kind::Vcpu(vcpu) => (vcpu.kvm().number, 0x1000 + u64::from(vcpu.id())),
            Kind::Gmem(gmem) => (gmem.kvm().number, 0x10_0000 + gmem.number()),
        };
        Arc::new(File {
            kind,
            f_count: Shared::new(cells::F_COUNT.of(vm, part), 1),
        })
    }

    /// What the file is.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// The machine's kernel.
    pub fn host(&self) -> &Arc<Host> {
        match &self.kind {
            Kind::System(host) => host,
            Kind::Vm(kvm) => &kvm.host,
            Kind::Vcpu(vcpu) => &vcpu.kvm().host,
            Kind::Gmem(gmem) => &gmem.kvm().host,
        }
    }

    /// Takes a reference unless the last one is gone (`file_ref_get`).
    pub fn get(&self) -> bool {
        let mut held = self.f_count.load();
        loop {
            if held == 0 {
                return false;
            }
            match self.f_count.compare_exchange(held, held + 1) {
                Ok(_) => return true,
                Err(now) => held = now,
            }
        }
    }

    /// Gives a reference back; the last one releases the file at once. The caller holds no lock
    /// (`fput_close_sync`, or a system call that is over).
    pub fn put(&self, task: &Task) {
        if self.f_count.fetch_sub(1) == 1 {
            self.release(task);
        }
    }

    /// [`put`](File::put) by a system call that may hold locks: the last reference releases the file when
    /// the task returns to user space (`fput`, which leaves `__fput` to task work).
    pub(crate) fn fput(self: &Arc<File>, task: &Task) {
        if self.f_count.fetch_sub(1) == 1 {
            task.add_work(self.clone());
        }
    }

    /// The file of a descriptor, with a reference (`fget`).
    pub(crate) fn of(task: &Task, fd: i32) -> Option<Arc<File>> {
        announce(Action::Load, descriptor(task, fd), 0);
        task.files().file(fd).filter(|file| file.get())
    }

    pub(crate) fn release(&self, task: &Task) {
        let _entered = self.host().enter();
        match &self.kind {
            Kind::System(_) => {}
            Kind::Vm(kvm) => kvm.put(task),
            Kind::Vcpu(vcpu) => vcpu.kvm().put(task),
            Kind::Gmem(gmem) => gmem.release(task),
        }
    }
}

fn descriptor(task: &Task, fd: i32) -> Name {
    cells::DESCRIPTOR.of(task.mm(), fd as u64)
}

/// `close(2)`: takes the descriptor out of the table and gives its reference back.
///
/// # Errors
/// EBADF when the descriptor is not open.
pub fn close(task: &Task, fd: i32) -> Result<()> {
    announce(Action::Store, descriptor(task, fd), 0);
    match task.files().remove(fd) {
        None => fail(
            Errno::EBADF,
            "fs/open.c close",
            "the descriptor is not open",
        ),
        Some(file) => {
            file.put(task);
            Ok(())
        }
    }
}
