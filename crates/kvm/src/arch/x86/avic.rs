//! AVIC on a processor without x2APIC virtualization: the memslot of the APIC access page has to go
//! when a guest switches to the x2APIC.
//!
//! # Locking
//! `slots_lock` inside `vcpu->mutex`, in KVM_RUN, with `kvm->srcu` left meanwhile. It is the code of
//! x86 that the mail's order, `slots_lock` outside of the vCPU mutexes, is against.

use std::sync::Arc;

use crate::error::Result;
use crate::task::Task;
use crate::vcpu::VcpuRef;
use crate::vm::{Irqchip, Kvm, set_internal_memslot};

/// `APIC_ACCESS_PAGE_PRIVATE_MEMSLOT`: the first slot beyond user space's.
const APIC_ACCESS_PAGE_PRIVATE_MEMSLOT: u32 = 32764;
/// `APIC_DEFAULT_PHYS_BASE`, as a frame.
const APIC_DEFAULT_GFN: u64 = 0xfee00;

fn lapic_in_kernel(kvm: &Kvm) -> bool {
    kvm.arch.with(|arch| arch.irqchip != Irqchip::None)
}

/// `kvm_alloc_apic_access_page`, when a vCPU is created.
pub(super) fn kvm_alloc_apic_access_page(task: &Task, kvm: &Arc<Kvm>) -> Result<()> {
    if !lapic_in_kernel(kvm) {
        return Ok(());
    }
    let _slots = kvm.slots_lock.lock();
    let inhibited = kvm
        .arch_vm
        .apic_access_inhibited
        .with(|inhibited| *inhibited);
    if kvm.arch_vm.apic_access_enabled.load() || inhibited {
        return Ok(());
    }
    let slot = APIC_ACCESS_PAGE_PRIVATE_MEMSLOT;
    set_internal_memslot(task, kvm, slot, Some(APIC_DEFAULT_GFN))?;
    kvm.arch_vm.apic_access_enabled.store(true);
    Ok(())
}

/// `kvm_vcpu_update_apicv` of a vCPU in x2APIC mode.
pub(super) fn kvm_vcpu_update_apicv(task: &Task, vcpu: &VcpuRef) {
    if lapic_in_kernel(vcpu.kvm()) {
        let srcu = vcpu.kvm().srcu.read();
        let kvm = vcpu.kvm();
        if kvm.arch_vm.apic_access_enabled.load() {
            drop(srcu);
            kvm_inhibit_apic_access_page(task, kvm);
        }
    }
}

/// `kvm_inhibit_apic_access_page`.
fn kvm_inhibit_apic_access_page(task: &Task, kvm: &Arc<Kvm>) {
    let _slots = kvm.slots_lock.lock();
    if kvm.arch_vm.apic_access_enabled.load() {
        // Deleting a slot that is there can't fail, and the kernel does not look.
        let _ = set_internal_memslot(task, kvm, APIC_ACCESS_PAGE_PRIVATE_MEMSLOT, None);
        kvm.arch_vm.apic_access_enabled.store(false);
        kvm.arch_vm
            .apic_access_inhibited
            .with(|inhibited| *inhibited = true);
    }
}
