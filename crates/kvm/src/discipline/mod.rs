//! How KVM locks, as data: one value per generation of the code, proposal or mutant.
//!
//! The code path is one. It asks the VM's [`Discipline`] which locks to take, in which order, and what
//! a failure leads to; where generations differ in structure, the difference is a named strategy.

mod kernel;

use seamlock_tdx_abi::kvm::TdxCmdId;

pub use kernel::V7_3;

/// Where a discipline comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A released kernel.
    Kernel,
    /// A patch or an idea from the mailing list.
    Mail,
    /// Something left out on purpose, to see that it is missed.
    Mutant,
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

/// What `kvm_arch_vcpu_unlocked_ioctl` takes of KVM_MEMORY_ENCRYPT_OP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unlocked {
    /// Nothing: every command runs under `vcpu->mutex`.
    Nothing,
    /// These commands; others are left before any lock is taken.
    Only(&'static [TdxCmdId]),
    /// These commands; others are left after the locks were taken and given back.
    AfterLocks(&'static [TdxCmdId]),
}

/// The locks around the commands of KVM_MEMORY_ENCRYPT_OP.
#[derive(Clone, Copy, Debug)]
pub struct Commands {
    /// Taken by `tdx_vm_ioctl` before it looks at the command.
    pub vm: &'static [Step],
    /// Whether KVM_TDX_CAPABILITIES is answered before those are taken, with nothing copied back.
    pub capabilities_first: bool,
    /// Which vCPU commands start without `vcpu->mutex`.
    pub unlocked: Unlocked,
    /// Taken by `tdx_vcpu_unlocked_ioctl` before it looks at the command.
    pub vcpu_unlocked: &'static [Step],
    /// Taken by KVM_TDX_INIT_VM itself.
    pub init_vm: &'static [Step],
    /// Taken by KVM_TDX_FINALIZE_VM itself.
    pub finalize_vm: &'static [Step],
    /// Taken by KVM_TDX_INIT_VCPU itself.
    pub init_vcpu: &'static [Step],
    /// Taken by KVM_TDX_INIT_MEM_REGION itself.
    pub init_mem_region: &'static [Step],
    /// Taken by KVM_TDX_GET_CPUID itself.
    pub get_cpuid: &'static [Step],
    /// Bytes of `struct kvm_tdx_cmd` that are copied in; the rest is zero.
    pub cmd_bytes: usize,
}

/// How KVM_CREATE_VCPU holds `kvm->lock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateVcpu {
    /// From start to end; a duplicate id is found first.
    UnderKvmLock,
    /// Not while the vCPU is built; a duplicate id is found last and the vCPU destroyed again.
    UnlockedMiddle,
}

/// How KVM_TDX_INIT_MEM_REGION brings a page into the TD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Population {
    /// `kvm_tdp_mmu_map_private_pfn`: PAGE.ADD while the mirror entry is set, under mmu_lock.
    MapGivenPfn,
    /// A simulated fault fills the mirror and counts the page in `nr_premapped`; PAGE.ADD follows
    /// without mmu_lock.
    Premap,
}

/// How SEV intra-host migration meets a vCPU that is being created on either VM.
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

/// What a failed SEAMCALL leads to, where generations differ.
#[derive(Clone, Copy, Debug)]
pub struct Outcomes {
    /// A failed MR.EXTEND marks the VM bugged.
    pub mr_extend_bugs: bool,
    /// A failed MNG.CREATE, MNG.ADDCX or MNG.INIT marks the VM bugged.
    pub mng_bugs: bool,
    /// A leaf that is already there counts as mapped.
    pub spurious_is_success: bool,
}

/// One way to lock.
#[derive(Debug)]
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
    /// What failures lead to.
    pub outcomes: Outcomes,
    /// TDH.VP.INIT runs with mmu_lock held for write (9a89894f30d5).
    pub vp_init_under_mmu_lock: bool,
    /// A vCPU that is freed while on a CPU's list is taken off it (d789fa6efac9's fix).
    pub vcpu_free_disassociates: bool,
    /// A source address of 0 is refused up front.
    pub source_zero_refused: bool,
    /// What SEV intra-host migration does about vCPUs that are being created.
    pub sev_in_flight: SevInFlight,
}

/// Every discipline, the default first.
pub static DISCIPLINES: &[&Discipline] = &[&V7_3];

/// The discipline of a name.
pub fn by_name(name: &str) -> Option<&'static Discipline> {
    DISCIPLINES.iter().copied().find(|d| d.name == name)
}
