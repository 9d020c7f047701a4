//! The library that gives an unmodified VMM a `/dev/kvm` with TDX.
//!
//! Worn by `LD_PRELOAD`, it stands in front of the C library's calls on files. `/dev/kvm` and what comes
//! from it are files of `seamlock-kvm`; everything else goes on to the C library. Below a descriptor of
//! ours lies a memfd, so that descriptors have real numbers, are inherited, duplicated, polled and
//! mapped as others. No descriptor of a real `/dev/kvm` is ever handed out.
//!
//! # Processes
//! A machine belongs to one process. A forked child keeps the descriptors, as numbers: an ioctl on an
//! inherited VM or vCPU gives EIO, as in the kernel, where it belongs to another address space; an
//! inherited `/dev/kvm` works, on a machine of the child's own. A program that is executed inherits
//! nothing, unless it wears the library too and opens `/dev/kvm`. A descriptor passed over a socket is an
//! empty file to whoever receives it.
//!
//! # Unsafe
//! In `hooks` (the C functions), `real` (the C library behind them), `memory` (the VMM's memory),
//! `run_page` (`struct kvm_run`), `signals`, `crash` (the handler of faults), `fork`, `process`,
//! `machine`, `device`, `descriptor`, `eventfd`, `log` and `errno` (system calls past our own hooks); each block says why it holds.

#![allow(unsafe_code)]
#![deny(unsafe_op_in_unsafe_fn)]
// Without the exported functions nobody calls what is behind them.
#![cfg_attr(test, allow(dead_code))]

mod boundary;
mod crash;
mod descriptor;
mod device;
mod errno;
mod eventfd;
mod files;
mod fork;
mod hooks;
mod inject;
mod log;
mod machine;
mod maps;
mod memory;
mod native;
mod process;
mod real;
mod run_page;
mod signals;
mod table;
mod watch;
