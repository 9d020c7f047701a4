//! SEV on a machine with an AMD processor: guests, and their moves from one VM to another while vCPUs are
//! created on either.

use std::sync::Arc;

use seamlock_kvm::Result;
use seamlock_kvm::sev::{
    KVM_SEV_INIT2, KVM_SEV_LAUNCH_START, KVM_SEV_LAUNCH_UPDATE_VMSA, SevCmd, SevInit,
};
use seamlock_tdx_abi::kvm::*;
use zerocopy::{FromZeros, IntoBytes};

use crate::stress::worker::Worker;
use crate::stress::world::Vm;

type Done = Option<Result<i64>>;

fn command(worker: &mut Worker, vm: &Vm, id: u32, data: &[u8]) -> Done {
    let data = worker.client.store_data(data);
    let cmd = SevCmd {
        id,
        data,
        ..SevCmd::default()
    };
    Some(worker.timed(|client| client.with(&vm.open.file, KVM_MEMORY_ENCRYPT_OP, &cmd)))
}

pub(super) fn init2(worker: &mut Worker, vm: &Arc<Vm>) -> Done {
    let mut init = SevInit::new_zeroed();
    // SEV-ES VMs may choose, others may not.
    init.ghcb_version = 2 * u16::from(worker.rng.u32(..4) == 0);
    command(worker, vm, KVM_SEV_INIT2, init.as_bytes())
}

pub(super) fn launch_start(worker: &mut Worker, vm: &Arc<Vm>) -> Done {
    command(worker, vm, KVM_SEV_LAUNCH_START, &[])
}

pub(super) fn launch_update_vmsa(worker: &mut Worker, vm: &Arc<Vm>) -> Done {
    command(worker, vm, KVM_SEV_LAUNCH_UPDATE_VMSA, &[])
}

/// The VM takes over from the VM of any slot, its own included.
pub(super) fn move_context(worker: &mut Worker, vm: &Arc<Vm>) -> Done {
    let slots = worker.world.slots.len();
    let source = worker.world.vm(worker.rng.usize(..slots))?;
    let cap = KvmEnableCap {
        cap: KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM,
        args: [source.open.fd as u64, 0, 0, 0],
        ..KvmEnableCap::new_zeroed()
    };
    Some(worker.timed(|client| client.with(&vm.open.file, KVM_ENABLE_CAP, &cap)))
}
