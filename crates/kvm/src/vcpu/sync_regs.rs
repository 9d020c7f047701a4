//! Registers in `struct kvm_run` (KVM_CAP_SYNC_REGS), which user space and KVM_RUN share.
//!
//! Source: Linux v7.3.4 `arch/x86/kvm/x86.c` (`kvm_arch_vcpu_ioctl_run`), `arch/x86/kvm/regs.c`.

use seamlock_tdx_abi::kvm::{
    Errno, KVM_DIRTY_REGS_OFFSET, KVM_VALID_REGS_OFFSET, KvmRegs, KvmSregs, KvmVcpuEvents,
    SYNC_REGS_OFFSET,
};
use zerocopy::{FromBytes, IntoBytes};

use super::{Vcpu, VcpuRef};
use crate::error::{Result, fail};
use crate::ioctl::{apply_events, apply_regs, apply_sregs, events, sync_regs};
use crate::task::Task;

const REGS: u64 = 1;
const SREGS: u64 = 1 << 1;
const EVENTS: u64 = 1 << 2;
/// Where each is.
const SREGS_OFFSET: usize = SYNC_REGS_OFFSET + size_of::<KvmRegs>();
const EVENTS_OFFSET: usize = SREGS_OFFSET + size_of::<KvmSregs>();

fn set_at(vcpu: &Vcpu, offset: usize) -> u64 {
    read(vcpu, offset)
}

fn read<T: FromBytes + IntoBytes>(vcpu: &Vcpu, offset: usize) -> T {
    let mut value = T::new_zeroed();
    vcpu.run_page().read(offset, value.as_mut_bytes());
    value
}

/// What user space changed is taken over before the guest is entered (`sync_regs`).
///
/// # Errors
/// EINVAL for a set that is not shared, and none is of a TD; EINVAL for registers that can't be.
pub(super) fn from_user(task: &Task, vcpu: &VcpuRef) -> Result<()> {
    const SITE: &str = "arch/x86/kvm/x86.c:8943 kvm_arch_vcpu_ioctl_run";
    let shared = if vcpu.kvm().is_td() {
        0
    } else {
        REGS | SREGS | EVENTS
    };
    let valid = set_at(vcpu, KVM_VALID_REGS_OFFSET);
    let mut dirty = set_at(vcpu, KVM_DIRTY_REGS_OFFSET);
    if (valid | dirty) & !shared != 0 {
        return fail(
            Errno::EINVAL,
            SITE,
            "kvm_valid_regs or kvm_dirty_regs that KVM_CAP_SYNC_REGS does not have",
        );
    }
    for set in [REGS, SREGS, EVENTS] {
        if dirty & set == 0 {
            continue;
        }
        match set {
            REGS => apply_regs(vcpu, &read(vcpu, SYNC_REGS_OFFSET))?,
            SREGS => apply_sregs(task, vcpu, &read(vcpu, SREGS_OFFSET))?,
            _ => apply_events(vcpu, read::<KvmVcpuEvents>(vcpu, EVENTS_OFFSET))?,
        }
        dirty &= !set;
        vcpu.run_page()
            .write(KVM_DIRTY_REGS_OFFSET, &dirty.to_le_bytes());
    }
    Ok(())
}

/// What user space asked for is given when KVM_RUN returns (`store_regs`).
pub(super) fn to_user(vcpu: &VcpuRef) {
    let valid = set_at(vcpu, KVM_VALID_REGS_OFFSET);
    if valid == 0 {
        return;
    }
    let Ok((regs, sregs)) = sync_regs(vcpu) else {
        return;
    };
    let run = vcpu.run_page();
    if valid & REGS != 0 {
        run.write(SYNC_REGS_OFFSET, regs.as_bytes());
    }
    if valid & SREGS != 0 {
        run.write(SREGS_OFFSET, sregs.as_bytes());
    }
    if valid & EVENTS != 0 {
        run.write(EVENTS_OFFSET, events(vcpu).as_bytes());
    }
}
