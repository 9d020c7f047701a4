//! What was posted or proposed in the thread of 2025-08-29: the guard, and the two milder answers.
//!
//! All sit on RFC v2 of the series (20250829000618.351013-1-seanjc): its population path is the merged
//! one (a given page is mapped and added under mmu_lock), its locks are those of v6.16.

use seamlock_tdx_abi::kvm::TdxCmdId;

use super::kernel::BEFORE_THE_SERIES;
use super::{
    Commands, CreateVcpu, Discipline, ExtendFailure, GmemPopulate, InvalidSlot, Kind, Outcomes,
    Population, Seal, SevInFlight, Step, Unlocked,
};

/// RFC v2, with nothing of the thread applied. MR.EXTEND is under `KVM_BUG_ON` (its patch 12), which
/// `retry` and `slots` take away again. That MNG.CREATE, ADDCX and INIT bug the VM from its patch 15 on
/// is inferred from the patch as merged.
const RFC_V2: Discipline = Discipline {
    name: "rfc-v2",
    summary: "the series before the thread",
    source: "20250829000618.351013-1-seanjc@google.com",
    kind: Kind::Mail,
    commands: BEFORE_THE_SERIES,
    create_vcpu: CreateVcpu::UnlockedMiddle,
    population: Population::MapGivenPfn,
    gmem: GmemPopulate::TracksPreparation,
    outcomes: Outcomes {
        mr_extend: ExtendFailure::Bugs,
        mng_bugs: true,
        spurious_is_success: false,
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

/// `tdx_acquire_vm_state_locks` of the mail: `slots_lock` outside of the vCPU mutexes.
pub(super) const SEED_GUARD: &[Step] = &[
    Step::KvmLock,
    Step::SlotsLock,
    Step::RefuseCreationInFlight,
    Step::AllVcpuMutexes,
];

/// The mail's commands. INIT_VM, FINALIZE_VM and INIT_MEM_REGION take the guard themselves;
/// CAPABILITIES and unknown ids run with no lock at all; INIT_VCPU stays under its own `vcpu->mutex`.
pub(super) const SEED_COMMANDS: Commands = Commands {
    vm: &[],
    capabilities_first: false,
    unlocked: Unlocked::Only(&[TdxCmdId::KVM_TDX_INIT_MEM_REGION]),
    vcpu_unlocked: &[],
    init_vm: SEED_GUARD,
    finalize_vm: SEED_GUARD,
    init_vcpu: &[],
    init_mem_region: SEED_GUARD,
    init_mem_region_tested: &[],
    get_cpuid: &[],
    retest_state: false,
    cmd_bytes: 24,
};

/// The guard exactly as posted, its two slips included: `slots_lock` is taken outside of the vCPU
/// mutexes, and `tdx_get_cmd` copies `sizeof(cmd)` of a pointer, 8 of 24 bytes.
///
/// `data` and `hw_error` are then what was on the kernel's stack; here zeros, as in a kernel with
/// `CONFIG_INIT_STACK_ALL_ZERO`. So INIT_VM reads user address 0 and answers -EFAULT, and no TD is ever
/// built; VM commands copy the 16 bytes back over the user's. For everything beyond that slip there is
/// [`SEED_24`].
pub static SEED: Discipline = Discipline {
    name: "seed",
    summary: "the guard as posted: slots_lock outside the vCPU mutexes, 8 of 24 bytes copied in",
    source: "aLIJd7xpNfJvdMeT@google.com (2025-08-29), patches 1 and 2, on RFC v2",
    commands: Commands {
        cmd_bytes: 8,
        ..SEED_COMMANDS
    },
    ..RFC_V2
};

pub(super) const SEED_24_BASE: Discipline = Discipline {
    name: "seed-24",
    summary: "the guard as posted, with the whole command copied in, so that TDs can be built",
    source: "aLIJd7xpNfJvdMeT@google.com, with sizeof(*cmd) as in 59d5c1ed6df2",
    commands: SEED_COMMANDS,
    ..RFC_V2
};

/// The guard as posted, but with `sizeof(*cmd)`, as whoever tested it must have run it: with 8 bytes
/// INIT_VM can't work.
pub static SEED_24: Discipline = SEED_24_BASE;

/// "Maybe having kvm_tdp_mmu_map_private_pfn() return success for spurious faults is enough."
///
/// Without the `KVM_BUG_ON` on MR.EXTEND ("just drop the KVM_BUG_ON()"). Left open in the mail and
/// chosen here: a busy MR.EXTEND answers -EBUSY, as a busy PAGE.ADD did; the page is not marked up to
/// date, so that the same ioctl can be made again; and MR.EXTEND then starts over at chunk 0, so a
/// failure at a later chunk measures the earlier ones twice and the MRTD is wrong with a success
/// return. Nothing changes for the other party: VP.* that meets PAGE.ADD or MR.EXTEND bugs the VM.
pub static RETRY: Discipline = Discipline {
    name: "retry",
    summary: "user space repeats INIT_MEM_REGION: a page that is mapped already is a success",
    source: "quoted in aLIJd7xpNfJvdMeT@google.com: Rick Edgecombe, 2025-08-29; no patch",
    outcomes: Outcomes {
        mr_extend: ExtendFailure::BusyToUser,
        mng_bugs: true,
        spurious_is_success: true,
    },
    ..RFC_V2
};

const SLOTS_BASE: Discipline = Discipline {
    name: "slots",
    summary: "slots_lock in INIT_VCPU and GET_CPUID, inside of vcpu->mutex",
    source: "quoted in aLIJd7xpNfJvdMeT@google.com: Rick Edgecombe, 2025-08-29; no patch",
    commands: Commands {
        init_vcpu: &[Step::SlotsLock],
        get_cpuid: &[Step::SlotsLock],
        ..BEFORE_THE_SERIES
    },
    outcomes: Outcomes {
        mr_extend: ExtendFailure::BusyToUser,
        mng_bugs: true,
        spurious_is_success: false,
    },
    ..RFC_V2
};

/// "we could just take slots_lock during KVM_TDX_INIT_VCPU and KVM_TDX_GET_CPUID."
///
/// Taken by the word: at the head of both functions, inside of `vcpu->mutex` and after `vcpu_load`,
/// and nothing else; the TD's state, which `tdx_vcpu_ioctl` read before, is not read again. Without the
/// `KVM_BUG_ON` on MR.EXTEND, and with -EBUSY for a busy one, as in [`RETRY`]. Whether the mail meant
/// the state to be tested again is open: [`SLOTS_RETEST`] does.
pub static SLOTS: Discipline = SLOTS_BASE;

/// [`SLOTS`], with the TD's state tested again under `slots_lock`.
pub static SLOTS_RETEST: Discipline = Discipline {
    name: "slots-retest",
    summary: "slots, with the TD's state tested again under slots_lock",
    commands: Commands {
        retest_state: true,
        ..SLOTS_BASE.commands
    },
    ..SLOTS_BASE
};
