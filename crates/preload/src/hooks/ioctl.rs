//! `ioctl`.

use std::ffi::{c_int, c_ulong};

use super::hooks;
use crate::boundary::guarded;
use crate::machine::with_file;
use crate::process::process;
use crate::{real, table};

hooks! {
    /// `ioctl(2)`. What the VFS does for any file goes to the memfd below.
    fn ioctl(fd: c_int, request: c_ulong, arg: c_ulong) -> c_int {
        if table::sort(fd).is_none() || OF_ANY_FILE.contains(&(request as u32)) {
            // SAFETY: the caller's promise, passed on.
            return unsafe { real::ioctl(fd, request, arg) };
        }
        guarded("ioctl", || {
            let machine = process().machine().ok_or(libc::EIO)?;
            with_file(fd, libc::EIO, |file| {
                machine.ioctl(file, request as u32, arg).map_err(|error| error.errno.0)
            })
        }) as c_int
    }
}

/// FIONCLEX, FIOCLEX, FIONBIO, FIOASYNC: the VFS answers these, not the file. The kernel looks at the
/// low 32 bits of a request only.
const OF_ANY_FILE: [u32; 4] = [0x5450, 0x5451, 0x5421, 0x5452];
