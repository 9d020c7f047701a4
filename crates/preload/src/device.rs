//! `/dev/kvm` as a path, and the parameters of its module.

use std::ffi::{CStr, OsStr, c_char, c_void};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Device number of `/dev/kvm`: misc major, KVM's minor.
pub const MAJOR: u32 = 10;
/// See [`MAJOR`].
pub const MINOR: u32 = 232;
/// A device that exists everywhere and that anybody may open: what is asked of our own is asked of it.
pub const STAND_IN: &CStr = c"/dev/null";

/// Whether a path names `/dev/kvm`. Null does not.
///
/// # Safety
/// `path` is null or a C string.
#[inline]
pub unsafe fn is_kvm(path: *const c_char) -> bool {
    if path.is_null() {
        return false;
    }
    // SAFETY: a C string by the caller's promise; no byte beyond its end is read.
    unsafe { *path == b'/' as c_char && names_kvm(CStr::from_ptr(path).to_bytes()) }
}

/// Whether an absolute path names `/dev/kvm`, whatever slashes and dots are in it. Links are not
/// followed: an open through one is found out by its device number.
fn names_kvm(path: &[u8]) -> bool {
    if !path.ends_with(b"kvm") {
        return false;
    }
    path.split(|b| *b == b'/')
        .filter(|p| !p.is_empty() && *p != b".")
        .eq([&b"dev"[..], b"kvm"])
}

/// What a file of a parameter of KVM's modules reads, without the newline: in `/sys/module`, whatever the
/// machine below has there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parameter {
    /// It is there.
    Reads(&'static str),
    /// The module has no such parameter, or there is no such module.
    Missing,
}

/// The parameter that a path names; None for another file. Null is none.
///
/// # Safety
/// `path` is null or a C string.
#[inline]
pub unsafe fn parameter(path: *const c_char) -> Option<Parameter> {
    if path.is_null() {
        return None;
    }
    // SAFETY: a C string by the caller's promise; no byte beyond its end is read.
    unsafe {
        if *path != b'/' as c_char {
            return None;
        }
        parameter_named(CStr::from_ptr(path).to_bytes())
    }
}

fn parameter_named(path: &[u8]) -> Option<Parameter> {
    let rest = path.strip_prefix(b"/sys/module/kvm")?;
    let rest = std::str::from_utf8(rest).ok()?;
    let (module, name) = match rest.split_once('/')? {
        ("", rest) => ("kvm", rest),
        ("_intel", rest) => ("kvm_intel", rest),
        ("_amd", rest) => ("kvm_amd", rest),
        _ => return None,
    };
    let name = name.strip_prefix("parameters/")?;
    let reads = seamlock_kvm::host::parameter(module, name);
    Some(reads.map_or(Parameter::Missing, Parameter::Reads))
}

/// Where the library lies.
pub fn library() -> Option<PathBuf> {
    let mut info = MaybeUninit::<libc::Dl_info>::zeroed();
    let here = library as fn() -> Option<PathBuf>;
    // SAFETY: an address in this library, and a live place for the answer, whose name is a C string
    // that lives as long as the library.
    unsafe {
        if libc::dladdr(here as *const c_void, info.as_mut_ptr()) == 0 {
            return None;
        }
        let name = info.assume_init().dli_fname;
        (!name.is_null()).then(|| PathBuf::from(OsStr::from_bytes(CStr::from_ptr(name).to_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_those_of_our_modules() {
        let named = |path: &str| parameter_named(path.as_bytes());
        let tdp = "/sys/module/kvm/parameters/tdp_mmu";
        assert_eq!(named(tdp), Some(Parameter::Reads("Y")));
        let amd = "/sys/module/kvm_amd/parameters/nested";
        assert_eq!(named(amd), Some(Parameter::Missing));
        for other in [
            "/sys/module/kvm",
            "/sys/module/kvm_pvm/parameters/x",
            "/dev/kvm",
        ] {
            assert_eq!(named(other), None);
        }
    }

    #[test]
    fn only_dev_kvm_is_dev_kvm() {
        for yes in ["/dev/kvm", "//dev//kvm", "/./dev/./kvm"] {
            assert!(names_kvm(yes.as_bytes()), "{yes}");
        }
        for no in [
            "/dev/kvm/",
            "/dev/kvmm",
            "/dev/vhost-net",
            "/dev",
            "/dev/x/kvm",
            "/xdev/kvm",
        ] {
            assert!(!names_kvm(no.as_bytes()), "{no}");
        }
    }
}
