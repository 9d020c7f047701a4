//! `kvm_mmu_reload`: a vCPU's roots, and the SEAMCALL that the first load makes.

use seamlock_tdx_abi::kvm::Errno;
use seamlock_tdx_abi::{FieldId, Leaf};

use crate::error::{Result, fail};
use crate::task::Task;
use crate::tdx::seamcall::tdh_vp_wr;
use crate::vcpu::Vcpu;
use crate::vm::Kvm;

/// Gives the vCPU its roots if it has none: the mirror's, and the shared EPT's, which the TDX module
/// is told with TDH.VP.WR(SHARED_EPT_POINTER). A failure of that bugs the VM.
pub(crate) fn kvm_mmu_reload(task: &Task, kvm: &Kvm, vcpu: &Vcpu) -> Result<()> {
    const SITE: &str = "arch/x86/kvm/mmu/mmu.c kvm_mmu_load";
    if vcpu.has_roots() {
        return Ok(());
    }
    let root = {
        let _mmu = kvm.mmu_lock.read();
        kvm.mirror.root_or_alloc(kvm.tdx.ept_levels());
        kvm.tdx.shared_root_or_alloc(kvm)
    };
    let Some(root) = root else {
        return fail(Errno::ENOMEM, SITE, "memory is exhausted");
    };
    vcpu.set_roots();
    let Some(tdvpr) = vcpu.tdvpr() else {
        return Ok(());
    };
    let field = FieldId::VP_VMCS_SHARED_EPT_POINTER;
    let status = tdh_vp_wr(kvm.on(task), tdvpr, field, root.0, u64::MAX);
    kvm.tdx_bug_on(
        status,
        Leaf::VP_WR,
        "tdx.c tdx_load_mmu_pgd: tdh_vp_wr_failed",
        [root.0, 0, 0],
    );
    Ok(())
}
