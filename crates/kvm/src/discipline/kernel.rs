//! The disciplines of released kernels.

use seamlock_tdx_abi::kvm::TdxCmdId;

use super::{
    Commands, CreateVcpu, Discipline, ExtendFailure, GmemPopulate, InvalidSlot, Kind, Outcomes,
    Population, Seal, SevInFlight, Step, Unlocked,
};

/// `tdx_acquire_vm_state_locks` as merged: `slots_lock` comes last, because existing code of several
/// architectures nests it in `vcpu->mutex`. In v7.3 the check for a creation in flight sits in
/// `kvm_lock_all_vcpus`, and can no longer fail.
pub(super) const MERGED_GUARD: &[Step] = &[
    Step::KvmLock,
    Step::RefuseCreationInFlight,
    Step::AllVcpuMutexes,
    Step::SlotsLock,
];

const UNLOCKED: Unlocked = Unlocked::AfterLocks(&[
    TdxCmdId::KVM_TDX_INIT_VCPU,
    TdxCmdId::KVM_TDX_INIT_MEM_REGION,
]);

/// The commands of v7.3: one guard around all but CAPABILITIES.
pub(super) const GUARDED: Commands = Commands {
    vm: MERGED_GUARD,
    capabilities_first: true,
    unlocked: UNLOCKED,
    vcpu_unlocked: MERGED_GUARD,
    init_vm: &[],
    finalize_vm: &[],
    init_vcpu: &[],
    init_mem_region: &[],
    init_mem_region_tested: &[],
    get_cpuid: &[],
    retest_state: false,
    cmd_bytes: 24,
};

pub(super) const V7_3_BASE: Discipline = Discipline {
    name: "v7.3",
    summary: "one guard around all commands; vCPU creation wholly under kvm->lock",
    source: "Linux v7.3.4 arch/x86/kvm/vmx/tdx.c tdx_acquire_vm_state_locks; 6418b715d5a2",
    kind: Kind::Kernel,
    commands: GUARDED,
    create_vcpu: CreateVcpu::UnderKvmLock,
    population: Population::MapGivenPfn,
    gmem: GmemPopulate::PinsFirst,
    outcomes: Outcomes {
        mr_extend: ExtendFailure::Bugs,
        mng_bugs: true,
        spurious_is_success: false,
    },
    invalid_slot: InvalidSlot::GivesUp,
    vp_init_under_mmu_lock: true,
    initialized_by_vp_init: false,
    finalize_under_mmu_lock: false,
    vcpu_free_disassociates: true,
    source_zero_refused: true,
    nent_read_twice: true,
    sev_in_flight: SevInFlight::ByLockAllVcpus,
    seal: Seal::NONE,
};

/// v7.3: one guard around all commands but CAPABILITIES; KVM_CREATE_VCPU wholly under `kvm->lock`.
pub static V7_3: Discipline = V7_3_BASE;

pub(super) const V6_19_BASE: Discipline = Discipline {
    name: "v6.19",
    summary: "the guard as merged; a vCPU is built outside of kvm->lock",
    source: "Linux v6.19, tag kvm-x86-tdx-6.19 (398180f93cf3): 15945e9ec195, 94428e3ba325, 9a89894f30d5",
    kind: Kind::Kernel,
    create_vcpu: CreateVcpu::UnlockedMiddle,
    gmem: GmemPopulate::TracksPreparation,
    source_zero_refused: false,
    sev_in_flight: SevInFlight::Tested,
    ..V7_3_BASE
};

/// v6.19 to v7.2: the guard series as merged.
///
/// Taken at v6.19. Within the range, 7.0 gave up the tracking of prepared pages and pins the source
/// before `filemap_invalidate_lock`, as v7.3 does ([`GmemPopulate`]). That the count of CPUID entries is
/// compared when read twice is v7.3's source; for v6.19 it is inferred.
pub static V6_19: Discipline = V6_19_BASE;

/// The commands before the series: `kvm->lock` for VM commands, `vcpu->mutex` for vCPU commands, and
/// `slots_lock` inside of either where memory or its measurement changes.
pub(super) const BEFORE_THE_SERIES: Commands = Commands {
    vm: &[Step::KvmLock],
    capabilities_first: false,
    unlocked: Unlocked::Nothing,
    vcpu_unlocked: &[],
    init_vm: &[],
    finalize_vm: &[Step::SlotsLock],
    init_vcpu: &[],
    init_mem_region: &[],
    init_mem_region_tested: &[Step::SlotsLock],
    get_cpuid: &[],
    retest_state: false,
    cmd_bytes: 24,
};

/// v6.16: mainline before the guard series, with the population path that maps a page first and adds
/// it later.
pub static V6_16: Discipline = Discipline {
    name: "v6.16",
    summary: "kvm->lock for VM commands, vcpu->mutex for vCPU commands; pages are premapped",
    source: "Linux v6.16.1 arch/x86/kvm/vmx/tdx.c tdx_vm_ioctl, tdx_vcpu_ioctl, tdx_gmem_post_populate",
    kind: Kind::Kernel,
    commands: BEFORE_THE_SERIES,
    create_vcpu: CreateVcpu::UnlockedMiddle,
    population: Population::Premap,
    gmem: GmemPopulate::TracksPreparation,
    outcomes: Outcomes {
        mr_extend: ExtendFailure::Eio,
        mng_bugs: false,
        spurious_is_success: true,
    },
    invalid_slot: InvalidSlot::Retries,
    vp_init_under_mmu_lock: false,
    initialized_by_vp_init: false,
    finalize_under_mmu_lock: false,
    vcpu_free_disassociates: false,
    source_zero_refused: false,
    nent_read_twice: false,
    sev_in_flight: SevInFlight::Tested,
    seal: Seal::NONE,
};
