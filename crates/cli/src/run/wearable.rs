//! Whether a program can wear the library: the dynamic linker has to load it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::{getegid, geteuid};

/// Why a program can't wear the library, in a few words; None when it can, or when it can't be read,
/// which whoever executes it says better.
///
/// What it executes in turn is another matter: a program that only starts others passes LD_PRELOAD on.
pub fn hindrance(program: &OsStr) -> Option<&'static str> {
    let path = find(program)?;
    let head = head_of(&path)?;
    if let Some(interpreter) = interpreter_of_script(&head) {
        return hindrance_of_file(interpreter, &head_of(interpreter)?);
    }
    hindrance_of_file(&path, &head)
}

/// Bytes of a file that are looked at: the headers are at its start.
const HEAD_BYTES: u64 = 64 << 10;

fn head_of(path: &Path) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    File::open(path)
        .ok()?
        .take(HEAD_BYTES)
        .read_to_end(&mut head)
        .ok()?;
    Some(head)
}

fn hindrance_of_file(path: &Path, head: &[u8]) -> Option<&'static str> {
    of_elf(head).or_else(|| is_privileged(path).then_some("runs with more rights than its caller"))
}

/// The file that is executed for a name.
fn find(program: &OsStr) -> Option<PathBuf> {
    if program.as_bytes().contains(&b'/') {
        return Some(program.into());
    }
    let path = std::env::var_os("PATH")?;
    let candidates = std::env::split_paths(&path).map(|dir| dir.join(program));
    candidates.into_iter().find(|candidate| {
        fs::metadata(candidate).is_ok_and(|data| data.is_file() && data.mode() & 0o111 != 0)
    })
}

fn interpreter_of_script(head: &[u8]) -> Option<&Path> {
    let line = head
        .strip_prefix(b"#!")?
        .split(|byte| *byte == b'\n')
        .next()?;
    let mut words = line.split(|byte| byte.is_ascii_whitespace());
    let first = words.find(|word| !word.is_empty())?;
    Some(Path::new(OsStr::from_bytes(first)))
}

/// What is in the way in an ELF file, by its headers.
fn of_elf(head: &[u8]) -> Option<&'static str> {
    const CLASS_64: u8 = 2;
    const PT_INTERP: u32 = 3;
    if !head.starts_with(b"\x7fELF") {
        return None;
    }
    if *head.get(4)? != CLASS_64 {
        return Some("is no 64-bit program");
    }
    let u16_at = |at: usize| Some(u16::from_le_bytes(*head.get(at..)?.first_chunk()?));
    let u64_at = |at: usize| Some(u64::from_le_bytes(*head.get(at..)?.first_chunk()?));
    let (table, size, count) = (u64_at(32)?, u16_at(54)?, u16_at(56)?);
    for i in 0..u64::from(count) {
        let at = table.checked_add(i * u64::from(size))?;
        let header = head.get(usize::try_from(at).ok()?..)?;
        if u32::from_le_bytes(*header.first_chunk()?) == PT_INTERP {
            return None;
        }
    }
    Some("is linked statically")
}

/// Whether the dynamic linker ignores LD_PRELOAD for it: it runs as another user or group, or with
/// capabilities.
fn is_privileged(path: &Path) -> bool {
    let Ok(data) = fs::metadata(path) else {
        return false;
    };
    let user = data.mode() & 0o4000 != 0 && data.uid() != geteuid().as_raw();
    let group = data.mode() & 0o2000 != 0 && data.gid() != getegid().as_raw();
    user || group || (!geteuid().is_root() && has_capabilities(path))
}

fn has_capabilities(path: &Path) -> bool {
    let mut value = [0; 64];
    rustix::fs::getxattr(path, "security.capability", &mut value).is_ok_and(|len| len > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file's headers with segments of these types.
    fn elf(class: u8, segments: &[u32]) -> Vec<u8> {
        let mut head = vec![0; 64];
        head[..4].copy_from_slice(b"\x7fELF");
        head[4] = class;
        head[32] = 64;
        head[54] = 56;
        head[56] = segments.len() as u8;
        for kind in segments {
            head.extend(kind.to_le_bytes());
            head.extend([0; 52]);
        }
        head
    }

    #[test]
    fn who_has_no_interpreter_is_linked_statically() {
        assert_eq!(of_elf(&elf(2, &[6, 3, 1])), None);
        assert_eq!(of_elf(&elf(2, &[1, 1, 2])), Some("is linked statically"));
        assert_eq!(of_elf(&elf(1, &[3])), Some("is no 64-bit program"));
        assert_eq!(of_elf(b"#!/bin/sh"), None);
        for len in 0..elf(2, &[1]).len() {
            // What is cut off says nothing, and breaks nothing.
            of_elf(&elf(2, &[1])[..len]);
        }
    }

    #[test]
    fn a_script_is_what_its_interpreter_is() {
        let of = |head: &'static [u8]| interpreter_of_script(head);
        assert_eq!(of(b"#! /bin/sh -e\necho"), Some(Path::new("/bin/sh")));
        assert_eq!(
            of(b"#!/usr/bin/env python3"),
            Some(Path::new("/usr/bin/env"))
        );
        assert_eq!(of(b"\x7fELF"), None);
        assert_eq!(of(b"#!"), None);
        assert_eq!(hindrance(OsStr::new("sh")), None);
        assert_eq!(hindrance(OsStr::new("no-such-program")), None);
    }
}
