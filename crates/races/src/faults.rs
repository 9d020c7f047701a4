//! The faults that docs/findings.md describes, each with what of a discipline it hangs on.
//!
//! Whether a violation is the doing of one of them is not guessed from its words: it is, if it is still
//! there when all others are closed as in `sealed` ([`Suspects`](crate::sweep::Suspects)).

use seamlock_check::Violation;
use seamlock_kvm::Discipline;
use seamlock_kvm::discipline::{GmemPopulate, SEALED};

use crate::act::Act;
use crate::oracle::{LOCK_ORDER, TLB_EPOCH};

/// A fault that kernels have, as docs/findings.md describes it.
#[derive(Debug)]
pub struct Fault {
    /// Its number there, with an F in front.
    pub number: u32,
    /// In a few words.
    pub what: &'static str,
    open: fn(&Discipline) -> bool,
    // Sets what it hangs on as in another discipline.
    carry: fn(&mut Discipline, &Discipline),
    // The operations of which it needs one.
    needs: fn(Act) -> bool,
    // Some faults are closed by the same change, and told apart by what they lead to.
    shows: fn(&Violation) -> bool,
}

impl Fault {
    const fn new(
        number: u32,
        what: &'static str,
        open: fn(&Discipline) -> bool,
        carry: fn(&mut Discipline, &Discipline),
        needs: fn(Act) -> bool,
    ) -> Fault {
        Fault {
            number,
            what,
            open,
            carry,
            needs,
            shows: |_| true,
        }
    }

    const fn that_shows(self, shows: fn(&Violation) -> bool) -> Fault {
        Fault { shows, ..self }
    }

    /// Those that a discipline has, as nothing in it closes them.
    pub fn of(discipline: &Discipline) -> impl Iterator<Item = &'static Fault> {
        FAULTS.iter().filter(move |fault| (fault.open)(discipline))
    }

    /// Whether this violation can be its doing.
    pub fn can_show(&self, violation: &Violation) -> bool {
        (self.shows)(violation)
    }

    /// Whether it can be where these operations meet.
    pub fn can_meet(&self, mut acts: impl Iterator<Item = Act>) -> bool {
        acts.any(self.needs)
    }

    /// A discipline with some faults closed as in `sealed`, and then others as they were.
    pub fn close(discipline: &Discipline, closed: &[&Fault], open: &[&Fault]) -> Discipline {
        let mut changed = *discipline;
        for fault in closed {
            (fault.carry)(&mut changed, &SEALED);
        }
        for fault in open {
            (fault.carry)(&mut changed, discipline);
        }
        changed
    }
}

const FINALIZES: fn(Act) -> bool = |act| matches!(act, Act::Finalize | Act::OtherFinalize);
const POPULATES: fn(Act) -> bool =
    |act| matches!(act, Act::InitMemRegion(_) | Act::OtherInitMemRegion);

/// The faults, in the order of docs/findings.md. `sealed` closes all; F9 is one of hardware alone.
pub static FAULTS: &[Fault] = &[
    Fault::new(
        1,
        "pages are zapped while MR.FINALIZE or MR.EXTEND has the TDR",
        |d| !(d.finalize_under_mmu_lock && d.seal.extend_under_mmu_lock),
        |to, from| {
            to.finalize_under_mmu_lock = from.finalize_under_mmu_lock;
            to.seal.extend_under_mmu_lock = from.seal.extend_under_mmu_lock;
        },
        |act| FINALIZES(act) || POPULATES(act),
    )
    .that_shows(|violation| violation.oracle != TLB_EPOCH),
    Fault::new(
        2,
        "FINALIZE_VM between BLOCK and REMOVE: no TRACK was made",
        |d| !d.finalize_under_mmu_lock,
        |to, from| to.finalize_under_mmu_lock = from.finalize_under_mmu_lock,
        FINALIZES,
    )
    .that_shows(|violation| violation.oracle == TLB_EPOCH),
    Fault::new(
        3,
        "a task that is moved in INIT_VCPU leaves its vCPU associated",
        |d| !d.initialized_by_vp_init,
        |to, from| to.initialized_by_vp_init = from.initialized_by_vp_init,
        |act| matches!(act, Act::InitVcpu(_) | Act::OtherInitVcpu),
    ),
    Fault::new(
        4,
        "a CPU that goes offline flushes vCPUs without any lock of the VM",
        |d| !d.seal.cpus_stay_online,
        |to, from| to.seal.cpus_stay_online = from.seal.cpus_stay_online,
        |act| matches!(act, Act::Offline(_)),
    ),
    Fault::new(
        5,
        "FINALIZE_VM without a vCPU is a KVM_BUG_ON",
        |d| !d.seal.finalize_wants_a_vcpu,
        |to, from| to.seal.finalize_wants_a_vcpu = from.seal.finalize_wants_a_vcpu,
        FINALIZES,
    ),
    Fault::new(
        6,
        "mmap_lock inside filemap_invalidate_lock",
        |d| d.gmem == GmemPopulate::TracksPreparation,
        |to, from| to.gmem = from.gmem,
        POPULATES,
    )
    .that_shows(|violation| violation.oracle == LOCK_ORDER),
    Fault::new(
        7,
        "a vCPU's CPUID with another address width than the TD's is a KVM_BUG_ON",
        |d| !d.seal.levels_of_the_td,
        |to, from| to.seal.levels_of_the_td = from.seal.levels_of_the_td,
        |act| matches!(act, Act::SetCpuid(_)),
    ),
    Fault::new(
        8,
        "an NMI for a vCPU that has shut down is a KVM_BUG_ON",
        |d| !d.seal.late_nmi_is_dropped,
        |to, from| to.seal.late_nmi_is_dropped = from.seal.late_nmi_is_dropped,
        |act| matches!(act, Act::Run(_)),
    ),
    Fault::new(
        10,
        "pre-faulting on a vCPU that INIT_VCPU never saw is a KVM_BUG_ON",
        |d| !d.seal.prefault_wants_init,
        |to, from| to.seal.prefault_wants_init = from.seal.prefault_wants_init,
        |act| matches!(act, Act::PreFault(_)),
    ),
    Fault::new(
        11,
        "a memory error waits for filemap_invalidate_lock with its folio locked",
        |d| !d.seal.error_unlocks_folio,
        |to, from| to.seal.error_unlocks_folio = from.seal.error_unlocks_folio,
        |act| matches!(act, Act::MemoryFailure(_) | Act::FailOther),
    ),
];
