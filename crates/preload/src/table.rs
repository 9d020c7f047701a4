//! Which descriptors of the process are files of ours.
//!
//! # Locking
//! `kinds` answers "is it ours?" without a lock, on every `close` and `ioctl` that the VMM makes. The
//! files are behind a [`Private`]; a kind is written only while it is held. Neither is held while KVM
//! is called.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::SeqCst};

use seamlock_kvm::File;
use seamlock_kvm::file::Kind;
use seamlock_sync::Private;

/// Descriptors from here on are never ours.
const LIMIT: usize = 1 << 20;

/// What a descriptor stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Sort {
    /// `/dev/kvm`.
    System = 1,
    /// A VM.
    Vm,
    /// A vCPU.
    Vcpu,
    /// A guest_memfd.
    Gmem,
    /// The statistics of a VM or a vCPU.
    Stats,
}

impl Sort {
    /// What a file of KVM is.
    pub fn of(file: &File) -> Sort {
        match file.kind() {
            Kind::System(_) => Sort::System,
            Kind::Vm(_) => Sort::Vm,
            Kind::Vcpu(_) => Sort::Vcpu,
            Kind::Gmem(_) => Sort::Gmem,
            Kind::Stats(_) => Sort::Stats,
        }
    }

    fn from_byte(byte: u8) -> Option<Sort> {
        let sorts = [Sort::System, Sort::Vm, Sort::Vcpu, Sort::Gmem, Sort::Stats];
        sorts.into_iter().find(|s| *s as u8 == byte)
    }
}

/// The sorts of all descriptors. Outlives the table: a forked child reads here what it inherited.
static SORTS: [AtomicU8; LIMIT] = [const { AtomicU8::new(0) }; LIMIT];
/// One more than the highest descriptor that was ever ours.
static HIGHEST: AtomicUsize = AtomicUsize::new(0);

/// What a descriptor stands for; None when it is not ours.
#[inline]
pub fn sort(fd: i32) -> Option<Sort> {
    let byte = SORTS.get(usize::try_from(fd).ok()?)?.load(SeqCst);
    if byte == 0 {
        None
    } else {
        Sort::from_byte(byte)
    }
}

/// The descriptors of ours from `first` to `last`.
pub fn ours_in(first: u32, last: u32) -> Vec<i32> {
    let end = HIGHEST.load(SeqCst).min((last as usize).saturating_add(1));
    (first as usize..end)
        .map(|fd| fd as i32)
        .filter(|fd| sort(*fd).is_some())
        .collect()
}

fn mark(fd: i32, sort: Option<Sort>) {
    if let Some(cell) = usize::try_from(fd).ok().and_then(|at| SORTS.get(at)) {
        cell.store(sort.map_or(0, |s| s as u8), SeqCst);
        HIGHEST.fetch_max(fd as usize + 1, SeqCst);
    }
}

/// Forgets a descriptor that no table knows: one that was inherited.
pub fn forget(fd: i32) {
    mark(fd, None);
}

/// The descriptors and their files.
#[derive(Debug, Default)]
pub struct Table {
    files: Private<BTreeMap<i32, Arc<File>>>,
}

impl Table {
    /// The file of a descriptor.
    pub fn file(&self, fd: i32) -> Option<Arc<File>> {
        self.files.with(|files| files.get(&fd).cloned())
    }

    /// Gives a descriptor to a file. What the descriptor stood for before is returned.
    ///
    /// # Errors
    /// The file, when the number is beyond what can be kept.
    pub fn insert(&self, fd: i32, file: Arc<File>) -> Result<Option<Arc<File>>, Arc<File>> {
        if usize::try_from(fd).map_or(true, |fd| fd >= LIMIT) {
            return Err(file);
        }
        Ok(self.files.with(|files| {
            mark(fd, Some(Sort::of(&file)));
            files.insert(fd, file)
        }))
    }

    /// Takes a descriptor out.
    pub fn remove(&self, fd: i32) -> Option<Arc<File>> {
        self.files.with(|files| {
            mark(fd, None);
            files.remove(&fd)
        })
    }
}

/// Whether any descriptor was ever ours. Then the process is known, and asking costs nothing.
#[inline]
pub fn any() -> bool {
    HIGHEST.load(SeqCst) != 0
}
