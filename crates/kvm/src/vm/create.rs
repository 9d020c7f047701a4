//! KVM_CREATE_VM.
//!
//! # Locking
//! `kvm_usage_lock` > `cpus_read_lock` to enable virtualization; then `kvm_lock` for `vm_list`.

use std::sync::Arc;

use seamlock_tdx_abi::kvm::Errno;

use super::Kvm;
use crate::error::{Error, Result, fail};
use crate::file::{File, Kind};
use crate::host::Host;
use crate::task::Task;

/// Creates a VM and returns its descriptor.
///
/// # Errors
/// EINVAL for a type that is not supported; EMFILE.
pub fn create_vm(task: &Task, host: &Arc<Host>, vm_type: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c:9873 kvm_arch_init_vm";
    if vm_type > 63 || host.arch().vm_types() >> vm_type & 1 == 0 {
        return fail(Errno::EINVAL, SITE, "the VM type is not supported");
    }
    let kvm = Arc::new(Kvm::new(host, host.new_vm_number(), vm_type, task.mm()));
    {
        let mut usage = host.kvm_usage_lock.lock();
        let _cpus = host.cpus_lock.read();
        *usage += 1;
    }
    host.register(&kvm);
    host.kvm_lock
        .lock()
        .insert(kvm.number, Arc::downgrade(&kvm));
    let file = File::new(Kind::Vm(kvm.clone()));
    task.files().install(&file).map(i64::from).map_err(|errno| {
        kvm.put(task);
        Error::new(
            errno,
            "virt/kvm/kvm_main.c:5532 kvm_dev_ioctl_create_vm",
            "no free descriptor",
        )
    })
}
