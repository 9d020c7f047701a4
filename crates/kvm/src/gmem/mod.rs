//! guest_memfd: memory that only the guest may touch, as a file.
//!
//! # Locking
//! | field | guarded by |
//! |---|---|
//! | `pages`, `poisoned` | `filemap_invalidate_lock`: shared to add, exclusive to truncate |
//! | `bindings` | `filemap_invalidate_lock`, exclusive |
//! | `slot.gmem_file` of a bound slot | `slots_lock`, and `filemap_invalidate_lock` to take it away |
//!
//! Order: `slots_lock` > `filemap_invalidate_lock` > `mmu_lock`. PUNCH_HOLE and a memory error take
//! neither `kvm->lock` nor `slots_lock`.

mod bind;
mod file_ops;
mod folios;
mod populate;

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock, Weak};

use seamlock_sync::{Private, RwLock};
use seamlock_tdx_abi::kvm::{
    Errno, GUEST_MEMFD_FLAG_INIT_SHARED, GUEST_MEMFD_FLAG_MMAP, KvmCreateGuestMemfd,
};
use seamlock_tdx_abi::{Hpa, PAGE_SIZE};

use crate::error::{Error, Result, fail};
use crate::file::{File, Kind};
use crate::host::Owner;
use crate::locks::{self, cells};
use crate::task::Task;
use crate::vm::Kvm;

pub use bind::Bindings;
pub(crate) use bind::{commit_memory_region, prepare_memory_region, supports_mmap, unbind};
pub use file_ops::{FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, fallocate};
pub use folios::{FOLIO_LOCK, FolioLock, Folios, NoFolio};
pub(crate) use populate::{PrivatePage, kvm_gmem_get_pfn, populate_page};

/// A guest_memfd: inode and file in one, as each inode has one file.
#[derive(Debug)]
pub struct Gmem {
    kvm: Arc<Kvm>,
    number: u64,
    size: u64,
    flags: u64,
    pub(crate) invalidate_lock: RwLock<()>,
    pub(crate) folios: Folios,
    bindings: Private<Bindings>,
    file: OnceLock<Weak<File>>,
}

impl Gmem {
    /// The VM that the file keeps alive.
    pub fn kvm(&self) -> &Arc<Kvm> {
        &self.kvm
    }

    /// The file's number in its VM, from 0.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Pages allocated.
    pub fn pages(&self) -> u64 {
        self.folios.count()
    }

    /// The page of an index, if there is one.
    pub fn page(&self, index: u64) -> Option<Hpa> {
        self.folios.get(index)
    }

    /// Whether somebody holds `filemap_invalidate_lock` now. For reports and tests.
    pub fn is_locked(&self) -> bool {
        self.invalidate_lock.is_locked()
    }

    /// `GUEST_MEMFD_FLAG_*`.
    pub fn flags(&self) -> u64 {
        self.flags
    }

    fn is_file(&self, file: &Arc<File>) -> bool {
        self.file
            .get()
            .is_some_and(|own| std::ptr::eq(own.as_ptr(), Arc::as_ptr(file)))
    }
}

/// Flags that a VM's guest_memfd may have (`kvm_gmem_get_supported_flags`).
pub(crate) fn supported_flags(kvm: &Kvm) -> u64 {
    // INIT_SHARED is for VMs whose memory starts as shared (x86.c:10670).
    if kvm.has_private_mem() {
        GUEST_MEMFD_FLAG_MMAP
    } else {
        GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED
    }
}

/// KVM_CREATE_GUEST_MEMFD: returns the descriptor.
///
/// # Errors
/// EINVAL for unknown flags, and a size that is not positive or not page aligned; EMFILE.
pub(crate) fn create(task: &Task, kvm: &Arc<Kvm>, args: &KvmCreateGuestMemfd) -> Result<i64> {
    const SITE: &str = "virt/kvm/guest_memfd.c:592 kvm_gmem_create";
    if args.flags & !supported_flags(kvm) != 0 {
        return fail(Errno::EINVAL, SITE, "a flag is not supported by this VM");
    }
    if (args.size as i64) <= 0 || !args.size.is_multiple_of(PAGE_SIZE) {
        return fail(
            Errno::EINVAL,
            SITE,
            "size is not positive or not page aligned",
        );
    }
    let number = kvm.next_gmem.fetch_add(1, Relaxed);
    let gmem = Arc::new(Gmem {
        kvm: kvm.clone(),
        number,
        size: args.size,
        flags: args.flags,
        invalidate_lock: RwLock::new(locks::FILEMAP_LOCK.of(kvm.number, number), ()),
        folios: Folios::new(
            Owner::gmem(kvm.number, number),
            cells::FOLIOS.of(kvm.number, number),
        ),
        bindings: Private::default(),
        file: OnceLock::new(),
    });
    let file = File::new(Kind::Gmem(gmem.clone()));
    // The file was just made, so nobody has set it.
    let _ = gmem.file.set(Arc::downgrade(&file));
    kvm.get();
    task.files().install(&file).map(i64::from).map_err(|errno| {
        // The creating ioctl holds the VM, so this is not its last reference.
        kvm.users_count.fetch_sub(1);
        Error::new(
            errno,
            "virt/kvm/guest_memfd.c:536 __kvm_gmem_create",
            "no descriptor is free",
        )
    })
}
