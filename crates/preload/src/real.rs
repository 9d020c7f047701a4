//! The C library's own functions, which ours stand in front of.
//!
//! Each is looked up with `dlsym(RTLD_NEXT)` when it is first needed, which may be before any
//! constructor of ours ran. A function that this C library does not have fails with ENOSYS.

use std::ffi::{CStr, c_char, c_int, c_long, c_uint, c_ulong, c_void};
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

use libc::{iovec, mode_t, off_t, size_t, ssize_t};

use crate::errno;

/// A symbol that is looked up once.
struct Symbol {
    name: &'static CStr,
    address: AtomicPtr<c_void>,
}

impl Symbol {
    const fn new(name: &'static CStr) -> Symbol {
        Symbol {
            name,
            address: AtomicPtr::new(std::ptr::null_mut()),
        }
    }

    #[inline]
    fn address(&self) -> *mut c_void {
        let known = self.address.load(Relaxed);
        if known.is_null() {
            self.look_up()
        } else {
            known
        }
    }

    #[cold]
    fn look_up(&self) -> *mut c_void {
        // SAFETY: `name` is a C string; RTLD_NEXT is allowed from a shared object. Two threads may
        // both look up; they find the same.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        self.address.store(found, Relaxed);
        found
    }
}

macro_rules! real {
    ($($name:ident($($arg:ident: $ty:ty),* $(; $($var:ident: $vty:ty),+)?) -> $ret:ty = $c:literal;)*) => {$(
        #[doc = concat!("The C library's `", stringify!($name), "`.")]
        ///
        /// # Safety
        /// As the C function's: pointers must be what it takes. The kernel checks those that it gets.
        pub unsafe fn $name($($arg: $ty,)* $($($var: $vty),+)?) -> $ret {
            static SYMBOL: Symbol = Symbol::new($c);
            let address = SYMBOL.address();
            if address.is_null() {
                errno::set(libc::ENOSYS);
                return -1 as $ret;
            }
            type Function = real!(@type ($($ty),*) ($($($vty),+)?) $ret);
            // SAFETY: the symbol is the C function of this name, which has this signature.
            let function = unsafe { std::mem::transmute::<*mut c_void, Function>(address) };
            // SAFETY: the caller's promise.
            unsafe { function($($arg,)* $($($var),+)?) }
        }
    )*};
    (@type ($($ty:ty),*) () $ret:ty) => { unsafe extern "C-unwind" fn($($ty),*) -> $ret };
    (@type ($($ty:ty),*) ($($vty:ty),+) $ret:ty) => {
        unsafe extern "C-unwind" fn($($ty,)* ...) -> $ret
    };
}

type Path = *const c_char;
type Stat = *mut libc::stat;

real! {
    open(path: Path, flags: c_int; mode: mode_t) -> c_int = c"open";
    openat(dir: c_int, path: Path, flags: c_int; mode: mode_t) -> c_int = c"openat";
    open_2(path: Path, flags: c_int) -> c_int = c"__open_2";
    openat_2(dir: c_int, path: Path, flags: c_int) -> c_int = c"__openat_2";
    close(fd: c_int) -> c_int = c"close";
    close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int = c"close_range";
    dup(fd: c_int) -> c_int = c"dup";
    dup2(fd: c_int, to: c_int) -> c_int = c"dup2";
    dup3(fd: c_int, to: c_int, flags: c_int) -> c_int = c"dup3";
    fcntl(fd: c_int, command: c_int; arg: c_ulong) -> c_int = c"fcntl";
    ioctl(fd: c_int, request: c_ulong; arg: c_ulong) -> c_int = c"ioctl";
    read(fd: c_int, to: *mut c_void, len: size_t) -> ssize_t = c"read";
    write(fd: c_int, from: *const c_void, len: size_t) -> ssize_t = c"write";
    pread(fd: c_int, to: *mut c_void, len: size_t, offset: off_t) -> ssize_t = c"pread";
    pwrite(fd: c_int, from: *const c_void, len: size_t, offset: off_t) -> ssize_t = c"pwrite";
    read_chk(fd: c_int, to: *mut c_void, len: size_t, room: size_t) -> ssize_t = c"__read_chk";
    pread_chk(fd: c_int, to: *mut c_void, len: size_t, offset: off_t, room: size_t) -> ssize_t
        = c"__pread_chk";
    readv(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t = c"readv";
    writev(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t = c"writev";
    lseek(fd: c_int, offset: off_t, whence: c_int) -> off_t = c"lseek";
    madvise(addr: *mut c_void, len: size_t, advice: c_int) -> c_int = c"madvise";
    munmap(addr: *mut c_void, len: size_t) -> c_int = c"munmap";
    fallocate(fd: c_int, mode: c_int, offset: off_t, len: off_t) -> c_int = c"fallocate";
    access(path: Path, mode: c_int) -> c_int = c"access";
    eaccess(path: Path, mode: c_int) -> c_int = c"eaccess";
    faccessat(dir: c_int, path: Path, mode: c_int, flags: c_int) -> c_int = c"faccessat";
    stat(path: Path, out: Stat) -> c_int = c"stat";
    lstat(path: Path, out: Stat) -> c_int = c"lstat";
    fstat(fd: c_int, out: Stat) -> c_int = c"fstat";
    fstatat(dir: c_int, path: Path, out: Stat, flags: c_int) -> c_int = c"fstatat";
    statx(dir: c_int, path: Path, flags: c_int, mask: c_uint, out: *mut libc::statx) -> c_int
        = c"statx";
    xstat(version: c_int, path: Path, out: Stat) -> c_int = c"__xstat";
    lxstat(version: c_int, path: Path, out: Stat) -> c_int = c"__lxstat";
    fxstat(version: c_int, fd: c_int, out: Stat) -> c_int = c"__fxstat";
    fxstatat(version: c_int, dir: c_int, path: Path, out: Stat, flags: c_int) -> c_int
        = c"__fxstatat";
    mmap_address(addr: *mut c_void, len: size_t, prot: c_int, flags: c_int, fd: c_int, off: off_t)
        -> c_long = c"mmap";
}

/// The C library's `mmap`.
///
/// # Safety
/// As the C function's: `MAP_FIXED` replaces what is mapped at `addr`.
pub unsafe fn mmap(
    addr: *mut c_void,
    len: size_t,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    // SAFETY: the caller's promise. A pointer and a long are returned alike; -1 is MAP_FAILED.
    (unsafe { mmap_address(addr, len, prot, flags, fd, offset) }) as *mut c_void
}
