//! `kvm_gmem_populate` of one page: the source is pinned, the page found, and handed to TDX.
//!
//! # Locking
//! `slots_lock` is held by the caller. `filemap_invalidate_lock` is held exclusively while the page
//! enters the TD. v7.3 pins the source page before that lock is taken; to v6.19 it is pinned inside of
//! it ([`GmemPopulate`]).

use std::sync::Arc;

use seamlock_sync::{Action, announce};
use seamlock_tdx_abi::kvm::Errno;
use seamlock_tdx_abi::{Gfn, Hpa};

use super::{Gmem, NoFolio};
use crate::discipline::GmemPopulate;
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
    let to = To {
        kvm,
        file: &file,
        slot: &slot,
        gfn,
    };
    let result = match kvm.discipline.gmem {
        GmemPopulate::PinsFirst => pins_first(task, &to, pin, post),
        GmemPopulate::TracksPreparation => tracks_preparation(task, &to, pin, post),
    };
    file.fput(task);
    result
}

/// Where a page is populated.
struct To<'a> {
    kvm: &'a Kvm,
    file: &'a Arc<File>,
    slot: &'a Slot,
    gfn: Gfn,
}

impl<'a> To<'a> {
    fn gmem(&self) -> Result<&'a Gmem> {
        const SITE: &str = "virt/kvm/guest_memfd.c:836 __kvm_gmem_populate";
        match self.file.kind() {
            Kind::Gmem(gmem) => Ok(gmem),
            _ => fail(Errno::EFAULT, SITE, "the slot's file is no guest_memfd"),
        }
    }

    fn index(&self) -> u64 {
        self.slot.gmem_index(self.gfn)
    }

    fn check_private(&self, site: &'static str) -> Result<()> {
        if !self.kvm.attributes.is_private(self.gfn) {
            return fail(
                Errno::EINVAL,
                site,
                "the frame's attributes are not PRIVATE",
            );
        }
        Ok(())
    }
}

/// From v7.0 on: `kvm_gmem_populate` pins, `__kvm_gmem_populate` does the rest under the lock.
fn pins_first(
    task: &Task,
    to: &To,
    pin: impl FnOnce() -> Result<()>,
    post: impl FnOnce(PrivatePage) -> Result<()>,
) -> Result<()> {
    const SITE: &str = "virt/kvm/guest_memfd.c:836 __kvm_gmem_populate";
    if task.signal_pending() {
        const SITE: &str = "virt/kvm/guest_memfd.c:875 kvm_gmem_populate";
        return fail(Errno::EINTR, SITE, "a signal is pending");
    }
    pin()?;
    let gmem = to.gmem()?;
    let _filemap = gmem.invalidate_lock.write();
    let page = gmem.pfn(to.file, to.slot, to.index())?;
    to.check_private(SITE)?;
    post(PrivatePage { gfn: to.gfn, page })
}

/// To v6.19: all under the lock. A page that is up to date was populated, or faulted in, before.
fn tracks_preparation(
    task: &Task,
    to: &To,
    pin: impl FnOnce() -> Result<()>,
    post: impl FnOnce(PrivatePage) -> Result<()>,
) -> Result<()> {
    const SITE: &str = "v6.16 virt/kvm/guest_memfd.c:642 kvm_gmem_populate";
    let gmem = to.gmem()?;
    let _filemap = gmem.invalidate_lock.write();
    if task.signal_pending() {
        return fail(Errno::EINTR, SITE, "a signal is pending");
    }
    let page = gmem.pfn(to.file, to.slot, to.index())?;
    if gmem.folios.is_prepared(to.index()) {
        return fail(Errno::EEXIST, SITE, "the page is up to date already");
    }
    to.check_private(SITE)?;
    pin()?;
    post(PrivatePage { gfn: to.gfn, page })?;
    gmem.folios.mark_prepared(to.index());
    Ok(())
}

impl Gmem {
    /// `__kvm_gmem_get_pfn`: the page of an index, for this slot.
    pub(crate) fn pfn(&self, file: &Arc<File>, slot: &Slot, index: u64) -> Result<Hpa> {
        const SITE: &str = "virt/kvm/guest_memfd.c:745 __kvm_gmem_get_pfn";
        announce(Action::Load, slot.gmem_cell(), 0);
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

/// `kvm_gmem_get_pfn`, for a fault. The page is up to date afterwards, where that is tracked.
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
        Kind::Gmem(gmem) => {
            let index = slot.gmem_index(gfn);
            let page = gmem.pfn(&file, slot, index);
            let tracked = kvm.discipline.gmem == GmemPopulate::TracksPreparation;
            if tracked && page.is_ok() {
                gmem.folios.mark_prepared(index);
            }
            page
        }
        _ => fail(Errno::EFAULT, SITE, "the slot's file is no guest_memfd"),
    };
    debug_assert!(std::ptr::eq(file.host().as_ref(), kvm.host.as_ref()));
    file.fput(task);
    page
}
