//! KVM_SEV_INIT, KVM_SEV_ES_INIT, KVM_SEV_INIT2 and KVM_SEV_LAUNCH_START, under `kvm->lock`.

use seamlock_tdx_abi::kvm::{Errno, KVM_X86_DEFAULT_VM, KVM_X86_SEV_ES_VM, KVM_X86_SEV_VM};

use super::abi::{GHCB_VERSION_MAX, KVM_SEV_INIT, SevCmd, SevInit};
use crate::error::{Result, fail};
use crate::task::Task;
use crate::vm::Kvm;

/// `sev_guest_init`: the old commands, for a VM of no particular type.
pub(super) fn sev_guest_init(kvm: &Kvm, id: u32) -> Result<()> {
    const SITE: &str = "arch/x86/kvm/svm/sev.c:602 sev_guest_init";
    if kvm.vm_type != KVM_X86_DEFAULT_VM {
        return fail(Errno::EINVAL, SITE, "the VM's type asks for KVM_SEV_INIT2");
    }
    let es = id != KVM_SEV_INIT;
    init(kvm, es, None)
}

/// `sev_guest_init2`.
pub(super) fn sev_guest_init2(task: &Task, kvm: &Kvm, cmd: &SevCmd) -> Result<()> {
    const SITE: &str = "arch/x86/kvm/svm/sev.c:621 sev_guest_init2";
    if !kvm.sev.need_init.load() {
        return fail(
            Errno::EINVAL,
            SITE,
            "the VM is initialized, or not of a type of SEV's",
        );
    }
    if !matches!(kvm.vm_type, KVM_X86_SEV_VM | KVM_X86_SEV_ES_VM) {
        return fail(Errno::EINVAL, SITE, "the VM is not of a type of SEV's");
    }
    let data: SevInit = task.get(cmd.data, SITE)?;
    init(kvm, kvm.vm_type != KVM_X86_SEV_VM, Some(&data))
}

/// `__sev_guest_init`.
fn init(kvm: &Kvm, es: bool, data: Option<&SevInit>) -> Result<()> {
    const SITE: &str = "arch/x86/kvm/svm/sev.c:516 __sev_guest_init";
    if kvm.created_vcpus.load() != 0 {
        return fail(Errno::EINVAL, SITE, "the VM has vCPUs already");
    }
    if let Some(data) = data {
        if data.flags != 0 {
            return fail(Errno::EINVAL, SITE, "flags are not zero");
        }
        if data.vmsa_features != 0 {
            return fail(
                Errno::EINVAL,
                SITE,
                "the processor has none of these VMSA features",
            );
        }
        if data.ghcb_version > GHCB_VERSION_MAX || (!es && data.ghcb_version != 0) {
            return fail(Errno::EINVAL, SITE, "no such version of the GHCB protocol");
        }
    }
    if kvm.sev.active.load() {
        return fail(Errno::EINVAL, SITE, "SEV is active already");
    }
    kvm.sev.active.store(true);
    kvm.sev.es_active.store(es);
    kvm.sev.asid.store(kvm.number);
    kvm.sev.need_init.store(false);
    Ok(())
}

/// `sev_launch_start`: the firmware has a guest from now on.
pub(super) fn sev_launch_start(kvm: &Kvm) -> Result<()> {
    const SITE: &str = "arch/x86/kvm/svm/sev.c sev_launch_start";
    if !kvm.sev.is_active() {
        return fail(Errno::ENOTTY, SITE, "SEV is not active");
    }
    kvm.sev.handle.store(kvm.number as u32);
    Ok(())
}
