//! VMs that come and go, and every ioctl there is with any argument.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use seamlock_kvm::Result;
use seamlock_kvm::ioctl::{Entry, Handler, TABLE};
use seamlock_tdx_abi::kvm::*;

use super::build;
use crate::stress::client::{OTHER_MM, opened};
use crate::stress::worker::Worker;
use crate::stress::world::{Open, Stage, Vm};

type Done = Option<Result<i64>>;

/// An address where nothing is mapped.
const UNMAPPED: u64 = 0xdead_0000;

pub(super) fn close_vcpu(worker: &mut Worker, vm: &Arc<Vm>) -> Done {
    if worker.rng.u32(..8) != 0 {
        return None;
    }
    let at = worker.rng.usize(..);
    let open = vm.vcpus.with(|vcpus| {
        let len = vcpus.len();
        (len > 1).then(|| vcpus.swap_remove(at % len))
    })?;
    Some(worker.timed_close(&open))
}

/// Closes everything of an old or dead VM, in any order, while others still use it.
pub(super) fn retire(worker: &mut Worker, vm: &Arc<Vm>) -> Done {
    let old = vm.age.load(Relaxed) > vm.temper.life;
    if !old && vm.stage() != Stage::Dead && worker.rng.u32(..16) != 0 {
        return None;
    }
    if !worker.take_from_slot(vm) {
        return None;
    }
    let mut all = vm.take_descriptors();
    worker.rng.shuffle(&mut all);
    let mut result = Ok(0);
    for open in &all {
        result = worker.timed_close(open);
    }
    Some(result)
}

/// An ioctl from a process that the VM does not belong to: -EIO.
pub(super) fn foreign(worker: &mut Worker, vm: &Arc<Vm>) -> Done {
    let request = KVM_CHECK_EXTENSION;
    Some(worker.timed(|client| client.ioctl_as(OTHER_MM, &vm.open.file, request, 0)))
}

/// Any row of the ioctl table, with an argument that may be anything.
pub(super) fn any(worker: &mut Worker, vm: &Arc<Vm>) -> Done {
    let entry: &Entry = &TABLE[worker.rng.usize(..TABLE.len())];
    let file = match entry.handler {
        Handler::System(_) => worker.world.kvm.file.clone(),
        Handler::Vm(_) => vm.open.file.clone(),
        Handler::Vcpu(_) | Handler::LoadedVcpu(_) => worker.any_of(&vm.vcpus)?.file,
    };
    let arg = argument(worker);
    let result = match entry.request {
        KVM_MEMORY_ENCRYPT_OP => worker.encrypt_op(vm, &file, arg),
        request => worker.timed(|client| client.ioctl(&file, request, arg)),
    };
    if let Ok(fd) = &result {
        match entry.request {
            KVM_CREATE_VCPU => build::adopt(worker, vm, *fd),
            KVM_CREATE_VM | KVM_CREATE_GUEST_MEMFD | KVM_GET_STATS_FD => forget(worker, *fd),
            _ => {}
        }
    }
    Some(result)
}

fn forget(worker: &mut Worker, fd: i64) {
    if let Some(file) = opened(&worker.world.files, fd) {
        let fd = fd as i32;
        worker.close(&Open { fd, file });
    }
}

fn argument(worker: &mut Worker) -> u64 {
    let (args, data) = worker.client.pages();
    let rng = &mut worker.rng;
    match rng.u32(..8) {
        0 => rng.u64(..8),
        1 => rng.u64(..),
        2 => UNMAPPED,
        3 => {
            worker.client.store_data(&[0; 512]);
            data
        }
        4 | 5 => {
            // Small numbers here and there: flags, counts, sizes, addresses.
            let mut bytes = [0u8; 256];
            for _ in 0..rng.usize(1..6) {
                bytes[rng.usize(..256)] = 1 << rng.u32(..8);
            }
            worker.client.store_data(&bytes);
            data
        }
        // What the last call left there.
        6 => args,
        _ => data,
    }
}
