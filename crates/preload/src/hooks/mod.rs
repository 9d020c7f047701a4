//! The C functions that stand in front of the C library's.
//!
//! Each says in a few instructions whether it is asked about `/dev/kvm` or a file of ours; if not, the C
//! library's function runs, with no frame of ours that would need unwinding, so that a thread may be
//! cancelled in it. Exported from the cdylib only: in the tests of this crate they would catch its own
//! calls.
//!
//! Variadic functions are declared with the arguments that they can have. In the x86-64 ABI of System V
//! these are passed as if they were named, and one that was not given is read as garbage that the real
//! function ignores, as it does when called from C.

mod close;
mod data;
mod dup;
mod fcntl;
mod ioctl;
mod memory;
mod open;
mod stat;

/// Declares exported C functions. A cancelled thread may unwind through them.
macro_rules! hooks {
    ($(
        $(#[$meta:meta])*
        fn $name:ident($($arg:ident: $ty:ty),* $(,)?) -> $ret:ty $body:block
    )*) => {$(
        $(#[$meta])*
        ///
        /// # Safety
        /// As the C function's.
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C-unwind" fn $name($($arg: $ty),*) -> $ret $body
    )*};
}
pub(crate) use hooks;
