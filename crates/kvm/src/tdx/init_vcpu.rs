//! KVM_TDX_INIT_VCPU: a TDVPR, its pages, and TDH.VP.INIT.
//!
//! # Locking
//! The VM-state guard, with the vCPU loaded; `apic_map_lock` for the APIC base; `mmu_lock` for writing
//! around TDH.VP.INIT, which has the TDR to itself and must not meet the removal of a page.

use seamlock_tdx_abi::kvm::{Errno, KVM_MP_STATE_RUNNABLE, KvmTdxCmd};
use seamlock_tdx_abi::{FieldId, Hpa, Leaf, PAGE_SIZE, TdxStatus};

use super::guard::VmStateGuard;
use super::seamcall::{tdh_vp_addcx, tdh_vp_create, tdh_vp_init, tdh_vp_wr};
use crate::error::{Result, fail};
use crate::host::Owner;
use crate::task::Task;
use crate::vcpu::{TdPages, Vcpu, VcpuRef, VcpuTdState};
use crate::vm::Kvm;

/// `POSTED_INTR_VECTOR`.
const POSTED_INTR_VECTOR: u64 = 0xf2;
/// `PIN_BASED_POSTED_INTR`.
const PIN_BASED_POSTED_INTR: u64 = 1 << 7;
/// `SECONDARY_EXEC_NOTIFY_VM_EXITING`.
const NOTIFY_VM_EXITING: u64 = 1 << 31;
/// `SECONDARY_EXEC_BUS_LOCK_DETECTION`.
const BUS_LOCK_DETECTION: u64 = 1 << 30;

/// `tdx_vcpu_init`.
pub(super) fn tdx_vcpu_init(
    task: &Task,
    vcpu: &VcpuRef,
    cmd: &KvmTdxCmd,
    _guard: &VmStateGuard,
) -> Result<()> {
    const SITE: &str = "tdx.c:3166 tdx_vcpu_init";
    let kvm = vcpu.kvm();
    if cmd.flags != 0 {
        return fail(Errno::EINVAL, SITE, "flags are not zero");
    }
    if vcpu.td_state() != VcpuTdState::Uninitialized {
        return fail(Errno::EINVAL, SITE, "the vCPU is initialized already");
    }
    if !vcpu.set_x2apic_base(kvm) {
        return fail(
            Errno::EINVAL,
            SITE,
            "the vCPU's CPUID lacks x2APIC: SET_CPUID2 comes first",
        );
    }
    create_vp(task, kvm, vcpu, cmd.data)?;
    write_vmcs(task, kvm, vcpu);
    vcpu.set_td_state(VcpuTdState::Initialized);
    Ok(())
}

/// `tdx_td_vcpu_init`. Every error of the module's is a bug here: the guard keeps others away.
fn create_vp(task: &Task, kvm: &Kvm, vcpu: &Vcpu, rcx: u64) -> Result<()> {
    const SITE: &str = "tdx.c:2987 tdx_td_vcpu_init";
    let owner = Owner::vcpu(kvm.number, vcpu.born_at() as u64);
    let tdr = kvm.tdx.tdr().unwrap_or_default();
    let Some(pages) = alloc_pages(kvm, owner) else {
        return fail(Errno::ENOMEM, SITE, "memory is exhausted");
    };
    let (tdvpr, tdcx) = (pages[0], &pages[1..]);
    let status = tdh_vp_create(kvm.on(task), tdr, tdvpr);
    if kvm.tdx_bug_on(
        status,
        Leaf::VP_CREATE,
        "tdx.c:3018 tdx_td_vcpu_init",
        [0; 3],
    ) {
        free_pages(kvm, owner, &pages);
        return fail(Errno::EIO, SITE, "TDH.VP.CREATE failed");
    }
    vcpu.set_td_pages(TdPages {
        tdvpr: Some(tdvpr),
        tdcx: Vec::new(),
    });
    for (i, page) in tdcx.iter().enumerate() {
        let status = tdh_vp_addcx(kvm.on(task), tdvpr, *page);
        if kvm.tdx_bug_on(
            status,
            Leaf::VP_ADDCX,
            "tdx.c:3025 tdx_td_vcpu_init",
            [0; 3],
        ) {
            // What was added is reclaimed with the vCPU; the rest never left the host.
            free_pages(kvm, owner, &tdcx[i..]);
            return fail(Errno::EIO, SITE, "TDH.VP.ADDCX failed");
        }
        vcpu.add_tdcx(*page);
    }
    let status = vp_init(task, kvm, vcpu, tdvpr, rcx);
    if kvm.tdx_bug_on(status, Leaf::VP_INIT, "tdx.c:3049 tdx_td_vcpu_init", [0; 3]) {
        return fail(Errno::EIO, SITE, "TDH.VP.INIT failed");
    }
    vcpu.set_mp_state(KVM_MP_STATE_RUNNABLE);
    Ok(())
}

fn vp_init(task: &Task, kvm: &Kvm, vcpu: &Vcpu, tdvpr: Hpa, rcx: u64) -> TdxStatus {
    if !kvm.discipline.vp_init_under_mmu_lock {
        return tdh_vp_init(kvm.on(task), tdvpr, rcx, vcpu.id);
    }
    let seal = kvm.discipline.seal;
    let _cpus = seal.cpus_stay_online.then(|| kvm.host.cpus_lock.read());
    let _mmu = kvm.mmu_lock.write();
    let status = tdh_vp_init(kvm.on_this_cpu(task), tdvpr, rcx, vcpu.id);
    if status == TdxStatus::SUCCESS && kvm.discipline.initialized_by_vp_init {
        // Before the thread can be moved: the module has associated the vCPU with this CPU.
        vcpu.set_td_state(VcpuTdState::Initialized);
    }
    status
}

fn alloc_pages(kvm: &Kvm, owner: Owner) -> Option<Vec<Hpa>> {
    let mut pages = Vec::new();
    for _ in 0..kvm.host.sysinfo().tdvps_base_size / PAGE_SIZE {
        let Some(page) = kvm.host.alloc_page(owner) else {
            free_pages(kvm, owner, &pages);
            return None;
        };
        pages.push(page);
    }
    Some(pages)
}

fn free_pages(kvm: &Kvm, owner: Owner, pages: &[Hpa]) {
    for page in pages {
        kvm.host.free_page(owner, *page);
    }
}

/// The VMCS fields that KVM sets. A failure bugs the VM, and the ioctl still succeeds.
fn write_vmcs(task: &Task, kvm: &Kvm, vcpu: &Vcpu) {
    const SITE: &str = "tdx.c:3191 tdx_vcpu_init: tdh_vp_wr_failed";
    let Some(tdvpr) = vcpu.tdvpr() else { return };
    let write = |field: FieldId, value: u64, mask: u64| {
        let status = tdh_vp_wr(kvm.on(task), tdvpr, field, value, mask);
        kvm.tdx_bug_on(status, Leaf::VP_WR, SITE, [field.0, value, mask]);
    };
    let (notify, window, bus_lock) = kvm.arch.with(|arch| {
        (
            arch.notify_vmexit & 1 != 0,
            arch.notify_vmexit >> 32,
            arch.bus_lock_detection,
        )
    });
    write(FieldId::VP_VMCS_POSTED_INTR_NV, POSTED_INTR_VECTOR, 0xffff);
    write(
        FieldId::VP_VMCS_POSTED_INTR_DESC_ADDR,
        vcpu.pi_desc(),
        u64::MAX,
    );
    let pin_based = FieldId::VP_VMCS_PIN_BASED_VM_EXEC_CONTROL;
    write(pin_based, PIN_BASED_POSTED_INTR, PIN_BASED_POSTED_INTR);
    let secondary = FieldId::VP_VMCS_PROC_BASED_VM_EXEC_CONTROL2;
    if notify {
        write(secondary, NOTIFY_VM_EXITING, NOTIFY_VM_EXITING);
        write(FieldId::VP_VMCS_NOTIFY_WINDOW, window, 0xffff_ffff);
    }
    if bus_lock {
        write(secondary, BUS_LOCK_DETECTION, BUS_LOCK_DETECTION);
    }
}
