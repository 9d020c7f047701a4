//! The operations that the sweep takes two or three of.

use crate::act::Act;
use crate::machine::{FRESH_PAGE, PAGE};

/// Who can do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// User space, with the TD's descriptors.
    User,
    /// The administrator of the host, its memory-failure code, or another process with another TD.
    Host,
    /// The scheduler, or whoever sends signals.
    Scheduler,
}

/// One operation.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// What its threads are named, the first, a second and a third one. The first is its name.
    pub names: [&'static str; 3],
    /// What it does.
    pub act: Act,
    /// The CPU that it is done on. vCPU `i` was loaded on CPU `i` before, so that a load elsewhere
    /// flushes it.
    pub cpu: u32,
    /// Who can do it.
    pub by: By,
}

impl Operation {
    /// Its name.
    pub const fn name(&self) -> &'static str {
        self.names[0]
    }
}

macro_rules! operations {
    ($($name:literal $by:ident on $cpu:literal: $act:expr;)*) => {
        /// All of them. To add one, add a row.
        pub static OPERATIONS: &[Operation] = &[$(Operation {
            names: [$name, concat!($name, "-2"), concat!($name, "-3")],
            act: $act,
            cpu: $cpu,
            by: By::$by,
        },)*];
    };
}

operations! {
    "init-vm" User on 4: Act::InitVm;
    "capabilities" User on 4: Act::Capabilities;
    "mem" User on 2: Act::InitMemRegion(PAGE + 0x1000);
    "init-vcpu" User on 3: Act::InitVcpu(1);
    "init-vcpu-home" User on 1: Act::InitVcpu(1);
    "cpuid0" User on 2: Act::GetCpuid(0);
    "cpuid1" User on 3: Act::GetCpuid(1);
    "finalize" User on 4: Act::Finalize;
    "create" User on 4: Act::CreateVcpu(2);
    "create-dup" User on 4: Act::CreateVcpu(0);
    "max-vcpus" User on 4: Act::MaxVcpus(5);
    "create-gmem" User on 4: Act::CreateGmem;
    "slot-create" User on 4: Act::CreateSlot;
    "slot-delete" User on 4: Act::DeleteSlot;
    "slot-move" User on 4: Act::MoveSlot;
    "slot-flags" User on 4: Act::SlotFlags;
    "share" User on 4: Act::Share;
    "private" User on 4: Act::MakePrivate;
    "set-cpuid" User on 3: Act::SetCpuid(1);
    "load0" User on 2: Act::Load(0);
    "load1" User on 3: Act::Load(1);
    "prefault0" User on 2: Act::PreFault(0);
    "prefault1" User on 3: Act::PreFault(1);
    "run0" User on 2: Act::Run(0);
    "run1" User on 3: Act::Run(1);
    "close-vm" User on 4: Act::CloseVm;
    "close-vcpu" User on 4: Act::CloseVcpu(0);
    "close-gmem" User on 4: Act::CloseGmem;
    "punch" User on 4: Act::PunchHole;
    "punch-other" User on 4: Act::PunchOther;
    "allocate" User on 4: Act::Allocate;
    "poison" Host on 4: Act::MemoryFailure(PAGE);
    "poison-fresh" Host on 4: Act::MemoryFailure(FRESH_PAGE);
    "poison-other" Host on 4: Act::FailOther;
    "migrate" Scheduler on 4: Act::Migrate;
    "kill" Scheduler on 4: Act::Kill;
    "offline0" Host on 4: Act::Offline(0);
    "offline1" Host on 4: Act::Offline(1);
    "online" Host on 4: Act::Online;
    "other-init-vm" Host on 4: Act::OtherInitVm;
    "other-init-vcpu" Host on 4: Act::OtherInitVcpu;
    "other-mem" Host on 4: Act::OtherInitMemRegion;
    "other-finalize" Host on 4: Act::OtherFinalize;
    "other-close" Host on 4: Act::OtherClose;
}

/// The operation of this name.
pub fn operation(name: &str) -> Option<&'static Operation> {
    OPERATIONS.iter().find(|operation| operation.name() == name)
}
