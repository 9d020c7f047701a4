//! What a VMM sets besides memory and TDX commands: capabilities, interrupts, MSRs, and whether a vCPU
//! runs.

use std::sync::Arc;

use seamlock_kvm::Result;
use seamlock_kvm::ioctl::X86_CAPS;
use seamlock_tdx_abi::kvm::*;
use zerocopy::{FromZeros, IntoBytes};

use crate::stress::worker::Worker;
use crate::stress::world::Vm;

type Done = Option<Result<i64>>;

/// MSRs: some that KVM emulates for a TD, some that the module keeps, some that are not there.
const MSRS: [u32; 8] = [
    0x10,
    0x1b,
    0x8b,
    0x277,
    0x6e0,
    0x1a0,
    0x4b56_4d05,
    0xdead_beef,
];
/// Routes of one KVM_SET_GSI_ROUTING.
const ROUTES: usize = 4;

/// A capability that there is, with small arguments.
pub(super) fn enable_cap(worker: &mut Worker, vm: &Arc<Vm>) -> Done {
    let rng = &mut worker.rng;
    let all = X86_CAPS.len();
    let cap = KvmEnableCap {
        cap: X86_CAPS[rng.usize(..all)],
        args: [rng.u64(..4), rng.u64(..2), 0, 0],
        ..KvmEnableCap::new_zeroed()
    };
    Some(worker.timed(|client| client.with(&vm.open.file, KVM_ENABLE_CAP, &cap)))
}

/// MSRs of a vCPU, read or written.
pub(super) fn msrs(worker: &mut Worker, vm: &Arc<Vm>) -> Done {
    let file = worker.any_of(&vm.vcpus)?.file;
    let rng = &mut worker.rng;
    let entries = [0; 3].map(|_: u8| KvmMsrEntry {
        index: MSRS[rng.usize(..MSRS.len())],
        reserved: 0,
        data: rng.u64(..) >> rng.u32(..64),
    });
    let header = KvmMsrs {
        nmsrs: entries.len() as u32,
        pad: 0,
    };
    let request = [KVM_GET_MSRS, KVM_SET_MSRS][rng.usize(..2)];
    let bytes = [header.as_bytes(), entries.as_bytes()].concat();
    Some(worker.timed(|client| client.with(&file, request, &bytes[..])))
}

/// Routes, lines and messages of interrupts.
pub(super) fn interrupts(worker: &mut Worker, vm: &Arc<Vm>) -> Done {
    let rng = &mut worker.rng;
    let gsi = rng.u32(..24);
    let (request, bytes) = match rng.u32(..3) {
        0 => (KVM_SET_GSI_ROUTING, routes(gsi)),
        1 => {
            let level = KvmIrqLevel {
                irq: gsi,
                level: rng.u32(..2),
            };
            (KVM_IRQ_LINE, level.as_bytes().to_vec())
        }
        _ => {
            let message = KvmMsi {
                address_lo: 0xfee0_0000,
                data: gsi,
                ..KvmMsi::new_zeroed()
            };
            (KVM_SIGNAL_MSI, message.as_bytes().to_vec())
        }
    };
    Some(worker.timed(|client| client.with(&vm.open.file, request, &bytes[..])))
}

/// Messages for some GSIs, from this one on.
fn routes(gsi: u32) -> Vec<u8> {
    let header = KvmIrqRouting {
        nr: ROUTES as u32,
        flags: 0,
    };
    let mut entries = [KvmIrqRoutingEntry::new_zeroed(); ROUTES];
    for (entry, gsi) in entries.iter_mut().zip(gsi..) {
        (entry.gsi, entry.r#type) = (gsi, KVM_IRQ_ROUTING_MSI);
        entry.u[0] = 0xfee0_0000;
    }
    [header.as_bytes(), entries.as_bytes()].concat()
}

/// An NMI wakes a vCPU, and goes to the module when it runs.
pub(super) fn nmi(worker: &mut Worker, vm: &Arc<Vm>) -> Done {
    let file = worker.any_of(&vm.vcpus)?.file;
    Some(worker.timed(|client| client.ioctl(&file, KVM_NMI, 0)))
}

/// Whether a vCPU runs, sleeps, or waits for INIT.
pub(super) fn mp_state(worker: &mut Worker, vm: &Arc<Vm>) -> Done {
    let file = worker.any_of(&vm.vcpus)?.file;
    let mp_state = match worker.rng.u32(..4) {
        0 => worker.rng.u32(..5),
        _ => KVM_MP_STATE_RUNNABLE,
    };
    let state = KvmMpState { mp_state };
    Some(worker.timed(|client| client.with(&file, KVM_SET_MP_STATE, &state)))
}
