//! `mmap`, `munmap`, `madvise` and `fallocate`.

use std::ffi::{c_int, c_void};

use libc::{off_t, size_t};
use seamlock_kvm::file::Kind;
use seamlock_tdx_abi::kvm::GUEST_MEMFD_FLAG_INIT_SHARED;

use super::close::put;
use super::hooks;
use crate::boundary::guarded;
use crate::machine::{call, with_file};
use crate::process::process;
use crate::run_page::RING_START;
use crate::table::Sort;
use crate::{errno, real, table};

/// Notes that a mapping of ours came to be: it keeps the file open.
fn mapped(fd: c_int, at: *mut c_void, len: size_t) {
    guarded("mmap", || {
        if let Some(file) = process().file(fd).filter(|file| file.get()) {
            process()
                .maps
                .insert(at as usize, len.next_multiple_of(4096), file);
        }
        Ok(0)
    });
}

/// Notes that a range is mapped no longer, or to something else.
fn unmapped(at: *mut c_void, len: size_t) {
    let (gone, split) = process()
        .maps
        .remove(at as usize, len.next_multiple_of(4096));
    for file in split {
        // The mapping has a reference, so one more can be had.
        let _ = file.get();
    }
    for file in gone {
        put(&file);
    }
}

/// Whether the first or the last page of a mapping is in a vCPU's dirty ring.
fn touches_ring(fd: c_int, len: size_t, offset: off_t) -> bool {
    let file = process().file(fd);
    let Some(Kind::Vcpu(vcpu)) = file.as_ref().map(|file| file.kind()) else {
        return false;
    };
    let first = offset as u64;
    let last = first.saturating_add(len.saturating_sub(1) as u64);
    let end = RING_START as u64 + u64::from(vcpu.kvm().dirty_ring_size());
    [first, last]
        .iter()
        .any(|at| (RING_START as u64..end).contains(at))
}

/// Why a file of ours can't be mapped so.
fn refusal(
    sort: Sort,
    (fd, offset): (c_int, off_t),
    len: size_t,
    how: (c_int, c_int),
) -> Option<c_int> {
    let (prot, flags) = how;
    let kind = flags & libc::MAP_TYPE;
    let shared = matches!(kind, libc::MAP_SHARED | libc::MAP_SHARED_VALIDATE);
    match sort {
        Sort::System | Sort::Vm | Sort::Stats => Some(libc::ENODEV),
        Sort::Vcpu if shared && prot & libc::PROT_EXEC == 0 => None,
        Sort::Vcpu => touches_ring(fd, len, offset).then_some(libc::EINVAL),
        Sort::Gmem => match process().file(fd).map(|file| file.kind().clone()) {
            Some(Kind::Gmem(gmem)) if gmem.flags() != 0 => (!shared).then_some(libc::EINVAL),
            _ => Some(libc::ENODEV),
        },
    }
}

hooks! {
    /// `mmap(2)`. A guest_memfd that may be mapped and is not shared from the start has no page that user
    /// space may touch: the memfd below it is empty, and each access to the mapping is a SIGBUS as in
    /// the kernel.
    fn mmap(
        addr: *mut c_void,
        len: size_t,
        prot: c_int,
        flags: c_int,
        fd: c_int,
        offset: off_t,
    ) -> *mut c_void {
        let sort = if flags & libc::MAP_ANONYMOUS == 0 { table::sort(fd) } else { None };
        if let Some(errno) = sort.and_then(|sort| refusal(sort, (fd, offset), len, (prot, flags))) {
            errno::set(errno);
            return libc::MAP_FAILED;
        }
        // SAFETY: the caller's promise, passed on.
        let at = unsafe { real::mmap(addr, len, prot, flags, fd, offset) };
        if at != libc::MAP_FAILED && table::any() && (sort.is_some() || !process().maps.is_empty()) {
            unmapped(at, len);
            if sort.is_some() {
                mapped(fd, at, len);
            }
        }
        at
    }

    /// As [`mmap`].
    fn mmap64(
        addr: *mut c_void,
        len: size_t,
        prot: c_int,
        flags: c_int,
        fd: c_int,
        offset: off_t,
    ) -> *mut c_void {
        // SAFETY: the caller's promise, passed on.
        unsafe { mmap(addr, len, prot, flags, fd, offset) }
    }

    /// `munmap(2)`.
    fn munmap(addr: *mut c_void, len: size_t) -> c_int {
        // SAFETY: the caller's promise, passed on.
        let result = unsafe { real::munmap(addr, len) };
        if result == 0 && table::any() && !process().maps.is_empty() {
            unmapped(addr, len);
        }
        result
    }

    /// `madvise(2)`: files of ours have no large pages.
    fn madvise(addr: *mut c_void, len: size_t, advice: c_int) -> c_int {
        if advice == libc::MADV_COLLAPSE
            && table::any()
            && process().maps.overlaps(addr as usize, len)
        {
            return errno::fail(libc::EINVAL);
        }
        // SAFETY: the caller's promise, passed on.
        unsafe { real::madvise(addr, len, advice) }
    }

    /// `fallocate(2)`: on a guest_memfd it is KVM's.
    fn fallocate(fd: c_int, mode: c_int, offset: off_t, len: off_t) -> c_int {
        if table::sort(fd).is_none() {
            // SAFETY: the caller's promise, passed on.
            return unsafe { real::fallocate(fd, mode, offset, len) };
        }
        guarded("fallocate", || {
            let inherited = if table::sort(fd) == Some(Sort::Gmem) { libc::EIO } else { libc::ENODEV };
            with_file(fd, inherited, |file| {
                call(file.host(), |task| {
                    seamlock_kvm::fallocate(task, fd, mode, offset as u64, len as u64)
                })
                .map_err(|error| error.errno.0)?;
                let shared = matches!(
                    file.kind(),
                    Kind::Gmem(gmem) if gmem.flags() & GUEST_MEMFD_FLAG_INIT_SHARED != 0
                );
                // What user space has mapped are the memfd's pages: they come and go with KVM's.
                // SAFETY: numbers only; what is punched out reads as zeros.
                if shared && unsafe { real::fallocate(fd, mode, offset, len) } != 0 {
                    return Err(errno::last());
                }
                Ok(0)
            })
        }) as c_int
    }

    /// As [`fallocate`].
    fn fallocate64(fd: c_int, mode: c_int, offset: off_t, len: off_t) -> c_int {
        // SAFETY: the caller's promise, passed on.
        unsafe { fallocate(fd, mode, offset, len) }
    }
}
