//! The descriptors below our files: memfds.

use std::ffi::{CStr, c_int};
use std::mem::MaybeUninit;

use seamlock_kvm::File;
use seamlock_kvm::file::{Kind, Statistics};
use seamlock_tdx_abi::kvm::{Errno, GUEST_MEMFD_FLAG_INIT_SHARED};

use crate::errno;
use crate::run_page::RunMapping;
use crate::signals::close;

/// Makes a descriptor for a file: the lowest free number, closed on exec.
///
/// A vCPU's is the memory of `run`; a guest_memfd's has its size, so that `fstat` and `lseek` answer.
///
/// # Errors
/// EMFILE, ENFILE, ENOMEM.
pub fn make(file: &File, run: Option<&RunMapping>) -> Result<c_int, Errno> {
    match file.kind() {
        Kind::System(_) => memfd(c"kvm"),
        Kind::Vm(_) => memfd(c"kvm-vm"),
        Kind::Stats(Statistics::Vm(_)) => memfd(c"kvm-vm-stats"),
        Kind::Stats(Statistics::Vcpu(_)) => memfd(c"kvm-vcpu-stats"),
        Kind::Vcpu(_) => match run {
            Some(run) => run.take_descriptor().ok_or(Errno::ENOMEM),
            None => memfd(c"kvm-vcpu"),
        },
        Kind::Gmem(gmem) => {
            let fd = memfd(c"guest_memfd")?;
            // Memory that is shared from the start is the memfd's. What may be mapped and is not shared
            // has no page that user space may touch: the memfd is empty.
            if gmem.flags() == 0 || gmem.flags() & GUEST_MEMFD_FLAG_INIT_SHARED != 0 {
                resize(fd, gmem.size())?;
            }
            Ok(fd)
        }
    }
}

/// An empty memfd, closed on exec.
///
/// # Errors
/// EMFILE, ENFILE, ENOMEM.
pub fn memfd(name: &CStr) -> Result<c_int, Errno> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: a C string.
    let fd = unsafe { libc::syscall(libc::SYS_memfd_create, name.as_ptr(), flags) } as c_int;
    if fd < 0 { Err(last()) } else { Ok(fd) }
}

/// Gives a memfd its size; closes it when that fails.
///
/// # Errors
/// EFBIG, EINVAL, ENOMEM.
pub fn resize(fd: c_int, size: u64) -> Result<(), Errno> {
    // SAFETY: no pointers. A size beyond i64 is refused by the kernel.
    if unsafe { libc::syscall(libc::SYS_ftruncate, fd, size) } != 0 {
        let errno = last();
        close(fd);
        return Err(errno);
    }
    Ok(())
}

/// Gives an empty memfd its contents, for good; closes it when that fails.
///
/// # Errors
/// ENOMEM.
pub fn fill(fd: c_int, bytes: &[u8]) -> Result<(), Errno> {
    let at = bytes.as_ptr();
    // SAFETY: live bytes of this length. The offset of the descriptor stays at the start.
    let written = unsafe { libc::syscall(libc::SYS_pwrite64, fd, at, bytes.len(), 0) };
    if written != bytes.len() as i64 {
        close(fd);
        return Err(Errno::ENOMEM);
    }
    let seals = libc::F_SEAL_WRITE | libc::F_SEAL_GROW | libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL;
    // SAFETY: no pointers.
    unsafe { libc::syscall(libc::SYS_fcntl, fd, libc::F_ADD_SEALS, seals) };
    Ok(())
}

/// Fixes a memfd's size, so that no mapping of it can ever fault.
pub fn seal_size(fd: c_int) {
    let seals = libc::F_SEAL_GROW | libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL;
    // SAFETY: no pointers.
    unsafe { libc::syscall(libc::SYS_fcntl, fd, libc::F_ADD_SEALS, seals) };
}

fn last() -> Errno {
    Errno(errno::last())
}

/// Gives a descriptor what of `open`'s flags a descriptor has.
pub fn set_flags(fd: c_int, open_flags: c_int) {
    let close_on_exec = if open_flags & libc::O_CLOEXEC != 0 {
        libc::FD_CLOEXEC
    } else {
        0
    };
    // SAFETY: no pointers.
    unsafe {
        libc::syscall(libc::SYS_fcntl, fd, libc::F_SETFD, close_on_exec);
        libc::syscall(
            libc::SYS_fcntl,
            fd,
            libc::F_SETFL,
            open_flags & libc::O_NONBLOCK,
        );
    }
}

/// Whether a descriptor is a character device of this number.
pub fn is_device(fd: c_int, major: u32, minor: u32) -> bool {
    let mut stat = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: a live place, as large as the kernel's structure; zeros are a valid one.
    let stat = unsafe {
        if libc::syscall(libc::SYS_fstat, fd, stat.as_mut_ptr()) != 0 {
            return false;
        }
        stat.assume_init()
    };
    stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == libc::makedev(major, minor)
}
