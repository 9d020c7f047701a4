//! KVM_TDX_FINALIZE_VM: the measurement is final, vCPUs may run.
//!
//! # Locking
//! The VM-state guard. It keeps neither PUNCH_HOLE nor a memory failure out, which take
//! `filemap_invalidate_lock` and `mmu_lock`: one that blocked a page of a TD that was not finalized, and
//! did not track TLBs for that reason, fails to remove the page of one that is (R13).

use seamlock_tdx_abi::kvm::{Errno, KvmTdxCmd};
use seamlock_tdx_abi::{Leaf, TdxStatus};

use super::guard::VmStateGuard;
use super::seamcall::tdh_mr_finalize;
use super::sept::tdx_operand_busy;
use super::state::TdState;
use crate::error::{Error, Result, fail};
use crate::task::Task;
use crate::vm::Kvm;

/// `tdx_td_finalize`. `hw_error` is set whatever TDH.MR.FINALIZE answers.
pub(super) fn tdx_td_finalize(
    task: &Task,
    kvm: &Kvm,
    cmd: &mut KvmTdxCmd,
    _guard: &VmStateGuard,
) -> Result<()> {
    const SITE: &str = "tdx.c:2912 tdx_td_finalize";
    let (Some(tdr), Some(_)) = (kvm.tdx.tdr(), kvm.tdx.hkid()) else {
        return fail(
            Errno::EINVAL,
            SITE,
            "the TD has no HKID: INIT_VM comes first",
        );
    };
    if kvm.tdx.state() == TdState::Runnable {
        return fail(Errno::EINVAL, SITE, "the TD is finalized already");
    }
    if kvm.tdx.nr_premapped.load() != 0 {
        const SITE: &str = "v6.16 tdx.c:2869 tdx_td_finalize";
        return fail(Errno::EINVAL, SITE, "a premapped page was never added");
    }
    let seal = kvm.discipline.seal;
    let _cpus = seal.cpus_stay_online.then(|| kvm.host.cpus_lock.read());
    task.resched();
    let held = kvm.discipline.finalize_under_mmu_lock;
    let mmu = held.then(|| kvm.mmu_lock.write());
    let status = tdh_mr_finalize(kvm.on_this_cpu(task), tdr);
    cmd.hw_error = status.0;
    finalize_outcome(kvm, status)?;
    kvm.tdx.set_state(TdState::Runnable);
    drop(mmu);
    kvm.pre_fault_allowed.store(true);
    Ok(())
}

/// What TDH.MR.FINALIZE leads to: busy is the caller's to retry, any other error a bug.
fn finalize_outcome(kvm: &Kvm, status: TdxStatus) -> Result<()> {
    const SITE: &str = "tdx.c:2922 tdx_td_finalize";
    if tdx_operand_busy(status) {
        return Err(Error::with(
            Errno::EBUSY,
            SITE,
            format!("TDH.MR.FINALIZE: {status}"),
        ));
    }
    if kvm.discipline.seal.finalize_wants_a_vcpu && status == TdxStatus::NO_VCPUS {
        return fail(Errno::EINVAL, SITE, "no vCPU is initialized");
    }
    if kvm.tdx_bug_on(status, Leaf::MR_FINALIZE, SITE, [0; 3]) {
        return Err(Error::with(
            Errno::EIO,
            SITE,
            format!("TDH.MR.FINALIZE: {status}"),
        ));
    }
    Ok(())
}
