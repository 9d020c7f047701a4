//! What belongs to this process: its machine, its descriptors, its settings.
//!
//! # Locking
//! The process is found by a pointer, which is written once per process. A forked child takes none of
//! its parent's locks, which another thread may have held: it starts over with a new [`Process`], and
//! the parent's is leaked.

use std::path::PathBuf;
use std::sync::atomic::Ordering::SeqCst;
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

/// The calling process.
#[inline]
pub fn process() -> &'static Process {
    let known = fork::process().map_or(std::ptr::null_mut(), |place| place.load(SeqCst));
    // SAFETY: null or a leaked `Process`, which lives for ever.
    unsafe { known.as_ref() }.unwrap_or_else(start)
}

/// The first call in this process, which may be a forked child. Threads may race for it; one makes it.
#[cold]
fn start() -> &'static Process {
    let fresh = Box::into_raw(Box::<Process>::default());
    let null = std::ptr::null_mut();
    let chosen = match fork::claim().compare_exchange(null, fresh, SeqCst, SeqCst) {
        Ok(_) => fresh,
        Err(other) => {
            // SAFETY: made above, and nobody else has seen it.
            drop(unsafe { Box::from_raw(fresh) });
            other
        }
    };
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

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    /// Whether threads that call at once are given one process.
    fn is_one_for_all() -> bool {
        let barrier = Barrier::new(8);
        let addresses: Vec<usize> = std::thread::scope(|scope| {
            let ask = || {
                barrier.wait();
                std::ptr::from_ref(process()) as usize
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().filter_map(|t| t.join().ok()).collect()
        });
        addresses.len() == 8 && addresses.iter().all(|address| *address == addresses[0])
    }

    #[test]
    fn threads_whose_first_calls_race_are_in_one_process() {
        let mine = std::ptr::from_ref(process());
        for _ in 0..50 {
            // SAFETY: the child does nothing but what is here, and leaves without its parent's exit handlers.
            let child = unsafe { libc::fork() };
            if child == 0 {
                let fresh = is_one_for_all() && !std::ptr::eq(process(), mine);
                // SAFETY: ends the child.
                unsafe { libc::_exit(i32::from(!fresh)) };
            }
            let mut status = -1;
            // SAFETY: a child of ours and a live place.
            let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
            assert_eq!((waited, status), (child, 0));
        }
    }
}
