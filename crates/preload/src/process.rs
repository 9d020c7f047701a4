//! What belongs to this process: its machine, its descriptors, its settings.
//!
//! # Locking
//! The process is found by a pointer, which is written once per process. A forked child takes none of
//! its parent's locks, which another thread may have held: it starts over with a new [`Process`], and
//! the parent's is leaked.

use std::path::PathBuf;
use std::sync::atomic::{AtomicPtr, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};

use seamlock_kvm::File;
use seamlock_wear::{SETTINGS_VARIABLE, Settings};

use crate::eventfd::Eventfds;
use crate::machine::Machine;
use crate::maps::Maps;
use crate::table::Table;
use crate::{device, fork, log};

/// One process.
#[derive(Debug, Default)]
pub struct Process {
    /// Its descriptors of ours.
    pub table: Table,
    /// Its mappings of ours.
    pub maps: Maps,
    /// Its eventfds that KVM was shown.
    pub eventfds: Eventfds,
    machine: OnceLock<Option<Machine>>,
}

static PROCESS: AtomicPtr<Process> = AtomicPtr::new(std::ptr::null_mut());

/// The calling process.
#[inline]
pub fn process() -> &'static Process {
    let known = PROCESS.load(SeqCst);
    // SAFETY: null or a leaked `Process`, which lives for ever.
    match unsafe { known.as_ref() } {
        Some(process) if fork::is_ours() => process,
        _ => start(known),
    }
}

/// The first call in this process, which may be a forked child.
#[cold]
fn start(known: *mut Process) -> &'static Process {
    let fresh = Box::into_raw(Box::<Process>::default());
    let chosen = match PROCESS.compare_exchange(known, fresh, SeqCst, SeqCst) {
        Ok(_) => fresh,
        Err(other) => {
            // SAFETY: made above, and nobody else has seen it.
            drop(unsafe { Box::from_raw(fresh) });
            other
        }
    };
    fork::claim();
    // SAFETY: leaked, by us or by the thread that was faster.
    unsafe { &*chosen }
}

/// What this run was asked for. Read once; a program that is executed reads it anew.
pub fn settings() -> &'static Settings {
    static SETTINGS: OnceLock<Settings> = OnceLock::new();
    SETTINGS.get_or_init(|| {
        let variable = std::env::var_os(SETTINGS_VARIABLE).map(PathBuf::from);
        let library = device::library();
        Settings::find(variable.as_deref(), library.as_deref()).unwrap_or_else(|text| {
            log::say(&format!("{text}; going on without settings"));
            Settings::default()
        })
    })
}

impl Process {
    /// The machine, booted by whoever needs it first. None when it can't be.
    pub fn machine(&self) -> Option<&Machine> {
        let boot = || {
            Machine::boot(settings())
                .map_err(|text| log::warn(&text))
                .ok()
        };
        self.machine.get_or_init(boot).as_ref()
    }

    /// The machine, if it was booted.
    pub fn booted(&self) -> Option<&Machine> {
        self.machine.get()?.as_ref()
    }

    /// The file of a descriptor. An inherited `/dev/kvm` becomes one of this process's own.
    pub fn file(&self, fd: i32) -> Option<Arc<File>> {
        if let Some(file) = self.table.file(fd) {
            return Some(file);
        }
        if crate::table::sort(fd)? != crate::table::Sort::System {
            return None;
        }
        let file = self.machine()?.open();
        self.table.insert(fd, file.clone()).is_ok().then_some(file)
    }
}
