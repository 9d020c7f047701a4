//! Running a TD.

use std::sync::Arc;

use seamlock_kvm::Result;
use seamlock_kvm::file::Kind;
use seamlock_tdx_abi::PAGE_SIZE;
use seamlock_tdx_abi::kvm::*;

use crate::stress::worker::Worker;
use crate::stress::world::{GUEST_PAGES, Vm, gpa_of};

type Done = Option<Result<i64>>;

/// Byte offset of `immediate_exit` in `struct kvm_run`.
const IMMEDIATE_EXIT: usize = 1;

pub(super) fn run(worker: &mut Worker, vm: &Arc<Vm>) -> Done {
    let file = worker.any_of(&vm.vcpus)?.file;
    let immediate = worker.rng.u32(..4) == 0;
    if let Kind::Vcpu(vcpu) = file.kind() {
        let byte = [u8::from(immediate)];
        vcpu.run_page().write(IMMEDIATE_EXIT, &byte);
    }
    Some(worker.timed(|client| client.ioctl(&file, KVM_RUN, 0)))
}

pub(super) fn pre_fault(worker: &mut Worker, vm: &Arc<Vm>) -> Done {
    let file = worker.any_of(&vm.vcpus)?.file;
    let ready = matches!(file.kind(), Kind::Vcpu(vcpu) if vcpu.tdvpr().is_some());
    // Its CPUID may not have the TD's address width yet, which bugs the VM (F7).
    if !ready && worker.rng.u32(..32) != 0 {
        return None;
    }
    let range = KvmPreFaultMemory {
        gpa: gpa_of(worker.rng.u64(..GUEST_PAGES)).0,
        size: worker.rng.u64(1..5) * PAGE_SIZE,
        ..KvmPreFaultMemory::default()
    };
    Some(worker.timed(|client| client.with(&file, KVM_PRE_FAULT_MEMORY, &range)))
}
