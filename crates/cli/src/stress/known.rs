//! Which known race a failed assertion is of: by the SEAMCALL, and by who was in its way.
//!
//! R1 to R10 are those of `seamlock check --scenario`. What v7.3 has as well, by its source and by
//! `seamlock stress`, is in [`NAMES`]; docs/findings.md (F1 to F8, F10) tells each at length:
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
use seamlock_kvm::discipline::Population;
use seamlock_kvm::{Bug, Discipline};
use seamlock_races::{FAULTS, Fault};
use seamlock_tdx_abi::{Leaf, TdxStatus};

use super::words::{Busy, Party};

const INIT_VCPU: &str = "KVM_TDX_INIT_VCPU";
const HOLE: &str = "fallocate(PUNCH_HOLE)";
const POISON: &str = "memory failure";

/// What the hand that takes CPUs offline is at.
pub const HOTPLUG: &str = "CPU offline";

/// What this command calls the faults that it meets, and their numbers in docs/findings.md.
pub static NAMES: &[(&str, u32)] = &[
    ("R14", 1),
    ("R13", 2),
    ("R11", 3),
    ("R12", 4),
    ("F5", 5),
    ("F7", 7),
    ("F8", 8),
    ("F10", 10),
];

/// The names of those that a discipline has.
pub fn of(discipline: &Discipline) -> impl Iterator<Item = &'static str> {
    let name = |fault: &Fault| NAMES.iter().find(|(_, number)| *number == fault.number);
    Fault::of(discipline)
        .filter_map(name)
        .map(|(race, _)| *race)
}

/// The fault of this name.
pub fn fault(race: &str) -> Option<&'static Fault> {
    let (_, number) = NAMES.iter().find(|(name, _)| *name == race)?;
    FAULTS.iter().find(|fault| fault.number == *number)
}

/// What one thread alone gets by asking for it, F5, F7 or F8. KVM_TDX_FINALIZE_VM does not look whether any
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

/// What is known of a bug beside the bug itself, all of the thread that met it.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// What its last SEAMCALL found busy, and who had it.
    pub busy: Vec<Busy>,
    /// Why a vCPU was not flushed that its last SEAMCALL wanted flushed.
    pub unflushed: Option<&'static str>,
    /// It left out TDH.MEM.TRACK because the TD was not finalized.
    pub untracked: bool,
    /// Its operation.
    pub doing: &'static str,
}

/// The race that a bug is of. Not a guess: what a busy word refuses is told by who had the word, and all of
/// them must be of a known race; of two the one is taken that the discipline does not have. A race that is
/// not recognised is None, and a finding all the same.
pub fn race(bug: &Bug, evidence: &Evidence, discipline: &Discipline) -> Option<&'static str> {
    let (leaf, status) = match &bug.what {
        What::Condition(what) if what.contains("no VMSA") => return Some("R8"),
        What::Condition(what) if what.contains("with the HKID assigned") => {
            return evidence.unflushed;
        }
        What::Condition(what) => return what.contains("list corruption").then_some("R5"),
        What::Seamcall { leaf, status, .. } => (*leaf, *status),
    };
    if status.is(TdxStatus::VCPU_ASSOCIATED) {
        return evidence.unflushed;
    }
    if leaf == Leaf::MEM_PAGE_REMOVE && status.is(TdxStatus::TLB_TRACKING_NOT_DONE) {
        return evidence.untracked.then_some("R13");
    }
    if status.is(TdxStatus::OP_STATE_INCORRECT) {
        return (evidence.doing == INIT_VCPU).then_some("R2b");
    }
    if !status.is(TdxStatus::OPERAND_BUSY) {
        return None;
    }
    let met = evidence.busy.iter().flat_map(|busy| {
        let tdr = |holder| busy.is_tdr.then(|| meets(&busy.loser, holder, discipline));
        busy.holders.iter().map(move |holder| tdr(holder).flatten())
    });
    let races: Option<Vec<_>> = met.collect();
    let races = races?;
    let news = races.iter().find(|race| !is_open(discipline, race));
    news.or(races.first()).copied()
}

/// Whether a discipline has a race, or nothing is claimed of it.
fn is_open(discipline: &Discipline, race: &str) -> bool {
    of(discipline).any(|name| name == race)
        || seamlock_races::race(race)
            .is_some_and(|known| known.expected(discipline.name) != Some(false))
}

/// The race that two SEAMCALLs make which want one TDR: who found it busy, and who had it.
fn meets(loser: &Party, holder: &Party, discipline: &Discipline) -> Option<&'static str> {
    let zaps = |party: &Party| matches!(party.leaf, Leaf::MEM_RANGE_BLOCK | Leaf::MEM_PAGE_REMOVE);
    let punches = |party: &Party| zaps(party) && [HOLE, POISON].contains(&party.doing);
    let builds_vcpu = |party: &Party| {
        let leaves = [Leaf::VP_CREATE, Leaf::VP_ADDCX, Leaf::VP_INIT, Leaf::VP_WR];
        leaves.contains(&party.leaf)
    };
    let reads = |party: &Party| matches!(party.leaf, Leaf::VP_RD | Leaf::MNG_RD);
    let loads = |party: &Party| matches!(party.leaf, Leaf::MEM_PAGE_ADD | Leaf::MR_EXTEND);
    // Populating without mmu_lock, PAGE.ADD meets what MR.EXTEND does.
    let extends = |party: &Party| {
        let premaps = discipline.population == Population::Premap;
        party.leaf == Leaf::MR_EXTEND || (premaps && party.leaf == Leaf::MEM_PAGE_ADD)
    };
    let finalizes = |party: &Party| party.leaf == Leaf::MR_FINALIZE;
    // Each with a guest_memfd of its own locked.
    let of_two_files = || match (loser.filemap, holder.filemap) {
        (Some(one), Some(other)) => one != other,
        _ => false,
    };
    let flushes = |party: &Party| party.leaf == Leaf::VP_FLUSH;
    if flushes(holder) && holder.doing == HOTPLUG {
        return Some("R12");
    }
    let pair = |a: &Party, b: &Party| match () {
        () if punches(a) && extends(b) => of_two_files().then_some("R14"),
        () if punches(a) && finalizes(b) => a.filemap.map(|_| "R14"),
        () if zaps(a) && b.leaf == Leaf::VP_INIT && [HOLE, POISON].contains(&a.doing) => Some("R4"),
        () if zaps(a) && b.leaf == Leaf::VP_INIT => Some("R4'"),
        () if builds_vcpu(a) && loads(b) => Some("R1a"),
        () if reads(a) && loads(b) => Some("R1b"),
        () if flushes(a) && loads(b) => Some("R1c"),
        () if builds_vcpu(a) && finalizes(b) => Some("R2a"),
        () if flushes(a) && finalizes(b) => Some("R2c"),
        () if flushes(a) && b.leaf == Leaf::VP_INIT => Some("R10'"),
        () if b.leaf == Leaf::VP_INIT && (builds_vcpu(a) || reads(a)) => Some("R10"),
        () => None,
    };
    pair(loser, holder).or_else(|| pair(holder, loser))
}

#[cfg(test)]
mod tests {
    use seamlock_kvm::discipline::by_name;
    use seamlock_kvm::locks::FILEMAP_LOCK;
    use seamlock_sync::Name;
    use seamlock_tdx_module::locks::{PAMT_4K, SEPT_TREE};

    use super::*;

    const LOAD: &str = "KVM_TDX_INIT_MEM_REGION";
    const FINALIZE: &str = "KVM_TDX_FINALIZE_VM";

    fn party(leaf: Leaf, doing: &'static str) -> Party {
        let seat = 0;
        let filemap = None;
        Party {
            seat,
            leaf,
            doing,
            filemap,
        }
    }

    fn with_file(file: u64, leaf: Leaf, doing: &'static str) -> Party {
        Party {
            filemap: Some(FILEMAP_LOCK.of(1, file)),
            ..party(leaf, doing)
        }
    }

    fn refused(leaf: Leaf, status: TdxStatus) -> Bug {
        Bug {
            vm: 1,
            site: "tdx.c",
            what: What::Seamcall {
                leaf,
                status,
                operands: [0; 3],
            },
            fatal: true,
        }
    }

    fn busy_at(
        word: Name,
        discipline: &str,
        loser: Party,
        holders: &[Party],
    ) -> Option<&'static str> {
        let evidence = Evidence {
            busy: vec![Busy {
                word,
                is_tdr: *word.class == PAMT_4K,
                loser,
                holders: holders.to_vec(),
            }],
            doing: loser.doing,
            ..Evidence::default()
        };
        let bug = refused(loser.leaf, TdxStatus::OPERAND_BUSY);
        race(&bug, &evidence, by_name(discipline).expect("it is there"))
    }

    fn busy(discipline: &str, loser: Party, holders: &[Party]) -> Option<&'static str> {
        busy_at(PAMT_4K.at(0x1000), discipline, loser, holders)
    }

    #[test]
    fn a_busy_tdr_is_told_by_who_had_it() {
        let extend = with_file(1, Leaf::MR_EXTEND, LOAD);
        let offline = party(Leaf::VP_FLUSH, HOTPLUG);
        let moved = party(Leaf::VP_FLUSH, "KVM_RUN");
        let other_file = with_file(2, Leaf::MEM_RANGE_BLOCK, HOLE);
        assert_eq!(busy("v7.3", extend, &[offline]), Some("R12"));
        assert_eq!(busy("v7.3", extend, &[moved]), Some("R1c"));
        assert_eq!(busy("v7.3", extend, &[other_file]), Some("R14"));
        assert_eq!(busy("v7.3", other_file, &[extend]), Some("R14"));
        let init = party(Leaf::VP_INIT, INIT_VCPU);
        assert_eq!(busy("no-mmu-lock", other_file, &[init]), Some("R4"));
        assert_eq!(busy("no-mmu-lock", init, &[other_file]), Some("R4"));
    }

    #[test]
    fn f1_is_of_two_files_each_locked() {
        let extend = with_file(1, Leaf::MR_EXTEND, LOAD);
        assert_eq!(
            busy("v7.3", extend, &[with_file(1, Leaf::MEM_RANGE_BLOCK, HOLE)]),
            None
        );
        assert_eq!(
            busy("v7.3", extend, &[party(Leaf::MEM_RANGE_BLOCK, HOLE)]),
            None
        );
        let finalize = party(Leaf::MR_FINALIZE, FINALIZE);
        assert_eq!(
            busy("v7.3", party(Leaf::MEM_PAGE_REMOVE, HOLE), &[finalize]),
            None
        );
        let punch = with_file(1, Leaf::MEM_PAGE_REMOVE, HOLE);
        assert_eq!(busy("v7.3", punch, &[finalize]), Some("R14"));
        let delete = with_file(2, Leaf::MEM_RANGE_BLOCK, "KVM_SET_USER_MEMORY_REGION2");
        assert_eq!(busy("v7.3", extend, &[delete]), None);
    }

    #[test]
    fn company_hides_nobody() {
        let init = party(Leaf::VP_INIT, INIT_VCPU);
        let offline = party(Leaf::VP_FLUSH, HOTPLUG);
        let create = party(Leaf::VP_CREATE, INIT_VCPU);
        assert_eq!(busy("v7.3", init, &[offline, create]), Some("R10"));
        let unheard_of = party(Leaf::MNG_VPFLUSHDONE, "close(VM)");
        assert_eq!(busy("v7.3", init, &[offline, unheard_of]), None);
    }

    #[test]
    fn a_known_pair_at_another_word_is_news() {
        let extend = with_file(1, Leaf::MR_EXTEND, LOAD);
        let offline = party(Leaf::VP_FLUSH, HOTPLUG);
        let tree = SEPT_TREE.at(0x1000);
        assert_eq!(busy_at(tree, "v7.3", extend, &[offline]), None);
    }

    #[test]
    fn a_removal_without_track_is_f2_only_where_the_td_was_found_not_finalized() {
        let bug = refused(Leaf::MEM_PAGE_REMOVE, TdxStatus::TLB_TRACKING_NOT_DONE);
        let v7_3 = by_name("v7.3").expect("it is there");
        let mut evidence = Evidence::default();
        assert_eq!(race(&bug, &evidence, v7_3), None);
        evidence.untracked = true;
        assert_eq!(race(&bug, &evidence, v7_3), Some("R13"));
    }
}
