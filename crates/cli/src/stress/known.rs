//! Which known race a failed assertion looks like: by the SEAMCALL, and by what was going on.
//!
//! R1 to R10 are those of `seamlock check --race`. What v7.3 has as well, by its source and by
//! `seamlock stress`:
//!
//! R11. The thread of KVM_TDX_INIT_VCPU is moved to another CPU after TDH.VP.INIT, which associates the
//! vCPU with the CPU, and before `tdx->state` becomes INITIALIZED. `tdx_flush_vp` skips TDH.VP.FLUSH
//! for what is not initialised, and TDH.VP.WR on the new CPU fails with TDX_VCPU_ASSOCIATED: the VM is
//! bugged and its HKID lost. The scheduler alone suffices.
//!
//! R12. A CPU goes offline: `tdx_disable_virtualization_cpu` flushes its vCPUs without any lock of
//! their VMs, and ignores the status. TDH.VP.FLUSH holds the TDR shared: a no-fail SEAMCALL that wants
//! it alone fails, or the flush does, and the vCPU stays associated with a CPU that is gone.
//!
//! R13. PUNCH_HOLE, or a memory failure, blocks a page while the TD is built and skips TDH.MEM.TRACK for
//! that reason. KVM_TDX_FINALIZE_VM completes, for it takes neither `filemap_invalidate_lock` nor
//! `mmu_lock`. TDH.MEM.PAGE.REMOVE then fails with TDX_TLB_TRACKING_NOT_DONE: the VM is bugged, and its
//! page goes back to the host while the TD still has it.
//!
//! R14. PUNCH_HOLE on one guest_memfd beside INIT_MEM_REGION of a page of another one, or beside
//! FINALIZE_VM. `filemap_invalidate_lock` is each file's own, and TDH.MR.EXTEND and TDH.MR.FINALIZE run
//! outside of `mmu_lock`: they want the TDR alone, TDH.MEM.RANGE.BLOCK shared. Either side fails with
//! TDX_OPERAND_BUSY and bugs the VM.

use seamlock_kvm::bug::What;
use seamlock_kvm::{Bug, Discipline};
use seamlock_tdx_abi::{Leaf, TdxStatus};

const LOAD: &str = "KVM_TDX_INIT_MEM_REGION";
const FINALIZE: &str = "KVM_TDX_FINALIZE_VM";
const INIT_VCPU: &str = "KVM_TDX_INIT_VCPU";
const GET_CPUID: &str = "KVM_TDX_GET_CPUID";
const HOLE: &str = "fallocate(PUNCH_HOLE)";
const POISON: &str = "memory failure";

/// What the hand that takes CPUs offline is at.
pub const HOTPLUG: &str = "CPU offline";

/// Whether one thread alone gets this by asking for it. KVM_TDX_FINALIZE_VM does not look whether any
/// vCPU was initialised, and the module's TDX_NO_VCPUS is a TDX_BUG_ON there (v7.3 tdx.c:2912).
/// KVM_SET_CPUID2 may give a vCPU another width of guest addresses than the TD has, which
/// `tdx_load_mmu_pgd` asserts (v7.3 tdx.c:1637).
pub fn is_asked_for(bug: &Bug) -> bool {
    match &bug.what {
        What::Seamcall { leaf, status, .. } => {
            *leaf == Leaf::MR_FINALIZE && status.is(TdxStatus::NO_VCPUS)
        }
        What::Condition(what) => what.contains("another GPA width than the TD"),
    }
}

/// The race, as far as can be told. Others have gone on while this is asked, so a race that is not
/// recognised is None and a finding all the same.
///
/// Under the guard as merged R1 to R10 are closed, so what looks like one of them is R14.
pub fn race(
    bug: &Bug,
    doing: &str,
    beside: &[&str],
    discipline: &Discipline,
) -> Option<&'static str> {
    let (leaf, status) = match &bug.what {
        What::Condition(what) => return what.contains("list corruption").then_some("R5"),
        What::Seamcall { leaf, status, .. } => (*leaf, *status),
    };
    if status.is(TdxStatus::VCPU_ASSOCIATED) {
        return Some("R11").filter(|_| doing == INIT_VCPU);
    }
    if leaf == Leaf::MEM_PAGE_REMOVE && status.is(TdxStatus::TLB_TRACKING_NOT_DONE) {
        return Some("R13");
    }
    if !status.is(TdxStatus::OPERAND_BUSY) {
        return status
            .is(TdxStatus::OP_STATE_INCORRECT)
            .then_some("R2b")
            .filter(|_| doing == INIT_VCPU);
    }
    if doing == HOTPLUG || (beside.contains(&HOTPLUG) && leaf != Leaf::VP_FLUSH) {
        return Some("R12");
    }
    let with = |name: &str| beside.contains(&name);
    let hole = |name: &str| name == HOLE || name == POISON;
    match leaf {
        Leaf::MR_EXTEND if discipline.vp_init_under_mmu_lock => Some("R14"),
        Leaf::MEM_RANGE_BLOCK | Leaf::MEM_PAGE_REMOVE
            if discipline.vp_init_under_mmu_lock && hole(doing) =>
        {
            Some("R14")
        }
        Leaf::MR_EXTEND if beside.iter().any(|name| hole(name)) => Some("R14"),
        Leaf::MEM_RANGE_BLOCK | Leaf::MEM_PAGE_REMOVE
            if hole(doing) && (with(LOAD) || with(FINALIZE)) =>
        {
            Some("R14")
        }
        Leaf::VP_FLUSH if with(LOAD) => Some("R1c"),
        Leaf::VP_FLUSH if with(FINALIZE) => Some("R2c"),
        Leaf::VP_FLUSH if with(INIT_VCPU) => Some("R10'"),
        Leaf::MEM_RANGE_BLOCK | Leaf::MEM_PAGE_REMOVE if with(INIT_VCPU) => match doing {
            "fallocate(PUNCH_HOLE)" | "memory failure" => Some("R4"),
            _ => Some("R4'"),
        },
        Leaf::VP_CREATE | Leaf::VP_ADDCX | Leaf::VP_WR | Leaf::VP_INIT if with(LOAD) => Some("R1a"),
        Leaf::VP_CREATE | Leaf::VP_ADDCX | Leaf::VP_WR if with(FINALIZE) => Some("R2a"),
        Leaf::VP_CREATE | Leaf::VP_ADDCX | Leaf::VP_WR if with(INIT_VCPU) => Some("R10"),
        Leaf::VP_INIT if with("fallocate(PUNCH_HOLE)") || with("memory failure") => Some("R4"),
        Leaf::VP_INIT if with(INIT_VCPU) || with(GET_CPUID) => Some("R10"),
        Leaf::MR_EXTEND if with(INIT_VCPU) => Some("R1a"),
        Leaf::MR_EXTEND if with(GET_CPUID) => Some("R1b"),
        _ => None,
    }
}
