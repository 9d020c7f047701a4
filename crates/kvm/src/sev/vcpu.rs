//! SEV's part of a vCPU: the VMSA, a page that holds the guest's registers encrypted.
//!
//! # Locking
//! `sev_vcpu_create` reads `es_active` under `kvm->lock` in v7.3 and without any lock before. That is
//! the race: a migration may turn the VM into an SEV-ES one right after, and the vCPU has no VMSA.

use seamlock_tdx_abi::kvm::Errno;

use super::abi::{SEV_RET_INVALID_GUEST, SevCmd};
use super::migrate::lock_all_vcpus;
use crate::error::{Result, fail};
use crate::host::Owner;
use crate::task::Task;
use crate::vcpu::Vcpu;
use crate::vm::Kvm;

/// VMSAs move between VMs, so they are the host's.
const OWNER: Owner = Owner::vm(0);

/// `sev_vcpu_create`.
pub(crate) fn sev_vcpu_create(kvm: &Kvm, vcpu: &Vcpu) -> Result<()> {
    const SITE: &str = "arch/x86/kvm/svm/sev.c:4890 sev_vcpu_create";
    if !kvm.sev.is_es() {
        return Ok(());
    }
    let Some(page) = kvm.host.alloc_page(OWNER) else {
        return fail(Errno::ENOMEM, SITE, "memory is exhausted");
    };
    vcpu.arch.vmsa.with(|vmsa| *vmsa = Some(page));
    Ok(())
}

/// `sev_free_vcpu`. A vCPU of an SEV-ES VM that has no VMSA crashes the kernel here; it is a bug of the
/// VM's, then.
pub(crate) fn sev_free_vcpu(kvm: &Kvm, vcpu: &Vcpu) {
    const SITE: &str = "arch/x86/kvm/svm/sev.c:3585 sev_free_vcpu";
    if !kvm.sev.is_es() {
        return;
    }
    match vcpu.arch.vmsa.with(Option::take) {
        Some(page) => kvm.host.free_page(OWNER, page),
        None => {
            kvm.bug_on(
                true,
                SITE,
                "a vCPU of an SEV-ES VM has no VMSA: NULL is freed",
            );
        }
    }
}

/// What stops KVM_RUN: `sev_vcpu_needs_initialization` and `pre_sev_run`.
pub(crate) fn pre_sev_run(kvm: &Kvm, vcpu: &Vcpu) -> Result<()> {
    const SITE: &str = "arch/x86/kvm/svm/sev.c:3608 pre_sev_run";
    if kvm.sev.need_init.load() {
        const SITE: &str = "arch/x86/kvm/svm/sev.c:3593 sev_vcpu_needs_initialization";
        return fail(Errno::EINVAL, SITE, "KVM_SEV_INIT2 comes first");
    }
    if kvm.sev.is_es() && vcpu.arch.vmsa.with(|vmsa| vmsa.is_none()) {
        return fail(Errno::EINVAL, SITE, "the vCPU has no valid VMSA");
    }
    Ok(())
}

/// `sev_launch_update_vmsa`: the registers of all vCPUs go out of the host's reach.
pub(super) fn sev_launch_update_vmsa(task: &Task, kvm: &Kvm, cmd: &mut SevCmd) -> Result<()> {
    const SITE: &str = "arch/x86/kvm/svm/sev.c:1138 sev_launch_update_vmsa";
    if !kvm.sev.is_es() {
        return fail(Errno::ENOTTY, SITE, "the VM is not an SEV-ES one");
    }
    let _vcpus = lock_all_vcpus(task, kvm)?;
    for vcpu in kvm.vcpus() {
        const SITE: &str = "arch/x86/kvm/svm/sev.c:1109 __sev_launch_update_vmsa";
        if kvm.sev.handle.load() == 0 {
            cmd.error = SEV_RET_INVALID_GUEST;
            return fail(
                Errno::EIO,
                SITE,
                "the firmware has no such guest: LAUNCH_START comes first",
            );
        }
        vcpu.arch.protected.store(true);
    }
    Ok(())
}

impl Kvm {
    /// Online vCPUs whose state does not fit their VM's: an SEV-ES VM has those only that have a VMSA,
    /// any other VM none. By id.
    pub fn stale_sev_vcpus(&self) -> Vec<u32> {
        let es = self.sev.is_es();
        let stale = |vcpu: &&Vcpu| vcpu.arch.vmsa.with(|vmsa| vmsa.is_some()) != es;
        self.vcpus().filter(stale).map(|vcpu| vcpu.id).collect()
    }
}
