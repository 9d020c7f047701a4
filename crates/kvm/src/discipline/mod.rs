//! How KVM locks, as data: one value per generation of the code, proposal or mutant.
//!
//! The code path is one. It asks the VM's [`Discipline`] which locks to take, in which order, and what
//! a failure leads to; where generations differ in structure, the difference is a named strategy:
//! [`Population`], [`GmemPopulate`], [`CreateVcpu`], [`Unlocked`].
//!
//! | discipline | base |
//! |---|---|
//! | `v6.16` | mainline before the guard series |
//! | `seed`, `retry`, `slots` | RFC v2 of the series (20250829000618.351013-1-seanjc), which the mail of 2025-08-29 answers |
//! | `v6.19` | the series as merged |
//! | `v7.3` | v6.19, with KVM_CREATE_VCPU wholly under `kvm->lock` |
//!
//! A mutant is one of these with one thing left out.

mod describe;
mod kernel;
mod mail;
mod mutant;
mod sealed;

use seamlock_tdx_abi::kvm::TdxCmdId;

pub use describe::{Axis, Difference};
pub use kernel::{V6_16, V6_19, V7_3};
pub use mail::{RETRY, SEED, SEED_24, SLOTS, SLOTS_RETEST};
pub use mutant::{
    FINALIZE_UNGUARDED, GUARD_SLOTS, INIT_VCPU_UNGUARDED, NO_IN_FLIGHT_CHECK, NO_KVM_LOCK,
    NO_MMU_LOCK, NO_SLOTS_LOCK, NO_VCPU_MUTEXES, SEV_UNCHECKED,
};
pub use sealed::SEALED;

/// What no kernel does yet and [`SEALED`] does: docs/findings.md argues for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// MR.EXTEND of a page is made with mmu_lock held for read, so that no page is taken out of the TD
    /// meanwhile.
    pub extend_under_mmu_lock: bool,
    /// cpus_read_lock is held where VP.INIT, PAGE.ADD, MR.EXTEND or MR.FINALIZE have the TDR to
    /// themselves: a CPU that goes offline flushes vCPUs without any lock of the VM.
    pub cpus_stay_online: bool,
    /// FINALIZE_VM without an initialised vCPU is -EINVAL, and no bug of KVM's.
    pub finalize_wants_a_vcpu: bool,
    /// A TD's vCPU walks as many EPT levels as the TD has, whatever its CPUID says: another number is a
    /// bug of KVM's.
    pub levels_of_the_td: bool,
    /// An NMI for a vCPU that the module has disabled is dropped, and no bug of KVM's.
    pub late_nmi_is_dropped: bool,
    /// Pre-faulting on a vCPU that KVM_TDX_INIT_VCPU never saw is -EINVAL, and no bug of KVM's.
    pub prefault_wants_init: bool,
    /// A memory error gives the folio's lock back before it takes `filemap_invalidate_lock`, and takes it
    /// again inside: whoever punches or populates has the two in this order.
    pub error_unlocks_folio: bool,
}

impl Seal {
    /// As in every kernel to v7.3.
    pub const NONE: Seal = Seal {
        extend_under_mmu_lock: false,
        cpus_stay_online: false,
        finalize_wants_a_vcpu: false,
        levels_of_the_td: false,
        late_nmi_is_dropped: false,
        prefault_wants_init: false,
        error_unlocks_folio: false,
    };
    /// All of it.
    pub const ALL: Seal = Seal {
        extend_under_mmu_lock: true,
        cpus_stay_online: true,
        finalize_wants_a_vcpu: true,
        levels_of_the_td: true,
        late_nmi_is_dropped: true,
        prefault_wants_init: true,
        error_unlocks_folio: true,
    };
}

/// Where a discipline comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A released kernel.
    Kernel,
    /// A patch or an idea from the mailing list.
    Mail,
    /// Something left out on purpose, to see that it is missed.
    Mutant,
    /// A kernel with something mended that is open in it.
    Proposal,
}

impl Kind {
    /// The kind as a word.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Kernel => "kernel",
            Kind::Mail => "mail",
            Kind::Mutant => "mutant",
            Kind::Proposal => "proposal",
        }
    }
}

/// One step of taking the VM-state locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// `mutex_lock(&kvm->lock)`.
    KvmLock,
    /// -EBUSY when `created_vcpus` and `online_vcpus` differ.
    RefuseCreationInFlight,
    /// `kvm_lock_all_vcpus`: every `vcpu->mutex` by index, killable.
    AllVcpuMutexes,
    /// `mutex_lock(&kvm->slots_lock)`.
    SlotsLock,
}

/// What `kvm_arch_vcpu_unlocked_ioctl` (in the mail: `async`) takes of KVM_MEMORY_ENCRYPT_OP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unlocked {
    /// Nothing: every command runs under `vcpu->mutex`. x86 has no such hook to v6.16.
    Nothing,
    /// These commands; others are left before any lock is taken. The command itself takes the locks,
    /// tests the TD's state and loads the vCPU (`tdx_vcpu_async_ioctl` of the mail).
    Only(&'static [TdxCmdId]),
    /// These commands; others are left after the locks were taken and given back. The dispatcher takes
    /// the locks, tests the TD's state and loads the vCPU (94428e3ba325, 15945e9ec195).
    AfterLocks(&'static [TdxCmdId]),
}

/// The locks around the commands of KVM_MEMORY_ENCRYPT_OP.
#[derive(Clone, Copy, Debug)]
pub struct Commands {
    /// Taken by `tdx_vm_ioctl` before it looks at the command.
    pub vm: &'static [Step],
    /// Whether KVM_TDX_CAPABILITIES is answered before those are taken, with nothing copied back
    /// (f26061fe2c25).
    pub capabilities_first: bool,
    /// Which vCPU commands start without `vcpu->mutex`.
    pub unlocked: Unlocked,
    /// Taken by `tdx_vcpu_unlocked_ioctl` before it looks at the command.
    pub vcpu_unlocked: &'static [Step],
    /// Taken by KVM_TDX_INIT_VM itself.
    pub init_vm: &'static [Step],
    /// Taken by KVM_TDX_FINALIZE_VM itself.
    pub finalize_vm: &'static [Step],
    /// Taken by KVM_TDX_INIT_VCPU itself, before anything is tested.
    pub init_vcpu: &'static [Step],
    /// Taken by KVM_TDX_INIT_MEM_REGION itself, before anything is tested.
    pub init_mem_region: &'static [Step],
    /// Taken by KVM_TDX_INIT_MEM_REGION when it has tested the vCPU's state.
    pub init_mem_region_tested: &'static [Step],
    /// Taken by KVM_TDX_GET_CPUID itself.
    pub get_cpuid: &'static [Step],
    /// Whether KVM_TDX_INIT_VCPU and KVM_TDX_GET_CPUID test the TD's state again under their own locks.
    pub retest_state: bool,
    /// Bytes of `struct kvm_tdx_cmd` that are copied in; the rest of the kernel's 24 is what was on its
    /// stack: zeros, as in a kernel with `CONFIG_INIT_STACK_ALL_ZERO`.
    pub cmd_bytes: usize,
}

/// How KVM_CREATE_VCPU holds `kvm->lock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateVcpu {
    /// From start to end; a duplicate id is found first (6418b715d5a2).
    UnderKvmLock,
    /// Not while the vCPU is built; a duplicate id is found last and the vCPU destroyed again.
    UnlockedMiddle,
}

/// How KVM_TDX_INIT_MEM_REGION brings a page into the TD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Population {
    /// `kvm_tdp_mmu_map_private_pfn`: PAGE.ADD while the mirror entry is set, under mmu_lock. A busy
    /// PAGE.ADD is retried, another failure is a bug (3ab3283dbb2c, 6b5b71ffabf9).
    MapGivenPfn,
    /// `kvm_tdp_map_page`: a simulated fault fills the mirror and counts the page in `nr_premapped`;
    /// PAGE.ADD follows without mmu_lock. Its failure is the ioctl's error and leaves the VM alive. A
    /// leaf that is there already counts as mapped.
    Premap,
}

/// How guest_memfd finds and prepares the page that is populated (`kvm_gmem_populate`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GmemPopulate {
    /// The source is pinned before `filemap_invalidate_lock` is taken; nothing is remembered of the
    /// page (8622ef05709f, 2a62345b3052).
    PinsFirst,
    /// A page that is up to date is refused with -EEXIST. The source is pinned inside of
    /// `filemap_invalidate_lock`. The page becomes up to date when it was populated, or when a fault
    /// found it.
    TracksPreparation,
}

/// SEV intra-host migration, when a vCPU is being created on either VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SevInFlight {
    /// It does not look: before ecf371f8b02d.
    Ignored,
    /// `sev_check_source_vcpus` compares `created_vcpus` and `online_vcpus` of both VMs:
    /// ecf371f8b02d, to v7.2.
    Tested,
    /// `kvm_lock_all_vcpus` refuses: v7.3.
    ByLockAllVcpus,
}

/// What a failed MR.EXTEND leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtendFailure {
    /// `KVM_BUG_ON`: -EIO and a dead VM (ad44aa4c5d3f; patch 12 of RFC v2).
    Bugs,
    /// -EIO whatever the status, nothing printed, the VM lives.
    Eio,
    /// -EBUSY when busy, else -EIO; the VM lives.
    BusyToUser,
}

/// What a fault does in a memslot that is being deleted or moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidSlot {
    /// It retries, in its SRCU read section, which the deletion waits for: for ever, or until a
    /// signal comes.
    Retries,
    /// Pre-faulting gives up with -EAGAIN, and KVM_RUN's own retry leaves its read section
    /// (3ccbf6f47098, 2bc2694fe20b; v6.18).
    GivesUp,
}

/// What a failed SEAMCALL leads to, where generations differ.
#[derive(Clone, Copy, Debug)]
pub struct Outcomes {
    /// A failed MR.EXTEND.
    pub mr_extend: ExtendFailure,
    /// A failed MNG.CREATE, MNG.ADDCX or MNG.INIT marks the VM bugged, and does not only warn
    /// (597d7068702f; patch 15 of RFC v2).
    pub mng_bugs: bool,
    /// A leaf that is already there counts as mapped.
    pub spurious_is_success: bool,
}

/// One way to lock.
#[derive(Clone, Copy, Debug)]
pub struct Discipline {
    /// The name on the command line.
    pub name: &'static str,
    /// What it is, in one line.
    pub summary: &'static str,
    /// The release, commit or message id that it stands for.
    pub source: &'static str,
    /// Where it comes from.
    pub kind: Kind,
    /// The locks around commands.
    pub commands: Commands,
    /// How vCPUs are created.
    pub create_vcpu: CreateVcpu,
    /// How memory is populated.
    pub population: Population,
    /// How guest_memfd takes part in it.
    pub gmem: GmemPopulate,
    /// What failures lead to.
    pub outcomes: Outcomes,
    /// What a fault does in a slot that is going.
    pub invalid_slot: InvalidSlot,
    /// TDH.VP.INIT runs with mmu_lock held for write (9a89894f30d5).
    pub vp_init_under_mmu_lock: bool,
    /// The vCPU counts as initialised from TDH.VP.INIT on, and not only when KVM_TDX_INIT_VCPU has
    /// written its VMCS. No kernel does: a thread that is moved to another CPU in between leaves the
    /// vCPU associated with the old one, because `tdx_flush_vp` skips what is not initialised.
    pub initialized_by_vp_init: bool,
    /// TDH.MR.FINALIZE and the new state with mmu_lock held for write. No kernel does: a removal that
    /// found the TD not finalized does not track TLBs, and TDH.MEM.PAGE.REMOVE wants it once it is.
    pub finalize_under_mmu_lock: bool,
    /// A vCPU that is freed while on a CPU's list is taken off it (1e3a825c9ec9).
    pub vcpu_free_disassociates: bool,
    /// A source address of 0 is refused up front.
    pub source_zero_refused: bool,
    /// KVM_TDX_INIT_VM tests that the number of CPUID entries did not change between its two reads.
    pub nent_read_twice: bool,
    /// What SEV intra-host migration does about vCPUs that are being created.
    pub sev_in_flight: SevInFlight,
    /// What is done beyond v7.3.
    pub seal: Seal,
}

/// Every discipline, the default first.
pub static DISCIPLINES: &[&Discipline] = &[
    &V7_3,
    &SEALED,
    &V6_19,
    &V6_16,
    &SEED,
    &SEED_24,
    &RETRY,
    &SLOTS,
    &SLOTS_RETEST,
    &NO_IN_FLIGHT_CHECK,
    &NO_VCPU_MUTEXES,
    &NO_MMU_LOCK,
    &NO_SLOTS_LOCK,
    &NO_KVM_LOCK,
    &INIT_VCPU_UNGUARDED,
    &FINALIZE_UNGUARDED,
    &GUARD_SLOTS,
    &SEV_UNCHECKED,
];

/// The discipline of a name.
pub fn by_name(name: &str) -> Option<&'static Discipline> {
    DISCIPLINES.iter().copied().find(|d| d.name == name)
}
