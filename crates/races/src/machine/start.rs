//! What is there when a scene starts.

/// What is there when a scene starts. Everything is made by ioctls, in the order of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// No TD, but two SEV-ES guests: a destination with a vCPU, and a launched source.
    pub sev: bool,
    /// KVM_TDX_INIT_VM was done.
    pub init: bool,
    /// Initialised vCPUs; vCPU `i` was loaded on CPU `i` last.
    pub ready: u32,
    /// Further vCPUs that are created and have their CPUID, but are not initialised.
    pub raw: u32,
    /// More initialised vCPUs, behind all of those.
    pub more: u32,
    /// Whether there is a memslot with a guest_memfd.
    pub slot: bool,
    /// Pages that were added, from [`PAGE`](super::PAGE) on.
    pub pages: u64,
    /// KVM_TDX_FINALIZE_VM was done.
    pub finalized: bool,
    /// Which descriptors were closed again.
    pub closed: Closed,
    /// Most descriptors that the process may have.
    pub fds: usize,
    /// What acts need beside the TD.
    pub extras: Extras,
}

/// Descriptors of the TD that were closed again before the scene starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// None.
    Nothing,
    /// The guest_memfd's.
    Gmem,
    /// The VM's and those of all vCPUs but the first: what is left keeps the VM alive.
    Vm,
    /// All but the first vCPU's, which is the VM's last reference.
    AllButOne,
}

/// Things beside the TD that an act needs; made only where one does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// A second guest_memfd, bound to no slot.
    pub spare_gmem: bool,
    /// A second memslot with a guest_memfd of its own, all private, and a page in it if there is a vCPU to
    /// add it with.
    pub second_slot: bool,
    /// A memslot without guest_memfd.
    pub plain_slot: bool,
    /// A second TD: initialised, with a ready vCPU and a raw one, a memslot and no page.
    pub second_td: bool,
    /// A TD on which KVM_TDX_INIT_VM was not done.
    pub fresh_td: bool,
    /// A CPU that is offline.
    pub offline_cpu: bool,
}

impl Extras {
    /// How many there are.
    pub fn count(self) -> usize {
        let all = [
            self.spare_gmem,
            self.second_slot,
            self.plain_slot,
            self.second_td,
            self.fresh_td,
            self.offline_cpu,
        ];
        all.into_iter().filter(|has| *has).count()
    }

    /// What either needs.
    pub const fn and(self, other: Extras) -> Extras {
        Extras {
            spare_gmem: self.spare_gmem || other.spare_gmem,
            second_slot: self.second_slot || other.second_slot,
            plain_slot: self.plain_slot || other.plain_slot,
            second_td: self.second_td || other.second_td,
            fresh_td: self.fresh_td || other.fresh_td,
            offline_cpu: self.offline_cpu || other.offline_cpu,
        }
    }
}

impl Start {
    /// All vCPUs.
    pub const fn vcpus(&self) -> u32 {
        self.ready + self.raw + self.more
    }

    /// `ready` initialised and `raw` other vCPUs, and a memslot without pages.
    pub const fn with(ready: u32, raw: u32) -> Start {
        Start {
            sev: false,
            init: true,
            ready,
            raw,
            more: 0,
            slot: true,
            pages: 0,
            finalized: false,
            closed: Closed::Nothing,
            fds: 64,
            extras: Extras {
                spare_gmem: false,
                second_slot: false,
                plain_slot: false,
                second_td: false,
                fresh_td: false,
                offline_cpu: false,
            },
        }
    }
}
