//! The known races: for each the scenes that show it, and the disciplines that must be refuted.
//!
//! Sources: the public thread that led to the guard (20250829000618.351013-1-seanjc and the answers to
//! it), and the changelogs that are named with each discipline.

use crate::act::Act;
use crate::machine::{Closed, PAGE, Start};
use crate::scene::{Actor, Counts, Scene};

/// A known race.
#[derive(Clone, Copy, Debug)]
pub struct Race {
    /// Its short name.
    pub id: &'static str,
    /// What meets what.
    pub what: &'static str,
    /// The disciplines that have it.
    pub open_in: &'static [&'static str],
    /// What shows it. It is open when one of them is refuted.
    pub scenes: &'static [Scene],
}

impl Race {
    /// Whether the discipline must be refuted; None when nothing is claimed of it.
    pub fn expected(&self, discipline: &str) -> Option<bool> {
        let open = self.open_in.contains(&discipline);
        let claimed = COLUMNS.contains(&discipline) && (discipline != "seed" || open);
        claimed.then_some(open)
    }
}

/// The disciplines that the catalogue claims something of, in the order of their history. Under `seed`
/// no TD can be built, so that R7 is all that can be said of it; `seed-24` is the mail's guard with the
/// whole command copied in.
pub const COLUMNS: &[&str] = &[
    "v6.16", "retry", "slots", "seed", "seed-24", "v6.19", "v7.3",
];

const BEFORE: &[&str] = &["v6.16", "retry"];
const UNGUARDED: &[&str] = &["v6.16", "retry", "slots"];
const NOT_SLOTS: &[&str] = &["v6.16", "retry", "seed-24"];
const NOT_MERGED: &[&str] = &["v6.16", "retry", "slots", "seed-24"];

const fn on(name: &'static str, cpu: u32, act: Act) -> Actor {
    Actor {
        name,
        cpu,
        act,
        times: 1,
    }
}

const MEM: Actor = on("mem", 0, Act::InitMemRegion(PAGE));
const FINALIZE: Actor = on("finalize", 0, Act::Finalize);
/// INIT_VCPU of vCPU 1, on the CPU that it was created on.
const INIT: Actor = on("vcpu1", 1, Act::InitVcpu(1));

/// vCPU 0 is initialised, vCPU 1 is not.
const ONE_RAW: Start = Start::with(1, 1);
const PAGE_IN: Start = Start {
    pages: 1,
    ..ONE_RAW
};
const NO_TD: Start = Start {
    init: false,
    slot: false,
    ..Start::with(0, 0)
};
const SEV: Start = Start {
    sev: true,
    ..Start::with(0, 0)
};
const RUNNABLE: Start = Start {
    finalized: true,
    ..Start::with(1, 0)
};
/// The guest_memfd of the slot was closed, so that a fault has nothing to bring in.
const NO_GMEM: Start = Start {
    closed: Closed::Gmem,
    ..RUNNABLE
};
const NO_MEMORY: Start = Start {
    slot: false,
    ..Start::with(1, 0)
};

const fn scene(
    name: &'static str,
    start: Start,
    counts: Counts,
    actors: &'static [Actor],
) -> Scene {
    Scene {
        name,
        start,
        actors,
        counts,
    }
}

use Counts::{AllBugs, Busy, LockOrder, OnlyBugs, Refusals, WrongState};

/// Every race, in the order of its name.
pub static RACES: &[Race] = &[
    Race {
        id: "R1a",
        what: "PAGE.ADD or MR.EXTEND meets INIT_VCPU of another vCPU",
        open_in: BEFORE,
        scenes: &[scene("mem-init", ONE_RAW, AllBugs, &[MEM, INIT])],
    },
    Race {
        id: "R1b",
        what: "PAGE.ADD or MR.EXTEND meets GET_CPUID of another vCPU",
        open_in: BEFORE,
        scenes: &[scene(
            "mem-cpuid",
            Start::with(2, 0),
            AllBugs,
            &[MEM, on("vcpu1", 1, Act::GetCpuid(1))],
        )],
    },
    Race {
        id: "R1c",
        what: "PAGE.ADD or MR.EXTEND meets VP.FLUSH in vcpu_load of another vCPU",
        open_in: UNGUARDED,
        scenes: &[scene(
            "mem-load",
            Start::with(2, 0),
            AllBugs,
            &[MEM, on("vcpu1", 2, Act::Load(1))],
        )],
    },
    Race {
        id: "R2a",
        what: "MR.FINALIZE meets VP.CREATE",
        open_in: BEFORE,
        scenes: &[scene("finalize-init", ONE_RAW, Busy, &[FINALIZE, INIT])],
    },
    Race {
        id: "R2b",
        what: "FINALIZE completes after INIT_VCPU tested the TD's state",
        open_in: UNGUARDED,
        scenes: &[scene(
            "finalize-init",
            ONE_RAW,
            WrongState,
            &[FINALIZE, INIT],
        )],
    },
    Race {
        id: "R2c",
        what: "MR.FINALIZE meets VP.FLUSH in a vcpu_load",
        open_in: UNGUARDED,
        scenes: &[scene(
            "finalize-load",
            Start::with(2, 0),
            AllBugs,
            &[FINALIZE, on("vcpu1", 2, Act::Load(1))],
        )],
    },
    Race {
        id: "R3",
        what: "FINALIZE completes while a vCPU is being created",
        open_in: UNGUARDED,
        scenes: &[scene(
            "finalize-create",
            NO_MEMORY,
            AllBugs,
            &[FINALIZE, on("create", 1, Act::CreateVcpu(1))],
        )],
    },
    Race {
        id: "R4",
        what: "VP.INIT meets PUNCH_HOLE or a memory error on a guest_memfd",
        open_in: NOT_MERGED,
        scenes: &[
            scene(
                "init-punch",
                PAGE_IN,
                AllBugs,
                &[INIT, on("punch", 2, Act::PunchHole)],
            ),
            scene(
                "init-poison",
                PAGE_IN,
                AllBugs,
                &[INIT, on("poison", 2, Act::MemoryFailure(PAGE))],
            ),
        ],
    },
    Race {
        id: "R4'",
        what: "VP.INIT meets slot deletion, an attribute change, guest_memfd close",
        open_in: NOT_SLOTS,
        scenes: &[
            scene(
                "init-delete",
                PAGE_IN,
                AllBugs,
                &[INIT, on("delete", 2, Act::DeleteSlot)],
            ),
            scene(
                "init-share",
                PAGE_IN,
                AllBugs,
                &[INIT, on("share", 2, Act::Share)],
            ),
            scene(
                "init-close",
                PAGE_IN,
                AllBugs,
                &[INIT, on("close", 2, Act::CloseGmem)],
            ),
        ],
    },
    Race {
        id: "R5",
        what: "vCPU creation fails late and leaves the vCPU on the CPU's list",
        open_in: NOT_MERGED,
        scenes: &[
            scene(
                "duplicate-id",
                NO_MEMORY,
                AllBugs,
                &[
                    on("create", 1, Act::CreateVcpu(0)),
                    on("vcpu0", 1, Act::Load(0)),
                ],
            ),
            scene(
                "no-descriptor",
                Start {
                    fds: 3,
                    ..NO_MEMORY
                },
                AllBugs,
                &[
                    on("create", 1, Act::CreateVcpu(1)),
                    on("vcpu0", 1, Act::Load(0)),
                ],
            ),
        ],
    },
    Race {
        id: "R6",
        what: "slots_lock outside of the vCPU mutexes, which existing code nests the other way",
        open_in: &["seed-24"],
        scenes: &[scene("finalize", ONE_RAW, LockOrder, &[FINALIZE])],
    },
    Race {
        id: "R7",
        what: "tdx_get_cmd() copies 8 of the command's 24 bytes in",
        open_in: &["seed"],
        scenes: &[scene(
            "init-vm",
            NO_TD,
            Refusals,
            &[on("init", 0, Act::InitVm)],
        )],
    },
    Race {
        id: "R8",
        what: "SEV intra-host migration while a vCPU is being created on either VM",
        // Closed by ecf371f8b02d in every discipline; the mutant sev-unchecked is without it. That a vCPU is
        // created on a source that has just died is no part of it: vm_dead is tested before kvm->lock.
        open_in: &[],
        scenes: &[
            scene(
                "move-create",
                SEV,
                OnlyBugs,
                &[
                    on("move", 0, Act::MoveSev),
                    on("create", 1, Act::CreateVcpu(1)),
                ],
            ),
            scene(
                "move-create-source",
                SEV,
                OnlyBugs,
                &[
                    on("move", 0, Act::MoveSev),
                    on("create", 1, Act::OtherCreateVcpu(1)),
                ],
            ),
        ],
    },
    Race {
        id: "R9",
        what: "a fault retries for ever in a memslot whose deletion waits for it",
        open_in: NOT_MERGED,
        scenes: &[
            scene(
                "prefault-delete",
                RUNNABLE,
                AllBugs,
                &[
                    on("prefault", 0, Act::PreFault(0)),
                    on("delete", 2, Act::DeleteSlot),
                ],
            ),
            scene(
                "run-delete",
                NO_GMEM,
                AllBugs,
                &[on("run", 0, Act::Run(0)), on("delete", 2, Act::DeleteSlot)],
            ),
        ],
    },
    Race {
        id: "R10",
        what: "VP.INIT meets INIT_VCPU or GET_CPUID of another vCPU",
        open_in: NOT_SLOTS,
        scenes: &[
            scene(
                "init-init",
                Start::with(1, 2),
                AllBugs,
                &[INIT, on("vcpu2", 2, Act::InitVcpu(2))],
            ),
            scene(
                "init-cpuid",
                ONE_RAW,
                AllBugs,
                &[INIT, on("vcpu0", 0, Act::GetCpuid(0))],
            ),
        ],
    },
    Race {
        id: "R10'",
        what: "VP.INIT meets VP.FLUSH in another vCPU's vcpu_load",
        open_in: NOT_MERGED,
        scenes: &[scene(
            "init-load",
            ONE_RAW,
            AllBugs,
            &[INIT, on("vcpu0", 2, Act::Load(0))],
        )],
    },
];

/// The race of a name.
pub fn race(id: &str) -> Option<&'static Race> {
    RACES.iter().find(|race| race.id == id)
}
