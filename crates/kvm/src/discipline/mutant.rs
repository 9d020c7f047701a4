//! Disciplines with one thing left out on purpose, to see that it is missed.
//!
//! Each is a kernel's discipline but for what its name says.

use seamlock_tdx_abi::kvm::TdxCmdId;

use super::kernel::{GUARDED, MERGED_GUARD, V6_19_BASE, V7_3_BASE};
use super::mail::{SEED_24_BASE, SEED_COMMANDS};
use super::{Commands, Discipline, Kind, SevInFlight, Step, Unlocked};

const fn guarded_by(guard: &'static [Step]) -> Commands {
    Commands {
        vm: guard,
        vcpu_unlocked: guard,
        ..GUARDED
    }
}

/// v6.19's guard does not look for a vCPU that is being created. Based on v6.19, because in v7.3 there
/// is never one.
pub static NO_IN_FLIGHT_CHECK: Discipline = Discipline {
    name: "no-in-flight-check",
    summary: "v6.19, whose guard does not compare created_vcpus and online_vcpus",
    source: "seamlock: v6.19 without the -EBUSY of 15945e9ec195",
    kind: Kind::Mutant,
    commands: guarded_by(&[Step::KvmLock, Step::AllVcpuMutexes, Step::SlotsLock]),
    ..V6_19_BASE
};

/// The guard leaves the vCPUs alone.
pub static NO_VCPU_MUTEXES: Discipline = Discipline {
    name: "no-vcpu-mutexes",
    summary: "v7.3, whose guard takes no vcpu->mutex",
    source: "seamlock: v7.3 without kvm_lock_all_vcpus",
    kind: Kind::Mutant,
    commands: guarded_by(&[Step::KvmLock, Step::RefuseCreationInFlight, Step::SlotsLock]),
    ..V7_3_BASE
};

/// TDH.VP.INIT without mmu_lock: what the series was before its follow-up.
pub static NO_MMU_LOCK: Discipline = Discipline {
    name: "no-mmu-lock",
    summary: "v7.3, with TDH.VP.INIT outside of mmu_lock",
    source: "seamlock: v7.3 without 9a89894f30d5, as v4 of the series was posted",
    kind: Kind::Mutant,
    vp_init_under_mmu_lock: false,
    ..V7_3_BASE
};

/// The guard leaves memslots alone.
pub static NO_SLOTS_LOCK: Discipline = Discipline {
    name: "no-slots-lock",
    summary: "v7.3, whose guard does not take slots_lock",
    source: "seamlock: v7.3 without slots_lock in tdx_acquire_vm_state_locks",
    kind: Kind::Mutant,
    commands: guarded_by(&[
        Step::KvmLock,
        Step::RefuseCreationInFlight,
        Step::AllVcpuMutexes,
    ]),
    ..V7_3_BASE
};

/// The guard leaves the VM's other ioctls alone; `created_vcpus` is read without its lock.
pub static NO_KVM_LOCK: Discipline = Discipline {
    name: "no-kvm-lock",
    summary: "v7.3, whose guard does not take kvm->lock",
    source: "seamlock: v7.3 without kvm->lock in tdx_acquire_vm_state_locks",
    kind: Kind::Mutant,
    commands: guarded_by(&[
        Step::RefuseCreationInFlight,
        Step::AllVcpuMutexes,
        Step::SlotsLock,
    ]),
    ..V7_3_BASE
};

/// KVM_TDX_INIT_VCPU stays under its own `vcpu->mutex`, as in the mail.
pub static INIT_VCPU_UNGUARDED: Discipline = Discipline {
    name: "init-vcpu-unguarded",
    summary: "v7.3, with INIT_VCPU under its own vcpu->mutex only",
    source: "seamlock: v7.3 with INIT_VCPU out of 94428e3ba325",
    kind: Kind::Mutant,
    commands: Commands {
        unlocked: Unlocked::AfterLocks(&[TdxCmdId::KVM_TDX_INIT_MEM_REGION]),
        ..GUARDED
    },
    ..V7_3_BASE
};

/// KVM_TDX_FINALIZE_VM takes `kvm->lock` only.
pub static FINALIZE_UNGUARDED: Discipline = Discipline {
    name: "finalize-unguarded",
    summary: "v7.3, with FINALIZE_VM under kvm->lock only",
    source: "seamlock: v7.3 with FINALIZE_VM out of 15945e9ec195",
    kind: Kind::Mutant,
    commands: Commands {
        vm: MERGED_GUARD.split_at(1).0,
        init_vm: MERGED_GUARD.split_at(1).1,
        ..GUARDED
    },
    ..V7_3_BASE
};

/// SEV intra-host migration that does not look for vCPUs that are being created. Based on v6.19, because
/// in v7.3 there are never any.
pub static SEV_UNCHECKED: Discipline = Discipline {
    name: "sev-unchecked",
    summary: "v6.19, with SEV migration that does not compare created_vcpus and online_vcpus",
    source: "seamlock: v6.19 without ecf371f8b02d",
    kind: Kind::Mutant,
    sev_in_flight: SevInFlight::Ignored,
    ..V6_19_BASE
};

/// The mail's guard together with `slots`: one takes a `vcpu->mutex` inside of `slots_lock`, the other
/// `slots_lock` inside of its `vcpu->mutex`. A deadlock.
pub static GUARD_SLOTS: Discipline = Discipline {
    name: "guardslots",
    summary: "seed-24, with slots_lock inside of vcpu->mutex in INIT_VCPU and GET_CPUID",
    source: "seamlock: seed-24 and slots together",
    kind: Kind::Mutant,
    commands: Commands {
        init_vcpu: &[Step::SlotsLock],
        get_cpuid: &[Step::SlotsLock],
        ..SEED_COMMANDS
    },
    ..SEED_24_BASE
};
