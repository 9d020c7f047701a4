//! Cells that KVM reads or writes without a lock.

use seamlock_sync::Class;

/// `kvm_tdx->state`.
pub static TD_STATE: Class = Class::new("kvm_tdx->state");
/// `kvm_tdx->hkid`; 0 stands for none.
pub static HKID: Class = Class::new("kvm_tdx->hkid");
/// `kvm_tdx->wait_for_sept_zap`.
pub static WAIT_FOR_SEPT_ZAP: Class = Class::new("kvm_tdx->wait_for_sept_zap");
/// `kvm->created_vcpus`.
pub static CREATED_VCPUS: Class = Class::new("kvm->created_vcpus");
/// `kvm->online_vcpus`.
pub static ONLINE_VCPUS: Class = Class::new("kvm->online_vcpus");
/// `kvm->vm_dead`.
pub static VM_DEAD: Class = Class::new("kvm->vm_dead");
/// `kvm->vm_bugged`.
pub static VM_BUGGED: Class = Class::new("kvm->vm_bugged");
/// `kvm->users_count`.
pub static USERS_COUNT: Class = Class::new("kvm->users_count");
/// `kvm->arch.pre_fault_allowed`.
pub static PRE_FAULT_ALLOWED: Class = Class::new("kvm->arch.pre_fault_allowed");
/// `kvm->memslots`: the generation of the active set.
pub static MEMSLOTS: Class = Class::new("kvm->memslots");
/// `kvm->mmu_invalidate_in_progress`.
pub static INVALIDATE_IN_PROGRESS: Class = Class::new("kvm->mmu_invalidate_in_progress");
/// `kvm->mmu_invalidate_seq`.
pub static INVALIDATE_SEQ: Class = Class::new("kvm->mmu_invalidate_seq");
/// `slot->gmem.file` of a memslot.
pub static SLOT_GMEM_FILE: Class = Class::new("slot->gmem.file");
/// The page cache of a guest_memfd.
pub static FOLIOS: Class = Class::new("guest_memfd page cache");
/// An entry of a process's descriptor table: address space and descriptor.
pub static DESCRIPTOR: Class = Class::new("descriptor");
/// Reader count of one of the two phases of `kvm->srcu`.
pub static SRCU_READERS: Class = Class::new("kvm->srcu readers");
/// Which phase of `kvm->srcu` new readers join.
pub static SRCU_PHASE: Class = Class::new("kvm->srcu phase");
/// Sleepers in `synchronize_srcu`.
pub static SRCU_GRACE: Class = Class::new("kvm->srcu grace period");
/// `vcpu->cpu`; -1 when the vCPU is on no CPU.
pub static VCPU_CPU: Class = Class::new("vcpu->cpu");
/// `tdx->state` of a vCPU.
pub static VCPU_STATE: Class = Class::new("vcpu_tdx->state");
/// `vcpu->arch.mp_state`.
pub static MP_STATE: Class = Class::new("vcpu->arch.mp_state");
/// `vcpu->arch.pv.pv_unhalted`.
pub static PV_UNHALTED: Class = Class::new("vcpu->arch.pv.pv_unhalted");
/// `vcpu->requests`.
pub static REQUESTS: Class = Class::new("vcpu->requests");
/// `vcpu->mode`.
pub static VCPU_MODE: Class = Class::new("vcpu->mode");
/// How often a vCPU left the guest: what an acknowledged IPI proves.
pub static VCPU_EXITS: Class = Class::new("vcpu exits");
/// Sleepers on `vcpu->wait`, and whoever waits for a vCPU to leave the guest.
pub static VCPU_WAIT: Class = Class::new("vcpu->wait");
/// An entry of the mirror EPT: VM, and GPA with its level.
pub static MIRROR_SPTE: Class = Class::new("mirror SPTE");
/// `file->f_count`.
pub static F_COUNT: Class = Class::new("file->f_count");
/// Signals that are pending for a task (`TIF_SIGPENDING`).
pub static SIGNALS: Class = Class::new("signals");
/// A point where the task may be preempted and moved.
pub static RESCHED: Class = Class::new("cond_resched");
