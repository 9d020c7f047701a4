//! How an ioctl request number is put together, and what is known about each.
//!
//! Bits 7:0 number, 15:8 type (0xae for KVM), 29:16 argument size, 31:30 direction as user space
//! sees it: 1 write, 2 read.

use bitflags::bitflags;

/// The type byte of every KVM ioctl.
pub const KVMIO: u8 = 0xae;

bitflags! {
    /// Direction of the argument as the request number says it. Not all ioctls keep to it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Dir: u8 {
        /// The kernel reads the argument.
        const WRITE = 1;
        /// The kernel writes the argument.
        const READ = 2;
    }

    /// Which kinds of file descriptor take an ioctl.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Scope: u8 {
        /// `/dev/kvm`.
        const SYSTEM = 1;
        /// What `KVM_CREATE_VM` returns.
        const VM = 2;
        /// What `KVM_CREATE_VCPU` returns.
        const VCPU = 4;
        /// What `KVM_CREATE_DEVICE` returns.
        const DEVICE = 8;
    }
}

const fn request(dir: Dir, nr: u8, size: u16) -> u32 {
    (dir.bits() as u32) << 30 | (size as u32 & 0x3fff) << 16 | (KVMIO as u32) << 8 | nr as u32
}

/// A request without an argument in memory.
pub const fn _io(nr: u8) -> u32 {
    request(Dir::empty(), nr, 0)
}

/// A request whose argument of `size` bytes the kernel writes.
pub const fn _ior(nr: u8, size: u16) -> u32 {
    request(Dir::READ, nr, size)
}

/// A request whose argument of `size` bytes the kernel reads.
pub const fn _iow(nr: u8, size: u16) -> u32 {
    request(Dir::WRITE, nr, size)
}

/// A request whose argument of `size` bytes the kernel reads and writes.
pub const fn _iowr(nr: u8, size: u16) -> u32 {
    request(Dir::READ.union(Dir::WRITE), nr, size)
}

/// One ioctl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoctlInfo {
    /// Its name in the kernel.
    pub name: &'static str,
    /// The whole request number.
    pub request: u32,
    /// Bits 7:0 of the request.
    pub nr: u8,
    /// Argument size in bytes; for arrays with a length only the head.
    pub size: u16,
    /// Direction.
    pub dir: Dir,
    /// File descriptors that take it.
    pub scope: Scope,
}

impl IoctlInfo {
    /// Takes a request number apart.
    pub const fn new(name: &'static str, request: u32, scope: Scope) -> Self {
        Self {
            name,
            request,
            nr: request as u8,
            size: (request >> 16) as u16 & 0x3fff,
            dir: Dir::from_bits_retain((request >> 30) as u8),
            scope,
        }
    }
}
