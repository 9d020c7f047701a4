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
    if !kvm.is_td() {
        // The EPT is the host's own, and not modelled.
        vcpu.set_roots();
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
    if tdx_levels(kvm, vcpu) != kvm.tdx.ept_levels() {
        // Then the module is not told of the root.
        const SITE: &str = "tdx.c:1637 tdx_load_mmu_pgd";
        kvm.bug_on(
            true,
            SITE,
            "the vCPU's CPUID has another GPA width than the TD",
        );
        return Ok(());
    }
    // INIT_VCPU may not have been: then `tdvpr_pa` is 0, and the module refuses it.
    let tdvpr = vcpu.tdvpr().unwrap_or_default();
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

/// `kvm_mmu_get_tdp_level`: five levels where the processor walks them and the guest's CPUID has more
/// than 48 address bits.
fn tdx_levels(kvm: &Kvm, vcpu: &Vcpu) -> u8 {
    if kvm.discipline.seal.levels_of_the_td {
        return kvm.tdx.ept_levels();
    }
    let wide = vcpu.state.with(|state| state.maxguestphyaddr()) > 48;
    if kvm.host.module().platform().ept_5_level && wide {
        5
    } else {
        4
    }
}
