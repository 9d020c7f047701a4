//! `kvm_gmem_populate` of one page: the source is pinned, the page found, and handed to TDX.
//!
//! # Locking
//! `slots_lock` is held by the caller. The source page is pinned outside of
//! `filemap_invalidate_lock`, which is then held exclusively while the page enters the TD.

use seamlock_tdx_abi::kvm::Errno;
use seamlock_tdx_abi::{Gfn, Hpa};

use super::{Gmem, NoFolio};
use crate::error::{Result, fail};
use crate::file::{File, Kind};
use crate::task::Task;
use crate::vm::{Kvm, Slot};

/// A page of a guest_memfd on its way into a TD.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PrivatePage {
    /// Its guest frame.
    pub gfn: Gfn,
    /// Its physical address.
    pub page: Hpa,
}

/// Populates the frame `gfn`: `pin` gets the source page, `post` brings the page into the TD.
pub(crate) fn populate_page(
    task: &Task,
    kvm: &Kvm,
    gfn: Gfn,
    pin: impl FnOnce() -> Result<()>,
    post: impl FnOnce(PrivatePage) -> Result<()>,
) -> Result<()> {
    const SITE: &str = "virt/kvm/guest_memfd.c:875 kvm_gmem_populate";
    let Some(slot) = kvm.memslots.of_gfn(gfn).filter(|slot| slot.has_gmem()) else {
        return fail(
            Errno::EINVAL,
            SITE,
            "no memslot with a guest_memfd is at this address",
        );
    };
    let Some(file) = slot.gmem() else {
        return fail(Errno::EFAULT, SITE, "the guest_memfd is being closed");
    };
    let result = if task.signal_pending() {
        fail(Errno::EINTR, SITE, "a signal is pending")
    } else {
        pin().and_then(|()| populate_folio(kvm, &file, &slot, gfn, post))
    };
    file.put(task);
    result
}

/// `__kvm_gmem_populate`.
fn populate_folio(
    kvm: &Kvm,
    file: &std::sync::Arc<File>,
    slot: &Slot,
    gfn: Gfn,
    post: impl FnOnce(PrivatePage) -> Result<()>,
) -> Result<()> {
    const SITE: &str = "virt/kvm/guest_memfd.c:836 __kvm_gmem_populate";
    let Kind::Gmem(gmem) = file.kind() else {
        return fail(Errno::EFAULT, SITE, "the slot's file is no guest_memfd");
    };
    let _filemap = gmem.invalidate_lock.write();
    let page = gmem.pfn(file, slot, slot.gmem_index(gfn))?;
    if !kvm.attributes.is_private(gfn) {
        return fail(
            Errno::EINVAL,
            SITE,
            "the frame's attributes are not PRIVATE",
        );
    }
    post(PrivatePage { gfn, page })
}

impl Gmem {
    /// `__kvm_gmem_get_pfn`: the page of an index, for this slot.
    pub(crate) fn pfn(&self, file: &std::sync::Arc<File>, slot: &Slot, index: u64) -> Result<Hpa> {
        const SITE: &str = "virt/kvm/guest_memfd.c:745 __kvm_gmem_get_pfn";
        let current = slot.gmem_file.with(|f| f.is_some());
        if !current || !self.is_file(file) {
            return fail(Errno::EFAULT, SITE, "the slot has lost its file");
        }
        if !self.is_bound(index, slot) {
            return fail(Errno::EIO, SITE, "the page is not bound to this slot");
        }
        match self.folios.get_or_alloc(&self.kvm.host, index) {
            Ok(page) => Ok(page),
            Err(NoFolio::NoMemory) => fail(Errno::ENOMEM, SITE, "memory is exhausted"),
            Err(NoFolio::Poisoned) => fail(Errno::EHWPOISON, SITE, "the page had a memory error"),
        }
    }
}

/// `kvm_gmem_get_pfn`, for a fault.
pub(crate) fn kvm_gmem_get_pfn(task: &Task, kvm: &Kvm, slot: &Slot, gfn: Gfn) -> Result<Hpa> {
    const SITE: &str = "virt/kvm/guest_memfd.c:774 kvm_gmem_get_pfn";
    let Some(file) = slot.gmem() else {
        return fail(
            Errno::EFAULT,
            SITE,
            "the slot has no guest_memfd, or it is being closed",
        );
    };
    let page = match file.kind() {
        Kind::Gmem(gmem) => gmem.pfn(&file, slot, slot.gmem_index(gfn)),
        _ => fail(Errno::EFAULT, SITE, "the slot's file is no guest_memfd"),
    };
    debug_assert!(std::ptr::eq(file.host().as_ref(), kvm.host.as_ref()));
    file.put(task);
    page
}
