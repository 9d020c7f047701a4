//! KVM_TDX_INIT_MEM_REGION: initial memory of a TD, measured or not.
//!
//! # Locking
//! The VM-state guard, with the vCPU loaded; for each page `filemap_invalidate_lock` exclusively, and
//! then what `post_populate` takes.

use std::cell::Cell;

use seamlock_tdx_abi::kvm::{Errno, KVM_TDX_MEASURE_MEMORY_REGION, KvmTdxCmd, KvmTdxInitMemRegion};
use seamlock_tdx_abi::{Gpa, PAGE_SHIFT, PAGE_SIZE};

use super::guard::VmStateGuard;
use super::post_populate::Load;
use super::state::TdState;
use crate::discipline::{Population, Unlocked};
use crate::error::{Result, fail};
use crate::gmem::populate_page;
use crate::host::Owner;
use crate::task::Task;
use crate::vcpu::{VcpuRef, VcpuTdState};
use crate::vm::Kvm;

/// `tdx_vcpu_init_mem_region`. The region is copied back, advanced by what was done, whenever its
/// fields were valid.
pub(super) fn tdx_vcpu_init_mem_region(
    task: &Task,
    vcpu: &VcpuRef,
    cmd: &KvmTdxCmd,
    guard: &mut VmStateGuard,
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
    guard.extend(task, kvm.discipline.commands.init_mem_region_tested)?;
    if kvm.tdx.state() == TdState::Runnable {
        return fail(Errno::EINVAL, SITE, "the TD is finalized");
    }
    if cmd.flags & !KVM_TDX_MEASURE_MEMORY_REGION != 0 {
        return fail(Errno::EINVAL, SITE, "an unknown flag is set");
    }
    let mut region: KvmTdxInitMemRegion = task.get(cmd.data, SITE)?;
    check_region(kvm, &region)?;
    // The mail's tdx_vcpu_async_ioctl leaves vcpu_load to here.
    let unloaded = matches!(kvm.discipline.commands.unlocked, Unlocked::Only(_));
    let _loaded = unloaded.then(|| vcpu.load(task));
    if kvm.discipline.population == Population::Premap {
        // v6.16 loads the roots once and does not look at the result.
        let _ = crate::mmu::kvm_mmu_reload(task, kvm, vcpu);
    }
    let owner = Owner::vcpu(kvm.number, vcpu.born_at() as u64);
    let Some(bounce) = kvm.host.alloc_page(owner) else {
        return fail(Errno::ENOMEM, SITE, "memory is exhausted");
    };
    let measure = cmd.flags & KVM_TDX_MEASURE_MEMORY_REGION != 0;
    let load = Load {
        task,
        kvm,
        vcpu,
        guard,
        bounce,
        source: Cell::new(bounce),
        measure,
    };
    let result = load.region(&mut region);
    kvm.host.free_page(owner, bounce);
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

    /// `get_user_pages_fast` of the source page. Where it lies outside of the machine's memory, it is
    /// copied.
    #[inline]
    fn pin(&self, source_addr: u64) -> Result<()> {
        const SITE: &str = "virt/kvm/guest_memfd.c:903 kvm_gmem_populate";
        let Some(bounce) = self.kvm.host.memory().frame_mut(self.bounce) else {
            return fail(Errno::ENOMEM, SITE, "the bounce page is not in memory");
        };
        let mut copy = |bytes: &[u8]| bounce.write_words(0, bytes);
        let pinned = self.task.pin_page(source_addr, SITE, &mut copy)?;
        self.source.set(pinned.unwrap_or(self.bounce));
        Ok(())
    }
}
