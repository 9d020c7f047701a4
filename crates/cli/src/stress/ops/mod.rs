//! What the threads do: one row for each operation, with how often it is done in each stage of a VM.

mod build;
mod memory;
mod run;
mod sev;
mod state;
mod vm;

pub use build::is_impossible_ebusy;
pub use memory::gmem_of;

use std::sync::Arc;

use seamlock_kvm::Result;

use super::worker::Worker;
use super::world::{Stage, Vm};

/// An operation. None when there was nothing to do it to.
pub type Run = fn(&mut Worker, &Arc<Vm>) -> Option<Result<i64>>;

/// One operation.
pub struct Op {
    /// The ioctl, or what user space or the host does.
    pub name: &'static str,
    /// How often before INIT_VM, while the TD is built, when it runs, when it is dead, and on a VM that is
    /// no TD, on a machine with an AMD processor.
    weights: [u32; 5],
    /// Does it.
    pub run: Run,
}

const fn op(name: &'static str, td: [u32; 4], run: Run) -> Op {
    let [empty, building, running, dead] = td;
    Op {
        name,
        weights: [empty, building, running, dead, 0],
        run,
    }
}

impl Op {
    /// How often it is done in this stage, against the others.
    pub fn weight(&self, stage: Stage) -> u32 {
        self.weights[stage as usize]
    }

    /// The least that it is done in this stage, in quarters: what leads to the next stage is never left out.
    pub fn least(&self, stage: Stage) -> u32 {
        let leads_on = match stage {
            Stage::Empty => self.name == INIT_VM,
            Stage::Building | Stage::Running | Stage::Dead | Stage::Amd => self.name == CLOSE_VM,
        };
        u32::from(leads_on)
    }

    /// The same, done on a machine with an AMD processor, too.
    const fn on_amd(mut self, weight: u32) -> Op {
        self.weights[Stage::Amd as usize] = weight;
        self
    }
}

/// One that only a machine with an AMD processor has.
const fn amd(name: &'static str, weight: u32, run: Run) -> Op {
    op(name, [0; 4], run).on_amd(weight)
}

/// The operations. The first is done where there is no VM.
pub static OPS: &[Op] = &[
    op("KVM_CREATE_VM", [0, 0, 0, 0], |_, _| None),
    op(INIT_VM, [40, 1, 1, 1], build::init_vm),
    op("KVM_TDX_CAPABILITIES", [6, 2, 2, 1], build::capabilities),
    op("KVM_CREATE_VCPU", [4, 10, 2, 1], build::create_vcpu).on_amd(16),
    op("KVM_SET_CPUID2", [0, 12, 1, 1], build::set_cpuid).on_amd(2),
    op("KVM_TDX_INIT_VCPU", [0, 14, 1, 1], build::init_vcpu),
    op("KVM_TDX_GET_CPUID", [0, 6, 1, 1], build::get_cpuid),
    op("KVM_TDX_INIT_MEM_REGION", [1, 24, 1, 1], build::load),
    op("KVM_TDX_FINALIZE_VM", [1, 1, 1, 1], build::finalize),
    op("KVM_RUN", [0, 1, 20, 1], run::run).on_amd(4),
    op("KVM_PRE_FAULT_MEMORY", [0, 2, 12, 1], run::pre_fault),
    op(MEMSLOT, [10, 8, 6, 1], memory::memslot).on_amd(2),
    op(ATTRIBUTES, [8, 8, 10, 1], memory::attributes),
    op("KVM_CREATE_GUEST_MEMFD", [6, 3, 2, 1], memory::create_gmem),
    op("fallocate(PUNCH_HOLE)", [1, 5, 8, 1], memory::punch_hole),
    op("fallocate", [1, 2, 3, 1], memory::allocate),
    op("memory failure", [0, 1, 1, 0], memory::memory_failure),
    op("munmap", [0, 2, 2, 0], memory::munmap).on_amd(1),
    op("KVM_ENABLE_CAP", [2, 1, 1, 1], state::enable_cap).on_amd(1),
    op("KVM_GET_MSRS, KVM_SET_MSRS", [0, 1, 2, 1], state::msrs).on_amd(1),
    op("interrupts", [1, 1, 2, 1], state::interrupts).on_amd(1),
    op("KVM_NMI", [0, 1, 2, 1], state::nmi).on_amd(1),
    op("KVM_SET_MP_STATE", [0, 1, 2, 1], state::mp_state).on_amd(1),
    amd("KVM_SEV_INIT2", 6, sev::init2),
    amd("KVM_SEV_LAUNCH_START", 8, sev::launch_start),
    amd("KVM_SEV_LAUNCH_UPDATE_VMSA", 8, sev::launch_update_vmsa),
    amd("MOVE_ENC_CONTEXT_FROM", 24, sev::move_context),
    op("close(guest_memfd)", [0, 1, 1, 1], memory::close_gmem),
    op("close(vCPU)", [0, 1, 1, 1], vm::close_vcpu).on_amd(1),
    op(CLOSE_VM, [1, 1, 1, 20], vm::retire).on_amd(1),
    op("another process's ioctl", [1, 1, 1, 1], vm::foreign).on_amd(1),
    op("any ioctl", [6, 16, 16, 4], vm::any).on_amd(8),
];

const INIT_VM: &str = "KVM_TDX_INIT_VM";
const CLOSE_VM: &str = "close(VM)";
const MEMSLOT: &str = "KVM_SET_USER_MEMORY_REGION2";
const ATTRIBUTES: &str = "KVM_SET_MEMORY_ATTRIBUTES";
