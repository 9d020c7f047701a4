//! arm64: no unlocked vCPU ioctl at all. An interrupt reaches a vCPU by KVM_IRQ_LINE, which is the
//! VM's, so nothing waits for `vcpu->mutex`.
//!
//! The seed's patch 1 takes the inline stub away and gives arm64 none, so as posted it does not link;
//! the series' v3 adds one that answers -ENOIOCTLCMD. This is it.
//!
//! # Locking
//! The first KVM_RUN maps the vGIC: `slots_lock`, then `config_lock`, inside `vcpu->mutex`. It is one of
//! the places that made the series take `slots_lock` after the vCPU mutexes and not before.

use std::sync::Arc;

use seamlock_tdx_abi::kvm::{Errno, KVM_CAP_IRQCHIP, KVM_CREATE_IRQCHIP, KVM_IRQ_LINE};

use super::{Arch, Handled, stand_in};
use crate::error::{Result, fail};
use crate::task::Task;
use crate::vcpu::VcpuRef;
use crate::vm::Kvm;

/// arm64.
#[derive(Clone, Copy, Debug)]
pub struct Arm64;

/// The machine's.
pub static ARM64: Arm64 = Arm64;

/// `KVM_ARM_IRQ_TYPE_CPU`: the line of a vCPU that has no vGIC.
const IRQ_TYPE_CPU: u32 = 0;
/// `KVM_ARM_IRQ_CPU_FIQ`, the higher of the two numbers.
const IRQ_CPU_FIQ: u32 = 1;

impl Arch for Arm64 {
    fn name(&self) -> &'static str {
        "arm64"
    }

    fn kvm_arch_vcpu_unlocked_ioctl(&self, _: &Task, _: &VcpuRef, _: u32, _: u64) -> Handled {
        Handled::No
    }

    fn kvm_arch_vcpu_ioctl_run(&self, task: &Task, vcpu: &VcpuRef) -> Result<i64> {
        let _loaded = vcpu.load(task);
        kvm_vgic_map_resources(vcpu.kvm());
        stand_in::run(task, vcpu, || vcpu.arch().take())
    }

    fn kvm_arch_vm_ioctl(&self, task: &Task, kvm: &Arc<Kvm>, request: u32, arg: u64) -> Handled {
        match request {
            KVM_CREATE_IRQCHIP => Handled::Yes(create_vgic(kvm)),
            KVM_IRQ_LINE => Handled::Yes(irq_line(task, kvm, arg)),
            _ => Handled::No,
        }
    }

    fn caps(&self) -> &'static [(u32, i64)] {
        &[(KVM_CAP_IRQCHIP, 1)]
    }
}

/// `kvm_vgic_create`.
fn create_vgic(kvm: &Kvm) -> Result<i64> {
    const SITE: &str = "arch/arm64/kvm/vgic/vgic-init.c kvm_vgic_create";
    let _lock = kvm.lock.lock();
    if kvm.arch_vm.vgic.load() {
        return fail(Errno::EEXIST, SITE, "there is a vGIC already");
    }
    kvm.arch_vm.vgic.store(true);
    Ok(0)
}

/// `kvm_vgic_map_resources`, from `kvm_arch_vcpu_run_pid_change`.
fn kvm_vgic_map_resources(kvm: &Kvm) {
    if !kvm.arch_vm.vgic.load() || kvm.arch_vm.vgic_ready.load() {
        return;
    }
    let _slots = kvm.slots_lock.lock();
    let _config = kvm.arch_vm.config_lock.lock();
    kvm.arch_vm.vgic_ready.store(true);
}

/// `kvm_vm_ioctl_irq_line`: without a vGIC, the IRQ or FIQ line of one vCPU.
fn irq_line(task: &Task, kvm: &Kvm, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/arm64/kvm/arm.c kvm_vm_ioctl_irq_line";
    let [irq, level]: [u32; 2] = task.get(arg, SITE)?;
    let (kind, number) = (irq >> 24 & 0xf, irq & 0xffff);
    let index = (irq >> 16 & 0xff) + (irq >> 28) * 256;
    if kind != IRQ_TYPE_CPU {
        return fail(Errno::EINVAL, SITE, "only the lines of vCPUs are here");
    }
    if kvm.arch_vm.vgic.load() {
        return fail(Errno::ENXIO, SITE, "the vGIC has the lines");
    }
    let Some(vcpu) = kvm.vcpus().nth(index as usize) else {
        return fail(Errno::EINVAL, SITE, "there is no vCPU of this index");
    };
    if number > IRQ_CPU_FIQ {
        return fail(Errno::EINVAL, SITE, "neither the IRQ nor the FIQ line");
    }
    match level {
        0 => vcpu.arch().dequeue(number),
        _ => vcpu.arch().queue(number),
    }
    vcpu.kick();
    Ok(0)
}
