//! `struct kvm_run`: memory that a vCPU shares with the VMM.

use std::ffi::{c_int, c_void};
use std::fmt;
use std::sync::atomic::Ordering::{Acquire, Release, SeqCst};
use std::sync::atomic::{AtomicI32, AtomicU8};

use seamlock_kvm::task::RunPage;
use seamlock_tdx_abi::kvm::{Errno, KVM_DIRTY_LOG_PAGE_OFFSET, KVM_VCPU_MMAP_BYTES};

use crate::descriptor;
use crate::errno;
use crate::signals::close;

/// Where the dirty ring starts.
pub const RING_START: usize = KVM_DIRTY_LOG_PAGE_OFFSET * 4096;

/// Pages of a memfd, mapped for us: three, or all up to the end of the dirty ring. The VMM maps the same ones.
pub struct RunMapping {
    at: *const AtomicU8,
    bytes: usize,
    /// The memfd, until it is the vCPU's descriptor; then -1.
    fd: AtomicI32,
}

// SAFETY: the pages are shared with the VMM, and so only ever touched as atomic bytes.
unsafe impl Send for RunMapping {}
// SAFETY: as above.
unsafe impl Sync for RunMapping {}

impl fmt::Debug for RunMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RunMapping({:p})", self.at)
    }
}

impl RunMapping {
    /// New pages of zeros. Their size is sealed: a VMM that truncates its vCPU gets EPERM, and no SIGBUS.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM.
    pub fn new(ring_bytes: u32) -> Result<RunMapping, Errno> {
        let bytes = match ring_bytes {
            0 => KVM_VCPU_MMAP_BYTES,
            ring => RING_START + ring as usize,
        };
        let fd = descriptor::memfd(c"kvm-vcpu")?;
        descriptor::resize(fd, bytes as u64)?;
        descriptor::seal_size(fd);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at = unsafe {
            libc::syscall(
                libc::SYS_mmap,
                std::ptr::null_mut::<c_void>(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd,
                0i64,
            )
        };
        if at < 0 {
            let errno = Errno(errno::last());
            close(fd);
            return Err(errno);
        }
        Ok(RunMapping {
            at: at as *const AtomicU8,
            bytes,
            fd: AtomicI32::new(fd),
        })
    }

    /// The memfd, which becomes the caller's; once.
    pub fn take_descriptor(&self) -> Option<c_int> {
        let fd = self.fd.swap(-1, SeqCst);
        (fd >= 0).then_some(fd)
    }

    fn byte(&self, offset: usize) -> Option<&AtomicU8> {
        // SAFETY: the mapping has this many bytes and lives as long as `self`.
        (offset < self.bytes).then(|| unsafe { &*self.at.add(offset) })
    }
}

impl RunPage for RunMapping {
    fn read(&self, offset: usize, out: &mut [u8]) {
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = self
                .byte(offset.saturating_add(i))
                .map_or(0, |b| b.load(Acquire));
        }
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        for (i, value) in bytes.iter().enumerate() {
            if let Some(byte) = self.byte(offset.saturating_add(i)) {
                byte.store(*value, Release);
            }
        }
    }
}

impl Drop for RunMapping {
    fn drop(&mut self) {
        if let Some(fd) = self.take_descriptor() {
            close(fd);
        }
        // SAFETY: our own mapping, and nobody else has its address.
        unsafe { libc::syscall(libc::SYS_munmap, self.at, self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_the_mapping_reads_as_zero_and_is_not_written() {
        let run = RunMapping::new(0).expect("a memfd");
        run.write(KVM_VCPU_MMAP_BYTES - 2, &[1, 2, 3, 4]);
        let mut out = [9; 4];
        run.read(KVM_VCPU_MMAP_BYTES - 2, &mut out);
        assert_eq!(out, [1, 2, 0, 0]);
        run.write(usize::MAX, &[1]);
        run.read(usize::MAX, &mut out);
        assert_eq!(out, [0; 4]);
    }

    #[test]
    fn the_descriptor_is_taken_once() {
        let run = RunMapping::new(0).expect("a memfd");
        let fd = run.take_descriptor().expect("the first time");
        assert_eq!(run.take_descriptor(), None);
        close(fd);
    }
}
