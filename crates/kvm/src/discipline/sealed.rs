//! The smallest change to v7.3 for which the sweep finds nothing. docs/findings.md argues for it.

use super::kernel::V7_3_BASE;
use super::{Discipline, Kind, Seal};

/// v7.3 with every finding of the sweep closed.
pub static SEALED: Discipline = Discipline {
    name: "sealed",
    summary: "v7.3, with mmu_lock and cpus_read_lock where a SEAMCALL has the TDR to itself",
    source: "seamlock: docs/findings.md",
    kind: Kind::Proposal,
    initialized_by_vp_init: true,
    finalize_under_mmu_lock: true,
    seal: Seal::ALL,
    ..V7_3_BASE
};
