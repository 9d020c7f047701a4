//! `tdx_gmem_post_populate`: a page enters the TD and is measured. Two strategies
//! ([`Population`](crate::discipline::Population)).
//!
//! # Locking
//! The caller holds `filemap_invalidate_lock` exclusively. A given page is mapped and added under
//! `mmu_lock` for reading. A premapped page enters the mirror under it, and the TD outside of it.
//! MR.EXTEND always runs outside of `mmu_lock`.

use std::cell::Cell;

use seamlock_tdx_abi::kvm::Errno;
use seamlock_tdx_abi::measure::EXTEND_CHUNK_BYTES;
use seamlock_tdx_abi::{Gfn, Gpa, Hpa, Leaf as Seam, PAGE_SIZE, TdxStatus};

use super::guard::VmStateGuard;
use super::seamcall::{Extended, tdh_mem_page_add, tdh_mr_extend};
use super::sept::tdx_operand_busy;
use crate::discipline::{ExtendFailure, Population};
use crate::error::{Error, Result, fail};
use crate::gmem::PrivatePage;
use crate::mmu::{Leaf, Mapped};
use crate::task::Task;
use crate::vcpu::{Vcpu, kvm_tdp_page_prefault};
use crate::vm::Kvm;

/// One KVM_TDX_INIT_MEM_REGION that is under way.
pub(super) struct Load<'a> {
    pub(super) task: &'a Task<'a>,
    pub(super) kvm: &'a Kvm,
    pub(super) vcpu: &'a Vcpu,
    pub(super) guard: &'a VmStateGuard<'a>,
    /// The page that a source is copied to that does not lie in the machine's physical memory.
    pub(super) bounce: Hpa,
    /// The source of the page that is under way.
    pub(super) source: Cell<Hpa>,
    pub(super) measure: bool,
}

impl Load<'_> {
    /// `tdx_gmem_post_populate`.
    pub(super) fn post_populate(&self, page: PrivatePage) -> Result<()> {
        let kvm = self.kvm;
        let seal = kvm.discipline.seal;
        let _cpus = seal.cpus_stay_online.then(|| kvm.host.cpus_lock.read());
        match kvm.discipline.population {
            Population::MapGivenPfn => self.map_given_pfn(page)?,
            Population::Premap => self.premap(page)?,
        }
        if self.measure {
            self.extend(page.gfn)
        } else {
            Ok(())
        }
    }

    /// The page is mapped as given, and added while its mirror entry is set.
    fn map_given_pfn(&self, page: PrivatePage) -> Result<()> {
        const SITE: &str = "tdx.c:3236 tdx_gmem_post_populate";
        let kvm = self.kvm;
        let busy = kvm.tdx.page_add_src.load() != 0;
        if kvm.bug_on(busy, SITE, "a PAGE.ADD is under way already") {
            return fail(Errno::EIO, SITE, "a PAGE.ADD is under way already");
        }
        kvm.tdx.page_add_src.store(self.source.get().0);
        let result = self.map_private_pfn(page);
        kvm.tdx.page_add_src.store(0);
        result
    }

    /// `kvm_tdp_mmu_map_private_pfn`.
    fn map_private_pfn(&self, page: PrivatePage) -> Result<()> {
        const SITE: &str = "arch/x86/kvm/mmu/mmu.c:5226 kvm_tdp_mmu_map_private_pfn";
        let (task, kvm) = (self.task, self.kvm);
        crate::mmu::kvm_mmu_reload(task, kvm, self.vcpu)?;
        let leaf = Leaf {
            gfn: page.gfn.0,
            page: page.page,
        };
        loop {
            if task.signal_pending() {
                return fail(Errno::EINTR, SITE, "a signal is pending");
            }
            if self.vcpu.is_vm_dead_requested() {
                return fail(Errno::EIO, SITE, "the VM is dead");
            }
            task.resched();
            let mapped = {
                let mmu = kvm.mmu_lock.read();
                crate::mmu::kvm_tdp_mmu_map(task, kvm, self.vcpu, leaf, &mmu)
            };
            match mapped {
                Mapped::Fixed => return Ok(()),
                Mapped::Spurious if kvm.discipline.outcomes.spurious_is_success => return Ok(()),
                Mapped::NoMemory => return Err(crate::mmu::no_memory()),
                Mapped::Spurious | Mapped::Emulate => {
                    return fail(Errno::EIO, SITE, "the page is mapped already");
                }
                Mapped::Retry(busy) => busy.relax(),
            }
        }
    }

    /// v6.16: a simulated fault puts the page into the mirror, PAGE.ADD follows.
    fn premap(&self, page: PrivatePage) -> Result<()> {
        const SITE: &str = "v6.16 tdx.c:3181 tdx_gmem_post_populate";
        let (task, kvm) = (self.task, self.kvm);
        kvm_tdp_page_prefault(task, kvm, self.vcpu, page.gfn.gpa(), true)?;
        let Some(tdr) = kvm.tdx.tdr() else {
            return fail(Errno::EIO, SITE, "the TD has no TDR");
        };
        let out = tdh_mem_page_add(
            kvm.on(task),
            tdr,
            page.gfn.gpa(),
            page.page,
            self.source.get(),
        );
        premapped_add_outcome(out)?;
        let none = kvm.tdx.nr_premapped.load() == 0;
        if !kvm.bug_on(none, SITE, "no premapped page is counted") {
            kvm.tdx.nr_premapped.fetch_sub(1);
        }
        Ok(())
    }

    /// TDH.MR.EXTEND over the page.
    fn extend(&self, gfn: Gfn) -> Result<()> {
        let kvm = self.guard.kvm();
        let Some(tdr) = kvm.tdx.tdr() else {
            const SITE: &str = "tdx.c:3257 tdx_gmem_post_populate";
            return fail(Errno::EIO, SITE, "the TD has no TDR");
        };
        let seal = kvm.discipline.seal;
        let _mmu = seal.extend_under_mmu_lock.then(|| kvm.mmu_lock.read());
        for offset in (0..PAGE_SIZE).step_by(EXTEND_CHUNK_BYTES as usize) {
            // mmu_lock is a spinlock.
            let on = match seal.extend_under_mmu_lock {
                true => kvm.on_this_cpu(self.task),
                false => kvm.on(self.task),
            };
            let out = tdh_mr_extend(on, tdr, Gpa(gfn.gpa().0 + offset));
            if out.status != TdxStatus::SUCCESS {
                return extend_outcome(kvm, out);
            }
        }
        Ok(())
    }
}

/// What a failed PAGE.ADD of a premapped page leads to: user space's error, and nothing else. The
/// page stays in the mirror, and counted.
fn premapped_add_outcome(out: Extended) -> Result<()> {
    const SITE: &str = "v6.16 tdx.c:3198 tdx_gmem_post_populate";
    if out.status == TdxStatus::SUCCESS {
        return Ok(());
    }
    let errno = if tdx_operand_busy(out.status) {
        Errno::EBUSY
    } else {
        Errno::EIO
    };
    let reason = format!("TDH.MEM.PAGE.ADD failed with {}", out.status);
    Err(Error::with(errno, SITE, reason))
}

/// What a failed MR.EXTEND leads to. Under the guard it can't fail, so that it is a bug there.
fn extend_outcome(kvm: &Kvm, out: Extended) -> Result<()> {
    const SITE: &str = "tdx.c:3257 tdx_gmem_post_populate";
    let errno = match kvm.discipline.outcomes.mr_extend {
        ExtendFailure::Bugs => {
            kvm.tdx_bug_on(out.status, Seam::MR_EXTEND, SITE, out.operands());
            Errno::EIO
        }
        ExtendFailure::BusyToUser if tdx_operand_busy(out.status) => Errno::EBUSY,
        ExtendFailure::BusyToUser | ExtendFailure::Eio => Errno::EIO,
    };
    let reason = format!("TDH.MR.EXTEND failed with {}", out.status);
    Err(Error::with(errno, SITE, reason))
}
