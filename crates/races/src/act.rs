//! What the threads of a scene do: one operation that is open to user space, to the host's
//! administrator, or to the scheduler.
//!
//! A new kind of operation is a variant of [`Act`], with a name here and a line in
//! [`ready`](crate::ready); the sweep takes it from a row of
//! [`OPERATIONS`](crate::sweep::OPERATIONS).

use seamlock_kvm::error::Result;

use crate::machine::{Closed, Extras, SLOT_BYTES, Start};

/// From the page that a thread adds first to those that it adds after it: past all that are there.
const MORE_PAGES: u64 = SLOT_BYTES / 2;

/// One operation. A number is the vCPU's, unless it says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// KVM_TDX_INIT_VM.
    InitVm,
    /// KVM_TDX_CAPABILITIES.
    Capabilities,
    /// KVM_TDX_INIT_MEM_REGION of one measured page at this address, on vCPU 0.
    InitMemRegion(u64),
    /// KVM_TDX_INIT_VCPU.
    InitVcpu(usize),
    /// KVM_TDX_GET_CPUID.
    GetCpuid(usize),
    /// KVM_TDX_FINALIZE_VM.
    Finalize,
    /// KVM_CREATE_VCPU with this id.
    CreateVcpu(u64),
    /// KVM_ENABLE_CAP(KVM_CAP_MAX_VCPUS) to this number.
    MaxVcpus(u64),
    /// KVM_CREATE_GUEST_MEMFD.
    CreateGmem,
    /// A memslot is made of a second guest_memfd.
    CreateSlot,
    /// Memslot 0 is deleted.
    DeleteSlot,
    /// A memslot without guest_memfd moves.
    MoveSlot,
    /// The flags of a memslot without guest_memfd change.
    SlotFlags,
    /// The memory of slot 0 becomes shared.
    Share,
    /// The memory of slot 0 becomes private, which it may be already.
    MakePrivate,
    /// KVM_SET_CPUID2.
    SetCpuid(usize),
    /// Any ioctl that loads the vCPU: KVM_GET_TSC_KHZ.
    Load(usize),
    /// KVM_PRE_FAULT_MEMORY of a page that nobody added.
    PreFault(usize),
    /// KVM_RUN: the guest accepts that page and writes to a port.
    Run(usize),
    /// The TD's descriptor is closed.
    CloseVm,
    /// A vCPU's descriptor is closed.
    CloseVcpu(usize),
    /// The guest_memfd of slot 0 is closed.
    CloseGmem,
    /// fallocate(PUNCH_HOLE) of the pages that are added or faulted in.
    PunchHole,
    /// The same of a guest_memfd in another slot.
    PunchOther,
    /// fallocate of a page.
    Allocate,
    /// A memory error in the page at this address.
    MemoryFailure(u64),
    /// A memory error in a page of a guest_memfd in another slot.
    FailOther,
    /// The first of the other threads is moved to another CPU, as soon as it can be preempted.
    Migrate,
    /// The other threads are killed (SIGKILL).
    Kill,
    /// A CPU goes offline.
    Offline(u32),
    /// A CPU comes online.
    Online,
    /// KVM_TDX_INIT_VM of another TD.
    OtherInitVm,
    /// KVM_TDX_INIT_VCPU of another TD.
    OtherInitVcpu,
    /// KVM_TDX_INIT_MEM_REGION of another TD.
    OtherInitMemRegion,
    /// KVM_TDX_FINALIZE_VM of another TD.
    OtherFinalize,
    /// Another TD is destroyed.
    OtherClose,
    /// KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM: SEV intra-host migration to the first VM from the second.
    MoveSev,
    /// KVM_CREATE_VCPU on the second VM.
    OtherCreateVcpu(u64),
}

/// What an operation answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Answer {
    /// The value, or the errno. A new descriptor is 0, for which one it is depends on all others.
    pub result: Result<i64, i32>,
    /// What it wrote back: the entries that GET_CPUID found, the pages that INIT_MEM_REGION left, the
    /// bytes that PRE_FAULT_MEMORY left.
    pub wrote: u64,
}

impl Act {
    /// Whether a page has a memory error.
    pub fn is_memory_failure(self) -> bool {
        matches!(self, Act::MemoryFailure(_) | Act::FailOther)
    }

    /// The kernel's name of the operation.
    pub const fn name(self) -> &'static str {
        match self {
            Act::InitVm => "KVM_TDX_INIT_VM",
            Act::Capabilities => "KVM_TDX_CAPABILITIES",
            Act::InitMemRegion(_) => "KVM_TDX_INIT_MEM_REGION",
            Act::InitVcpu(_) => "KVM_TDX_INIT_VCPU",
            Act::GetCpuid(_) => "KVM_TDX_GET_CPUID",
            Act::Finalize => "KVM_TDX_FINALIZE_VM",
            Act::CreateVcpu(_) => "KVM_CREATE_VCPU",
            Act::MaxVcpus(_) => "KVM_ENABLE_CAP(KVM_CAP_MAX_VCPUS)",
            Act::CreateGmem => "KVM_CREATE_GUEST_MEMFD",
            Act::CreateSlot => "KVM_SET_USER_MEMORY_REGION2(create)",
            Act::DeleteSlot => "KVM_SET_USER_MEMORY_REGION2(delete)",
            Act::MoveSlot => "KVM_SET_USER_MEMORY_REGION2(move)",
            Act::SlotFlags => "KVM_SET_USER_MEMORY_REGION2(flags)",
            Act::Share | Act::MakePrivate => "KVM_SET_MEMORY_ATTRIBUTES",
            Act::SetCpuid(_) => "KVM_SET_CPUID2",
            Act::Load(_) => "KVM_GET_TSC_KHZ",
            Act::PreFault(_) => "KVM_PRE_FAULT_MEMORY",
            Act::Run(_) => "KVM_RUN",
            Act::CloseVm => "close(VM)",
            Act::CloseVcpu(_) => "close(vCPU)",
            Act::CloseGmem => "close(guest_memfd)",
            Act::PunchHole => "fallocate(PUNCH_HOLE)",
            Act::PunchOther => "fallocate(PUNCH_HOLE) elsewhere",
            Act::Allocate => "fallocate",
            Act::MemoryFailure(_) => "memory failure",
            Act::FailOther => "memory failure elsewhere",
            Act::Migrate => "migration",
            Act::Kill => "SIGKILL",
            Act::Offline(_) => "CPU offline",
            Act::Online => "CPU online",
            Act::OtherInitVm => "KVM_TDX_INIT_VM of another TD",
            Act::OtherInitVcpu => "KVM_TDX_INIT_VCPU of another TD",
            Act::OtherInitMemRegion => "KVM_TDX_INIT_MEM_REGION of another TD",
            Act::OtherFinalize => "KVM_TDX_FINALIZE_VM of another TD",
            Act::OtherClose => "close of another TD",
            Act::MoveSev => "KVM_ENABLE_CAP(KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM)",
            Act::OtherCreateVcpu(_) => "KVM_CREATE_VCPU on the source",
        }
    }

    /// What it is when its thread does it for the `nth` time more, where that is not the same again: a
    /// page further up, the next vCPU.
    pub const fn again(self, nth: u32) -> Act {
        match (self, nth) {
            (_, 0) => self,
            (Act::InitMemRegion(gpa), _) => {
                Act::InitMemRegion(gpa + MORE_PAGES + (nth as u64 - 1) * 0x1000)
            }
            (Act::CreateVcpu(id), _) => Act::CreateVcpu(id + nth as u64),
            (Act::OtherCreateVcpu(id), _) => Act::OtherCreateVcpu(id + nth as u64),
            _ => self,
        }
    }

    /// The same on the vCPU that `of` makes of its own.
    pub fn on_vcpu(self, of: impl Fn(usize) -> usize) -> Act {
        match self {
            Act::InitVcpu(vcpu) => Act::InitVcpu(of(vcpu)),
            Act::GetCpuid(vcpu) => Act::GetCpuid(of(vcpu)),
            Act::SetCpuid(vcpu) => Act::SetCpuid(of(vcpu)),
            Act::Load(vcpu) => Act::Load(of(vcpu)),
            Act::PreFault(vcpu) => Act::PreFault(of(vcpu)),
            Act::Run(vcpu) => Act::Run(of(vcpu)),
            Act::CloseVcpu(vcpu) => Act::CloseVcpu(of(vcpu)),
            _ => self,
        }
    }

    /// What the machine needs for it.
    pub const fn extras(self) -> Extras {
        let mut extras = Start::with(0, 0).extras;
        match self {
            Act::CreateSlot => extras.spare_gmem = true,
            Act::PunchOther | Act::FailOther => extras.second_slot = true,
            Act::MoveSlot | Act::SlotFlags => extras.plain_slot = true,
            Act::Online => extras.offline_cpu = true,
            Act::OtherInitVm => extras.fresh_td = true,
            Act::OtherInitVcpu | Act::OtherInitMemRegion | Act::OtherFinalize | Act::OtherClose => {
                extras.second_td = true
            }
            _ => {}
        }
        extras
    }

    /// Whether there is anything to do it to.
    pub fn applies(self, start: &Start) -> bool {
        let has_vm = matches!(start.closed, Closed::Nothing | Closed::Gmem);
        let has_gmem = start.slot && matches!(start.closed, Closed::Nothing | Closed::Vm);
        let vcpus = if has_vm { start.vcpus() } else { 1 };
        match self {
            Act::InitMemRegion(_) => vcpus > 0,
            Act::InitVcpu(vcpu)
            | Act::GetCpuid(vcpu)
            | Act::SetCpuid(vcpu)
            | Act::Load(vcpu)
            | Act::PreFault(vcpu)
            | Act::CloseVcpu(vcpu) => (vcpu as u32) < vcpus,
            // One that is not initialised sleeps until somebody else initialises it.
            Act::Run(vcpu) => (vcpu as u32) < vcpus.min(start.ready),
            Act::CloseGmem | Act::PunchHole | Act::Allocate | Act::MemoryFailure(_) => has_gmem,
            Act::InitVm
            | Act::Capabilities
            | Act::Finalize
            | Act::CreateVcpu(_)
            | Act::MaxVcpus(_)
            | Act::CreateGmem
            | Act::CreateSlot
            | Act::MoveSlot
            | Act::SlotFlags
            | Act::PunchOther
            | Act::FailOther
            | Act::Share
            | Act::MakePrivate
            | Act::CloseVm => has_vm,
            Act::DeleteSlot => has_vm && start.slot,
            Act::MoveSev | Act::OtherCreateVcpu(_) => start.sev,
            Act::Migrate
            | Act::Kill
            | Act::Offline(_)
            | Act::Online
            | Act::OtherInitVm
            | Act::OtherInitVcpu
            | Act::OtherInitMemRegion
            | Act::OtherFinalize
            | Act::OtherClose => true,
        }
    }

    /// Whether it loads a vCPU, so that it counts on which CPU it is done.
    pub const fn loads_vcpu(self) -> bool {
        matches!(
            self,
            Act::InitMemRegion(_)
                | Act::InitVcpu(_)
                | Act::GetCpuid(_)
                | Act::CreateVcpu(_)
                | Act::SetCpuid(_)
                | Act::Load(_)
                | Act::PreFault(_)
                | Act::Run(_)
                | Act::OtherInitVcpu
                | Act::OtherInitMemRegion
                | Act::OtherCreateVcpu(_)
        )
    }

    /// Whether it is about the other threads and needs them.
    pub const fn is_about_threads(self) -> bool {
        matches!(self, Act::Migrate | Act::Kill)
    }
}
