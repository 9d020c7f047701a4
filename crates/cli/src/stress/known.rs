//! Which known race a failed assertion looks like: by the SEAMCALL, and by what was going on.
//!
//! R1 to R10 are those of `seamlock check --race`. What v7.3 has as well, by its source and by
//! `seamlock stress`, is in [`FAULTS`]; docs/findings.md (F1 to F8, F10) tells each at length:
//!
//! R11. The thread of KVM_TDX_INIT_VCPU is moved to another CPU after TDH.VP.INIT, which associates the
//! vCPU with the CPU, and before `tdx->state` becomes INITIALIZED. `tdx_flush_vp` skips TDH.VP.FLUSH
//! for what is not initialised, and TDH.VP.WR on the new CPU fails with TDX_VCPU_ASSOCIATED: the VM is
//! bugged and its HKID lost. The scheduler alone suffices.
//!
//! R12. A CPU goes offline: `tdx_disable_virtualization_cpu` flushes its vCPUs without any lock of
//! their VMs, and ignores the status. TDH.VP.FLUSH holds the TDR shared: a no-fail SEAMCALL that wants
//! it alone fails, or the flush does, and the vCPU stays associated with a CPU that is gone.
//!
//! R13. PUNCH_HOLE, or a memory failure, blocks a page while the TD is built and skips TDH.MEM.TRACK for
//! that reason. KVM_TDX_FINALIZE_VM completes, for it takes neither `filemap_invalidate_lock` nor
//! `mmu_lock`. TDH.MEM.PAGE.REMOVE then fails with TDX_TLB_TRACKING_NOT_DONE: the VM is bugged, and its
//! page goes back to the host while the TD still has it.
//!
//! R14. PUNCH_HOLE on one guest_memfd beside INIT_MEM_REGION of a page of another one, or beside
//! FINALIZE_VM. `filemap_invalidate_lock` is each file's own, and TDH.MR.EXTEND and TDH.MR.FINALIZE run
//! outside of `mmu_lock`: they want the TDR alone, TDH.MEM.RANGE.BLOCK shared. Either side fails with
//! TDX_OPERAND_BUSY and bugs the VM.

use seamlock_kvm::bug::What;
use seamlock_kvm::{Bug, Discipline};
use seamlock_tdx_abi::{Leaf, TdxStatus};

use super::desk::Around;

const LOAD: &str = "KVM_TDX_INIT_MEM_REGION";
const FINALIZE: &str = "KVM_TDX_FINALIZE_VM";
const INIT_VCPU: &str = "KVM_TDX_INIT_VCPU";
const GET_CPUID: &str = "KVM_TDX_GET_CPUID";
const ANY: &str = "any ioctl";
const HOLE: &str = "fallocate(PUNCH_HOLE)";
const POISON: &str = "memory failure";

/// What the hand that takes CPUs offline is at.
pub const HOTPLUG: &str = "CPU offline";

/// A fault that kernels have, as docs/findings.md describes it.
pub struct Fault {
    /// What this command calls it.
    pub race: &'static str,
    /// What docs/findings.md calls it.
    pub finding: &'static str,
    /// In a few words.
    pub what: &'static str,
    open: fn(&Discipline) -> bool,
}

impl Fault {
    const fn new(
        race: &'static str,
        finding: &'static str,
        what: &'static str,
        open: fn(&Discipline) -> bool,
    ) -> Fault {
        Fault {
            race,
            finding,
            what,
            open,
        }
    }

    /// Those that a discipline has, as nothing in it closes them.
    pub fn of(discipline: &Discipline) -> impl Iterator<Item = &'static Fault> {
        FAULTS.iter().filter(move |fault| (fault.open)(discipline))
    }
}

/// The faults. No kernel closes any of them; `sealed` closes all.
pub static FAULTS: &[Fault] = &[
    Fault::new(
        "R14",
        "F1",
        "pages are zapped while MR.FINALIZE or MR.EXTEND has the TDR",
        |d| !(d.finalize_under_mmu_lock && d.seal.extend_under_mmu_lock),
    ),
    Fault::new(
        "R13",
        "F2",
        "FINALIZE_VM between BLOCK and REMOVE: no TRACK was made",
        |d| !d.finalize_under_mmu_lock,
    ),
    Fault::new(
        "R11",
        "F3",
        "a task that is moved in INIT_VCPU leaves its vCPU associated",
        |d| !d.initialized_by_vp_init,
    ),
    Fault::new(
        "R12",
        "F4",
        "a CPU that goes offline flushes vCPUs without any lock of the VM",
        |d| !d.seal.cpus_stay_online,
    ),
    Fault::new(
        "F5",
        "F5",
        "FINALIZE_VM without a vCPU is a KVM_BUG_ON",
        |d| !d.seal.finalize_wants_a_vcpu,
    ),
    Fault::new(
        "F7",
        "F7",
        "a vCPU's CPUID with another address width than the TD's is a KVM_BUG_ON",
        |d| !d.seal.levels_of_the_td,
    ),
    Fault::new(
        "F8",
        "F8",
        "an NMI for a vCPU that has shut down is a KVM_BUG_ON",
        |d| !d.seal.late_nmi_is_dropped,
    ),
    Fault::new(
        "F10",
        "F10",
        "pre-faulting on a vCPU that INIT_VCPU never saw is a KVM_BUG_ON",
        |d| !d.seal.prefault_wants_init,
    ),
];

/// What one thread alone gets by asking for it, F5, F7, F8 or F10. KVM_TDX_FINALIZE_VM does not look whether any
/// vCPU was initialised, and the module's TDX_NO_VCPUS is a TDX_BUG_ON there (v7.3 tdx.c:2912).
/// KVM_SET_CPUID2 may give a vCPU another width of guest addresses than the TD has, which
/// `tdx_load_mmu_pgd` asserts (v7.3 tdx.c:1637). A guest that shuts down disables its vCPU, and
/// `tdx_inject_nmi` does not ask (v7.3 tdx.c:1132). KVM_PRE_FAULT_MEMORY loads the roots of a vCPU that
/// the module does not know, by the address 0 (v7.3 tdx.c:1640).
pub fn asked_for(bug: &Bug) -> Option<&'static str> {
    match &bug.what {
        What::Seamcall { leaf, status, .. } => {
            let no_vcpus = *leaf == Leaf::MR_FINALIZE && status.is(TdxStatus::NO_VCPUS);
            let disabled = status.is(TdxStatus::VCPU_STATE_INCORRECT);
            let late_nmi = disabled && bug.site.contains("tdx_inject_nmi");
            // No TDVPR is at 0, whatever else goes on.
            let nowhere = status.is(TdxStatus::PAGE_METADATA_INCORRECT);
            let unknown = nowhere && bug.site.contains("tdx_load_mmu_pgd");
            let of = [(no_vcpus, "F5"), (late_nmi, "F8"), (unknown, "F10")];
            of.into_iter().find(|(is, _)| *is).map(|(_, name)| name)
        }
        What::Condition(what) => what
            .contains("another GPA width than the TD")
            .then_some("F7"),
    }
}

/// The race, as far as can be told: by what goes on now, else by what did since the caller's operation
/// began. Who waits for a lock goes on as well as who has it, so that of two guesses the one that is
/// open in the discipline is taken. A race that is not recognised is None, and a finding all the same.
pub fn race(
    bug: &Bug,
    around: &Around,
    unflushed: Option<&'static str>,
    discipline: &Discipline,
) -> Option<&'static str> {
    let by = |beside| race_beside(bug, around.doing, beside, unflushed);
    let (now, lately) = (by(&around.beside), by(&around.lately));
    match (now, lately) {
        (Some(now), Some(lately)) if !is_open(discipline, now) && is_open(discipline, lately) => {
            Some(lately)
        }
        _ => now.or(lately),
    }
}

/// Whether a discipline has a race, or nothing is claimed of it.
fn is_open(discipline: &Discipline, race: &str) -> bool {
    Fault::of(discipline).any(|fault| fault.race == race)
        || seamlock_races::race(race)
            .is_some_and(|known| known.expected(discipline.name) != Some(false))
}

fn race_beside(
    bug: &Bug,
    doing: &str,
    beside: &[&str],
    unflushed: Option<&'static str>,
) -> Option<&'static str> {
    let (leaf, status) = match &bug.what {
        What::Condition(what) if what.contains("no VMSA") => return Some("R8"),
        What::Condition(what) if what.contains("with the HKID assigned") => return unflushed,
        What::Condition(what) => return what.contains("list corruption").then_some("R5"),
        What::Seamcall { leaf, status, .. } => (*leaf, *status),
    };
    if status.is(TdxStatus::VCPU_ASSOCIATED) {
        return unflushed;
    }
    if leaf == Leaf::MEM_PAGE_REMOVE && status.is(TdxStatus::TLB_TRACKING_NOT_DONE) {
        return Some("R13");
    }
    if !status.is(TdxStatus::OPERAND_BUSY) {
        return status
            .is(TdxStatus::OP_STATE_INCORRECT)
            .then_some("R2b")
            .filter(|_| doing == INIT_VCPU);
    }
    if doing == HOTPLUG || (beside.contains(&HOTPLUG) && leaf != Leaf::VP_FLUSH) {
        return Some("R12");
    }
    let with = |name: &str| beside.contains(&name);
    let hole = |name: &str| name == HOLE || name == POISON;
    match leaf {
        Leaf::MR_EXTEND if beside.iter().any(|name| hole(name)) => Some("R14"),
        Leaf::MEM_RANGE_BLOCK | Leaf::MEM_PAGE_REMOVE
            if hole(doing) && (with(LOAD) || with(FINALIZE) || with(ANY)) =>
        {
            Some("R14")
        }
        Leaf::VP_FLUSH if with(LOAD) => Some("R1c"),
        Leaf::VP_FLUSH if with(FINALIZE) => Some("R2c"),
        Leaf::VP_FLUSH if with(INIT_VCPU) => Some("R10'"),
        Leaf::MEM_RANGE_BLOCK | Leaf::MEM_PAGE_REMOVE if with(INIT_VCPU) => match doing {
            "fallocate(PUNCH_HOLE)" | "memory failure" => Some("R4"),
            _ => Some("R4'"),
        },
        Leaf::VP_CREATE | Leaf::VP_ADDCX | Leaf::VP_WR | Leaf::VP_INIT if with(LOAD) => Some("R1a"),
        Leaf::VP_CREATE | Leaf::VP_ADDCX | Leaf::VP_WR if with(FINALIZE) => Some("R2a"),
        Leaf::VP_CREATE | Leaf::VP_ADDCX | Leaf::VP_WR if with(INIT_VCPU) => Some("R10"),
        Leaf::VP_INIT if with("fallocate(PUNCH_HOLE)") || with("memory failure") => Some("R4"),
        Leaf::VP_INIT if with(INIT_VCPU) || with(GET_CPUID) => Some("R10"),
        Leaf::MR_EXTEND if with(INIT_VCPU) => Some("R1a"),
        Leaf::MR_EXTEND if with(GET_CPUID) => Some("R1b"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use seamlock_kvm::discipline::by_name;

    use super::*;

    /// What a busy MR.EXTEND is taken for, with INIT_VCPU waiting beside it and this having ended lately.
    fn busy_extend(discipline: &str, ended: &'static str) -> Option<&'static str> {
        let bug = Bug {
            vm: 1,
            site: "tdx_gmem_post_populate",
            what: What::Seamcall {
                leaf: Leaf::MR_EXTEND,
                status: TdxStatus::OPERAND_BUSY,
                operands: [0; 3],
            },
            fatal: true,
        };
        let around = Around {
            doing: LOAD,
            beside: vec![INIT_VCPU],
            lately: vec![INIT_VCPU, ended],
        };
        race(
            &bug,
            &around,
            None,
            by_name(discipline).expect("it is there"),
        )
    }

    #[test]
    fn who_waits_for_the_guard_is_not_blamed_for_what_a_cpu_that_went_offline_did() {
        assert_eq!(busy_extend("v7.3", HOTPLUG), Some("R12"));
        assert_eq!(busy_extend("v7.3", HOLE), Some("R14"));
    }

    #[test]
    fn a_race_that_the_discipline_has_is_taken_for_what_goes_on_now() {
        assert_eq!(busy_extend("v6.16", HOTPLUG), Some("R1a"));
    }

    #[test]
    fn what_nothing_known_explains_stays_a_finding() {
        assert_eq!(busy_extend("v7.3", "munmap"), Some("R1a"));
        assert!(!is_open(by_name("v7.3").expect("it is there"), "R1a"));
        assert_eq!(busy_extend("sealed", HOTPLUG), Some("R1a"));
    }
}
