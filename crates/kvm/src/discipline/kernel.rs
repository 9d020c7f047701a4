//! The disciplines of released kernels.

use seamlock_tdx_abi::kvm::TdxCmdId;

use super::{
    Commands, CreateVcpu, Discipline, Kind, Outcomes, Population, SevInFlight, Step, Unlocked,
};

/// `tdx_acquire_vm_state_locks` of v7.3: the check for a creation in flight sits in
/// `kvm_lock_all_vcpus`, and `slots_lock` comes last.
const GUARD_7_3: &[Step] = &[
    Step::KvmLock,
    Step::RefuseCreationInFlight,
    Step::AllVcpuMutexes,
    Step::SlotsLock,
];

/// v7.3: one guard around all commands but CAPABILITIES; KVM_CREATE_VCPU wholly under `kvm->lock`.
pub static V7_3: Discipline = Discipline {
    name: "v7.3",
    summary: "one guard around all commands; vCPU creation wholly under kvm->lock",
    source: "Linux v7.3.4 arch/x86/kvm/vmx/tdx.c tdx_acquire_vm_state_locks; 6418b715d5a2",
    kind: Kind::Kernel,
    commands: Commands {
        vm: GUARD_7_3,
        capabilities_first: true,
        unlocked: Unlocked::AfterLocks(&[
            TdxCmdId::KVM_TDX_INIT_VCPU,
            TdxCmdId::KVM_TDX_INIT_MEM_REGION,
        ]),
        vcpu_unlocked: GUARD_7_3,
        init_vm: &[],
        finalize_vm: &[],
        init_vcpu: &[],
        init_mem_region: &[],
        get_cpuid: &[],
        cmd_bytes: 24,
    },
    create_vcpu: CreateVcpu::UnderKvmLock,
    population: Population::MapGivenPfn,
    outcomes: Outcomes {
        mr_extend_bugs: true,
        mng_bugs: true,
        spurious_is_success: false,
    },
    vp_init_under_mmu_lock: true,
    vcpu_free_disassociates: true,
    source_zero_refused: true,
    sev_in_flight: SevInFlight::ByLockAllVcpus,
};
