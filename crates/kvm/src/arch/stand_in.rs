//! The guest of the architectures that have no TDX: it waits for interrupts and takes them.
//!
//! # Locking
//! `vcpu->mutex` throughout, as the dispatcher holds it: who queues an interrupt must not need it.

use seamlock_tdx_abi::kvm::{Errno, KVM_EXIT_INTR};

use crate::error::{Result, fail};
use crate::task::Task;
use crate::vcpu::VcpuRef;

/// Byte offset of `immediate_exit` in `struct kvm_run`.
const IMMEDIATE_EXIT: usize = 1;
/// Byte offset of `exit_reason`.
const EXIT_REASON: usize = 8;

/// Whether user space wants KVM_RUN to return at once.
pub(super) fn immediate_exit(vcpu: &VcpuRef) -> bool {
    let mut flag = [0];
    vcpu.run_page().read(IMMEDIATE_EXIT, &mut flag);
    flag[0] != 0
}

/// Runs until a signal comes or the VM is dead. `take` takes the next interrupt from the vCPU's queue.
///
/// # Errors
/// EINTR with a signal, EIO when the VM is dead.
pub(super) fn run(task: &Task, vcpu: &VcpuRef, take: impl Fn() -> Option<u32>) -> Result<i64> {
    const SITE: &str = "kvm_arch_vcpu_ioctl_run";
    if immediate_exit(vcpu) {
        return fail(Errno::EINTR, SITE, "immediate_exit is set");
    }
    vcpu.state.with(|state| state.has_run = true);
    loop {
        if vcpu.is_vm_dead_requested() {
            return fail(Errno::EIO, SITE, "the VM is dead");
        }
        if task.signal_pending() {
            vcpu.run_page()
                .write(EXIT_REASON, &KVM_EXIT_INTR.to_le_bytes());
            return fail(Errno::EINTR, SITE, "a signal is pending");
        }
        task.resched();
        match take() {
            Some(irq) => vcpu.arch().taken.with(|taken| taken.push(irq)),
            // The guest idles: wfi, halt, wait, cede.
            None => vcpu.block(task, || vcpu.arch().is_interrupt_pending()),
        }
    }
}
