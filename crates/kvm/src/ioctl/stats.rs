//! KVM_GET_STATS_FD of a VM and of a vCPU.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::file::{File, Kind, Statistics};
use crate::task::Task;
use crate::vcpu::VcpuRef;
use crate::vm::Kvm;

pub(super) fn of_vm(task: &Task, kvm: &Arc<Kvm>, _arg: u64) -> Result<i64> {
    const SITE: &str = "virt/kvm/kvm_main.c:5176 kvm_vm_ioctl_get_stats_fd";
    install(task, kvm, Statistics::Vm(kvm.clone()), SITE)
}

pub(super) fn of_vcpu(task: &Task, vcpu: &VcpuRef, _arg: u64) -> Result<i64> {
    const SITE: &str = "virt/kvm/kvm_main.c:4366 kvm_vcpu_ioctl_get_stats_fd";
    install(task, vcpu.kvm(), Statistics::Vcpu(vcpu.clone()), SITE)
}

/// The file keeps the VM.
fn install(task: &Task, kvm: &Arc<Kvm>, of: Statistics, site: &'static str) -> Result<i64> {
    kvm.get();
    match task.files().install(&File::new(Kind::Stats(of))) {
        Ok(fd) => Ok(fd.into()),
        Err(errno) => {
            // The ioctl holds the VM, so this is not its last reference.
            kvm.users_count.fetch_sub(1);
            Err(Error::new(errno, site, "no descriptor is free"))
        }
    }
}
