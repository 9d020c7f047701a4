//! Taking a TD apart: HKID back, control pages back.
//!
//! # Locking
//! `cpus_read_lock` > `tdx_lock` while the HKID is released. Nobody else has the VM then, or the
//! caller holds the VM-state guard.

use seamlock_tdx_abi::{Hpa, Leaf, TdxStatus};

use super::seamcall::{
    On, tdh_mng_key_freeid, tdh_mng_vpflushdone, tdh_phymem_cache_wb, tdh_phymem_page_reclaim,
    tdh_phymem_page_wbinvd,
};
use crate::host::Owner;
use crate::task::Task;
use crate::vm::Kvm;

/// `TDX_SEAMCALL_RETRIES`.
const CACHE_WB_RETRIES: u32 = 10_000;

/// `tdx_hkid_free`.
pub(crate) fn free_hkid(kvm: &Kvm) {
    if let Some(hkid) = kvm.tdx.hkid() {
        kvm.host.free_hkid(hkid);
        kvm.tdx.set_hkid(None);
    }
}

/// `tdx_mmu_release_hkid`: flushes the vCPUs, writes the caches back, and frees the HKID. It is leaked
/// when a step fails.
pub(crate) fn tdx_mmu_release_hkid(task: &Task, kvm: &Kvm) {
    let (Some(tdr), Some(_)) = (kvm.tdx.tdr(), kvm.tdx.hkid()) else {
        return;
    };
    let online = kvm.host.cpus_lock.read();
    for vcpu in kvm.vcpus() {
        vcpu.flush_on_cpu(kvm);
    }
    let _tdx = kvm.host.tdx_lock.lock();
    let status = tdh_mng_vpflushdone(kvm.on(task), tdr);
    if status == TdxStatus::FLUSHVP_NOT_DONE
        || kvm.tdx_bug_on(
            status,
            Leaf::MNG_VPFLUSHDONE,
            "tdx.c:513 tdx_mmu_release_hkid",
            [0; 3],
        )
    {
        return;
    }
    let mut written = 0u64;
    for cpu in kvm.host.cpus().iter().filter(|c| online.contains(&c.id)) {
        if written & 1 << cpu.package == 0 {
            written |= 1 << cpu.package;
            write_back_package(kvm, cpu.id);
        }
    }
    let status = tdh_mng_key_freeid(kvm.on(task), tdr);
    if !kvm.tdx_bug_on(
        status,
        Leaf::MNG_KEY_FREEID,
        "tdx.c:536 tdx_mmu_release_hkid",
        [0; 3],
    ) {
        free_hkid(kvm);
    }
}

/// `smp_func_do_phymem_cache_wb`: goes on after interrupts until it is done.
fn write_back_package(kvm: &Kvm, cpu: u32) {
    let on = On {
        host: &kvm.host,
        cpu,
    };
    let mut status = TdxStatus::SUCCESS;
    for _ in 0..CACHE_WB_RETRIES {
        status = tdh_phymem_cache_wb(on, status != TdxStatus::SUCCESS);
        if status != TdxStatus::INTERRUPTED_RESUMABLE {
            break;
        }
    }
    if status == TdxStatus::NO_HKID_READY_TO_WBCACHE {
        // Another thread has done it.
        status = TdxStatus::SUCCESS;
    }
    kvm.tdx_warn_on(
        status,
        Leaf::PHYMEM_CACHE_WB,
        "tdx.c:474 smp_func_do_phymem_cache_wb",
        [0; 3],
    );
}

/// `__tdx_reclaim_page`: whether the page is the host's again. One that is not is lost.
pub(crate) fn tdx_reclaim_page(task: &Task, kvm: &Kvm, page: Hpa) -> bool {
    let (status, operands) = tdh_phymem_page_reclaim(kvm.on(task), page);
    !kvm.tdx_warn_on(
        status,
        Leaf::PHYMEM_PAGE_RECLAIM,
        "tdx.c:334 __tdx_reclaim_page",
        operands,
    )
}

/// `tdx_reclaim_control_page`.
pub(crate) fn tdx_reclaim_control_page(task: &Task, kvm: &Kvm, owner: Owner, page: Hpa) -> bool {
    let back = tdx_reclaim_page(task, kvm, page);
    if back {
        kvm.host.free_page(owner, page);
    }
    back
}

/// `tdx_reclaim_td_control_pages`: TDCS pages, then the TDR. Nothing while the HKID is still assigned.
pub(crate) fn tdx_reclaim_td_control_pages(task: &Task, kvm: &Kvm) {
    if kvm.tdx.hkid().is_some() {
        return;
    }
    let tdcs = kvm.tdx.tdcs_pages.with(std::mem::take);
    for page in tdcs.into_iter().flatten() {
        if tdx_reclaim_control_page(task, kvm, kvm.owner(), page) {
            kvm.reclaimed.td_page();
        }
    }
    let Some(tdr) = kvm.tdx.tdr() else { return };
    if !tdx_reclaim_page(task, kvm, tdr) {
        return;
    }
    let status = tdh_phymem_page_wbinvd(kvm.on(task), tdr, kvm.host.global_keyid());
    const SITE: &str = "tdx.c:587 tdx_reclaim_td_control_pages";
    if kvm.tdx_bug_on(status, Leaf::PHYMEM_PAGE_WBINVD, SITE, [tdr.0, 0, 0]) {
        return;
    }
    kvm.host.free_page(kvm.owner(), tdr);
    kvm.tdx.set_tdr(None);
    kvm.reclaimed.td_page();
}
