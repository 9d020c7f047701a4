//! `kvm_destroy_vm`: what happens when the last reference to a VM goes, and what comes back.
//!
//! # Locking
//! Nobody else has the VM. `kvm_lock` for `vm_list`; `cpus_read_lock` > `tdx_lock` for the HKID;
//! `mmu_lock` for writing for the page tables; `kvm_usage_lock` last.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use seamlock_tdx_abi::Hkid;

use super::Kvm;
use crate::gmem;
use crate::host::Owner;
use crate::task::Task;
use crate::tdx::{TdState, release};
use crate::vcpu::{Vcpu, VcpuTdState};

/// Pages that the module gave back so far.
#[derive(Debug, Default)]
pub struct Reclaimed {
    private: AtomicU64,
    sept: AtomicU64,
    vcpu: AtomicU64,
    td: AtomicU64,
}

impl Reclaimed {
    pub(crate) fn private_page(&self) {
        self.private.fetch_add(1, Relaxed);
    }

    pub(crate) fn td_page(&self) {
        self.td.fetch_add(1, Relaxed);
    }
}

/// What a VM gave back when it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Teardown {
    /// The VM's number.
    pub vm: u64,
    /// Whether it was a TD.
    pub is_td: bool,
    /// Guest pages that were removed from the TD, over its life.
    pub private_pages: u64,
    /// Secure-EPT pages reclaimed.
    pub sept_pages: u64,
    /// TDVPR and TDCX pages reclaimed.
    pub vcpu_pages: u64,
    /// TDR and TDCS pages reclaimed.
    pub td_pages: u64,
    /// Pages of the VM that nobody will ever get back.
    pub pages_leaked: u64,
    /// Whether the TD's HKID is free again; also true if it never had one.
    pub hkid_returned: bool,
    /// Assertions of KVM's that failed in the VM's life.
    pub bugs: usize,
}

impl Teardown {
    /// All pages that the module gave back.
    pub fn pages_reclaimed(&self) -> u64 {
        self.private_pages + self.sept_pages + self.vcpu_pages + self.td_pages
    }
}

/// `kvm_destroy_vm`.
pub(super) fn kvm_destroy_vm(kvm: &Kvm, task: &Task) {
    let host = &kvm.host;
    host.kvm_lock.lock().remove(&kvm.number);
    // kvm_arch_pre_destroy_vm
    if kvm.is_td() {
        release::tdx_mmu_release_hkid(task, kvm);
    }
    // kvm_arch_destroy_vm
    for vcpu in kvm.vcpus() {
        free_vcpu(task, kvm, vcpu);
    }
    kvm.vcpu_array.with(Vec::clear);
    kvm_mmu_uninit_vm(task, kvm);
    if kvm.is_td() {
        release::tdx_reclaim_td_control_pages(task, kvm);
        kvm.tdx.set_state(TdState::Uninitialized);
    }
    for slot in kvm.memslots.all() {
        gmem::unbind(&slot);
    }
    let teardown = account(kvm);
    {
        let mut usage = host.kvm_usage_lock.lock();
        let _cpus = host.cpus_lock.read();
        *usage -= 1;
    }
    host.record_teardown(teardown);
}

/// `tdx_vcpu_free`: its pages come back, unless the HKID is still assigned.
fn free_vcpu(task: &Task, kvm: &Kvm, vcpu: &Vcpu) {
    const SITE: &str = "tdx.c:869 tdx_vcpu_free";
    kvm.host.arch().kvm_arch_vcpu_destroy(kvm, vcpu);
    if !kvm.is_td() {
        return;
    }
    if vcpu.cpu() != -1 {
        let initialized = vcpu.td_state() == VcpuTdState::Initialized;
        kvm.bug_on(
            initialized,
            SITE,
            "an initialized vCPU is freed while it is on a CPU",
        );
        vcpu.flush_on_cpu(kvm);
        return;
    }
    if kvm.tdx.hkid().is_some() {
        return;
    }
    let owner = Owner::vcpu(kvm.number, vcpu.born_at() as u64);
    let pages = vcpu.state.with(|state| std::mem::take(&mut state.pages));
    for page in pages.tdcx.into_iter().chain(pages.tdvpr) {
        if release::tdx_reclaim_control_page(task, kvm, owner, page) {
            kvm.reclaimed.vcpu.fetch_add(1, Relaxed);
        }
    }
    vcpu.set_td_state(VcpuTdState::Uninitialized);
}

/// `kvm_mmu_uninit_vm`: the mirror's tables go, and their secure-EPT pages are reclaimed. They can't be
/// while the HKID is assigned, and are lost then (`tdx_sept_free_private_spt`).
fn kvm_mmu_uninit_vm(task: &Task, kvm: &Kvm) {
    let pages = {
        let _mmu = kvm.mmu_lock.write();
        kvm.mirror
            .root()
            .map(|root| root.sept_pages())
            .unwrap_or_default()
    };
    const SITE: &str = "tdx.c:1899 tdx_sept_free_private_spt";
    for (owner, page) in pages {
        if kvm.bug_on(
            kvm.tdx.hkid().is_some(),
            SITE,
            "a table is freed with the HKID assigned",
        ) {
            continue;
        }
        if release::tdx_reclaim_control_page(task, kvm, owner, page) {
            kvm.reclaimed.sept.fetch_add(1, Relaxed);
        }
    }
    if let Some(root) = kvm.tdx.shared_root() {
        kvm.host.free_page(kvm.owner(), root);
    }
}

/// Closes the VM's books with the page allocator.
fn account(kvm: &Kvm) -> Teardown {
    let pages = kvm.host.pages();
    let count = |n: &AtomicU64| n.load(Relaxed);
    let leaked = pages.held_by_vm(kvm.number);
    pages.close(kvm.owner());
    for at in 0..kvm.born.len() {
        pages.close(Owner::vcpu(kvm.number, at as u64));
    }
    let hkid: Option<Hkid> = kvm.tdx.hkid();
    Teardown {
        vm: kvm.number,
        is_td: kvm.is_td(),
        private_pages: count(&kvm.reclaimed.private),
        sept_pages: count(&kvm.reclaimed.sept),
        vcpu_pages: count(&kvm.reclaimed.vcpu),
        td_pages: count(&kvm.reclaimed.td),
        pages_leaked: leaked,
        hkid_returned: hkid.is_none(),
        bugs: kvm.bugs.with(|bugs| bugs.len()),
    }
}
