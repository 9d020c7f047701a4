//! KVM_TDX_INIT_MEM_REGION: initial memory of a TD, measured or not.
//!
//! # Locking
//! The VM-state guard, with the vCPU loaded; for each page `filemap_invalidate_lock` exclusively, and
//! `mmu_lock` for reading while the page is mapped. MR.EXTEND runs outside of `mmu_lock`.

use seamlock_sync::relax;
use seamlock_tdx_abi::kvm::{Errno, KVM_TDX_MEASURE_MEMORY_REGION, KvmTdxCmd, KvmTdxInitMemRegion};
use seamlock_tdx_abi::measure::EXTEND_CHUNK_BYTES;
use seamlock_tdx_abi::{Gfn, Gpa, Hpa, Leaf as Seam, PAGE_SHIFT, PAGE_SIZE};

use super::guard::VmStateGuard;
use super::seamcall::tdh_mr_extend;
use super::state::TdState;
use crate::error::{Error, Result, fail};
use crate::gmem::{PrivatePage, populate_page};
use crate::host::Owner;
use crate::mmu::{Leaf, Mapped};
use crate::task::Task;
use crate::vcpu::{Vcpu, VcpuRef, VcpuTdState};
use crate::vm::Kvm;

/// `tdx_vcpu_init_mem_region`. The region is copied back, advanced by what was done, whenever its
/// fields were valid.
pub(super) fn tdx_vcpu_init_mem_region(
    task: &Task,
    vcpu: &VcpuRef,
    cmd: &KvmTdxCmd,
    guard: &VmStateGuard,
) -> Result<()> {
    const SITE: &str = "tdx.c:3264 tdx_vcpu_init_mem_region";
    let kvm = vcpu.kvm();
    if vcpu.td_state() != VcpuTdState::Initialized {
        return fail(
            Errno::EINVAL,
            SITE,
            "the vCPU is not initialized: INIT_VCPU comes first",
        );
    }
    if kvm.tdx.state() == TdState::Runnable {
        return fail(Errno::EINVAL, SITE, "the TD is finalized");
    }
    if cmd.flags & !KVM_TDX_MEASURE_MEMORY_REGION != 0 {
        return fail(Errno::EINVAL, SITE, "an unknown flag is set");
    }
    let mut region: KvmTdxInitMemRegion = task.get(cmd.data, SITE)?;
    check_region(kvm, &region)?;
    let owner = Owner::vcpu(kvm.number, vcpu.born_at() as u64);
    let Some(source) = kvm.host.alloc_page(owner) else {
        return fail(Errno::ENOMEM, SITE, "memory is exhausted");
    };
    let measure = cmd.flags & KVM_TDX_MEASURE_MEMORY_REGION != 0;
    let load = Load {
        task,
        kvm,
        vcpu,
        guard,
        source,
        measure,
    };
    let result = load.region(&mut region);
    kvm.host.free_page(owner, source);
    task.put(cmd.data, &region, "tdx.c:3323 tdx_vcpu_init_mem_region")?;
    result
}

/// The checks that user space can fail, in one place as in the kernel.
fn check_region(kvm: &Kvm, region: &KvmTdxInitMemRegion) -> Result<()> {
    const SITE: &str = "tdx.c:3287 tdx_vcpu_init_mem_region";
    let bytes = region.nr_pages << PAGE_SHIFT;
    let end = region.gpa.wrapping_add(bytes);
    let zero_source = region.source_addr == 0 && kvm.discipline.source_zero_refused;
    if !region.source_addr.is_multiple_of(PAGE_SIZE) || zero_source {
        return fail(
            Errno::EINVAL,
            SITE,
            "source_addr is zero or not page aligned",
        );
    }
    if !region.gpa.is_multiple_of(PAGE_SIZE) {
        return fail(Errno::EINVAL, SITE, "gpa is not page aligned");
    }
    if region.nr_pages == 0 || end <= region.gpa {
        return fail(Errno::EINVAL, SITE, "nr_pages is zero or the region wraps");
    }
    if !kvm.tdx.is_private_gpa(region.gpa) || !kvm.tdx.is_private_gpa(end - 1) {
        return fail(Errno::EINVAL, SITE, "the region has the shared bit");
    }
    Ok(())
}

struct Load<'a> {
    task: &'a Task<'a>,
    kvm: &'a Kvm,
    vcpu: &'a Vcpu,
    guard: &'a VmStateGuard<'a>,
    /// The page that the source is copied to: user memory is not in the machine's physical memory.
    source: Hpa,
    measure: bool,
}

impl Load<'_> {
    fn region(&self, region: &mut KvmTdxInitMemRegion) -> Result<()> {
        const SITE: &str = "tdx.c:3297 tdx_vcpu_init_mem_region";
        while region.nr_pages != 0 {
            if self.task.signal_pending() {
                return fail(Errno::EINTR, SITE, "a signal is pending");
            }
            let gfn = Gpa(region.gpa).gfn();
            let pin = || self.pin(region.source_addr);
            populate_page(self.task, self.kvm, gfn, pin, |page| {
                self.post_populate(page)
            })?;
            region.source_addr = region.source_addr.wrapping_add(PAGE_SIZE);
            region.gpa = region.gpa.wrapping_add(PAGE_SIZE);
            region.nr_pages -= 1;
            self.task.resched();
        }
        Ok(())
    }

    /// `get_user_pages_fast` of the source page.
    #[inline]
    fn pin(&self, source_addr: u64) -> Result<()> {
        const SITE: &str = "virt/kvm/guest_memfd.c:903 kvm_gmem_populate";
        let Some(frame) = self.kvm.host.memory().frame_mut(self.source) else {
            return fail(Errno::ENOMEM, SITE, "the bounce page is not in memory");
        };
        self.task
            .pin_page(source_addr, SITE, &mut |bytes| frame.write_words(0, bytes))
    }

    /// `tdx_gmem_post_populate`.
    fn post_populate(&self, page: PrivatePage) -> Result<()> {
        const SITE: &str = "tdx.c:3236 tdx_gmem_post_populate";
        let kvm = self.kvm;
        let busy = kvm.tdx.page_add_src.load() != 0;
        if kvm.bug_on(busy, SITE, "a PAGE.ADD is under way already") {
            return fail(Errno::EIO, SITE, "a PAGE.ADD is under way already");
        }
        kvm.tdx.page_add_src.store(self.source.0);
        let result = self.map_private_pfn(page);
        kvm.tdx.page_add_src.store(0);
        result?;
        if self.measure {
            self.extend(page.gfn)
        } else {
            Ok(())
        }
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
                Mapped::Spurious => return fail(Errno::EIO, SITE, "the page is mapped already"),
                Mapped::Retry(busy) => relax(busy),
            }
        }
    }

    /// TDH.MR.EXTEND over the page: under the guard it can't fail, so a failure is a bug.
    fn extend(&self, gfn: Gfn) -> Result<()> {
        const SITE: &str = "tdx.c:3255 tdx_gmem_post_populate";
        let kvm = self.guard.kvm();
        let Some(tdr) = kvm.tdx.tdr() else {
            return fail(Errno::EIO, SITE, "the TD has no TDR");
        };
        for offset in (0..PAGE_SIZE).step_by(EXTEND_CHUNK_BYTES as usize) {
            let out = tdh_mr_extend(kvm.on(self.task), tdr, Gpa(gfn.gpa().0 + offset));
            if out.status == seamlock_tdx_abi::TdxStatus::SUCCESS {
                continue;
            }
            if kvm.discipline.outcomes.mr_extend_bugs {
                kvm.tdx_bug_on(out.status, Seam::MR_EXTEND, SITE, out.operands());
            }
            let reason = format!("TDH.MR.EXTEND failed with {}", out.status);
            return Err(Error::with(Errno::EIO, SITE, reason));
        }
        Ok(())
    }
}
