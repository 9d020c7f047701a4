//! Files that KVM hands out: `/dev/kvm`, a VM, a vCPU, a guest_memfd, the statistics of a VM or vCPU.
//!
//! # Locking
//! `f_count` is a cell without a lock, as in the kernel: whoever brings it to zero releases the file,
//! on its own thread and CPU.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use seamlock_sync::{Action, Name, Shared, announce};
use seamlock_tdx_abi::kvm::Errno;

use crate::error::{Result, fail};
use crate::gmem::Gmem;
use crate::host::Host;
use crate::locks::cells;
use crate::stats::Stats;
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
    /// What KVM_GET_STATS_FD gives.
    Stats(Statistics),
}

/// Whose statistics a file shows.
#[derive(Clone, Debug)]
pub enum Statistics {
    /// A VM's.
    Vm(Arc<Kvm>),
    /// A vCPU's.
    Vcpu(VcpuRef),
}

impl Statistics {
    fn kvm(&self) -> &Arc<Kvm> {
        match self {
            Statistics::Vm(kvm) => kvm,
            Statistics::Vcpu(vcpu) => vcpu.kvm(),
        }
    }

    fn stats(&self) -> &Stats {
        match self {
            Statistics::Vm(kvm) => &kvm.stats,
            Statistics::Vcpu(vcpu) => vcpu.stats(),
        }
    }
}

/// An open file.
#[derive(Debug)]
pub struct File {
    kind: Kind,
    f_count: Shared<u64>,
    /// Where `read(2)` goes on; two that race may read the same, as with `pread(2)`.
    f_pos: AtomicU64,
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
            Kind::Stats(of) => (of.kvm().number, 2),
        };
        Arc::new(File {
            kind,
            f_count: Shared::new(cells::F_COUNT.of(vm, part), 1),
            f_pos: AtomicU64::new(0),
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
            Kind::Stats(of) => &of.kvm().host,
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

    /// Gives a reference back that is not the last, which takes no task. False when it is the last: it was
    /// not given back.
    pub fn put_unless_last(&self) -> bool {
        let mut held = self.f_count.load();
        while held > 1 {
            match self.f_count.compare_exchange(held, held - 1) {
                Ok(_) => return true,
                Err(now) => held = now,
            }
        }
        false
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
            // kvm_vm_release
            Kind::Vm(kvm) => {
                kvm.eventfds.release_irqfds(&self.host().irqfds);
                kvm.put(task);
            }
            Kind::Vcpu(vcpu) => vcpu.kvm().put(task),
            Kind::Gmem(gmem) => gmem.release(task),
            Kind::Stats(of) => of.kvm().put(task),
        }
    }

    /// `read(2)` of `len` bytes to `addr`, or with an offset `pread(2)`. Only statistics can be read.
    ///
    /// # Errors
    /// EINVAL for another file or a negative offset, EFAULT.
    pub fn read(&self, task: &Task, addr: u64, len: usize, at: Option<u64>) -> Result<i64> {
        const SITE: &str = "fs/read_write.c vfs_read";
        let Kind::Stats(of) = &self.kind else {
            return fail(Errno::EINVAL, SITE, "the file can't be read");
        };
        let offset = at.unwrap_or_else(|| self.f_pos.load(SeqCst));
        if i64::try_from(offset).is_err() {
            return fail(
                Errno::EINVAL,
                "fs/read_write.c ksys_pread64",
                "the offset is negative",
            );
        }
        let bytes = of.stats().read(offset, len);
        task.put(
            addr,
            &bytes[..],
            "virt/kvm/binary_stats.c:50 kvm_stats_read",
        )?;
        if at.is_none() {
            self.f_pos.store(offset + bytes.len() as u64, SeqCst);
        }
        Ok(bytes.len() as i64)
    }

    /// `lseek(2)` of statistics, which moves nothing (`noop_llseek`): where `read(2)` goes on.
    pub fn position(&self) -> u64 {
        self.f_pos.load(SeqCst)
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
