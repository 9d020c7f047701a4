//! A discipline in words, axis by axis, and what sets two apart.

use std::fmt::Debug;

use seamlock_tdx_abi::kvm::TdxCmdId;

use super::{
    CreateVcpu, Discipline, ExtendFailure, GmemPopulate, InvalidSlot, Population, Seal,
    SevInFlight, Step, Unlocked,
};

/// One thing in which disciplines may differ, and how it is in one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axis {
    /// What.
    pub name: &'static str,
    /// How.
    pub value: String,
}

/// One thing in which two disciplines differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What.
    pub axis: &'static str,
    /// How it is in the one that was asked.
    pub here: String,
    /// How it is in the other.
    pub there: String,
}

impl Discipline {
    /// All axes, always in the same order.
    pub fn axes(&self) -> Vec<Axis> {
        let axis = |name, value| Axis { name, value };
        let mut all = self.commands();
        all.extend([
            axis("KVM_CREATE_VCPU", text(self.create_vcpu.says())),
            axis("population", text(self.population.says())),
            axis("guest_memfd", text(self.gmem.says())),
            axis("mmu_lock around VP.INIT", yes(self.vp_init_under_mmu_lock)),
            axis(
                "initialised as soon as VP.INIT is done",
                yes(self.initialized_by_vp_init),
            ),
            axis(
                "mmu_lock around MR.FINALIZE",
                yes(self.finalize_under_mmu_lock),
            ),
            axis("MR.EXTEND fails", text(self.outcomes.mr_extend.says())),
            axis(
                "MNG.CREATE, ADDCX, INIT fail",
                text(if self.outcomes.mng_bugs {
                    "VM bugged, -EIO"
                } else {
                    "-EIO, a warning, the VM lives"
                }),
            ),
            axis(
                "page is mapped already",
                text(if self.outcomes.spurious_is_success {
                    "goes on with it"
                } else {
                    "-EIO"
                }),
            ),
            axis("fault in a slot that goes", text(self.invalid_slot.says())),
            axis(
                "vCPU freed while on a CPU's list",
                text(if self.vcpu_free_disassociates {
                    "taken off"
                } else {
                    "stays on the list"
                }),
            ),
            axis(
                "source address 0",
                text(if self.source_zero_refused {
                    "-EINVAL up front"
                } else {
                    "pinned as any other"
                }),
            ),
            axis(
                "cpuid.nent read twice is compared",
                yes(self.nent_read_twice),
            ),
            axis(
                "SEV migration, vCPU in creation",
                text(self.sev_in_flight.says()),
            ),
        ]);
        all.extend(self.seal.axes());
        all
    }

    fn commands(&self) -> Vec<Axis> {
        let c = &self.commands;
        let axis = |name, value| Axis { name, value };
        let own = |steps: &[&[Step]]| locks(&steps.concat());
        let vcpu_command = |id, before: &[Step], tested: &[Step]| match c.unlocked {
            Unlocked::AfterLocks(ids) if ids.contains(&id) => {
                own(&[c.vcpu_unlocked, before, tested])
            }
            Unlocked::Only(ids) if ids.contains(&id) => own(&[c.vcpu_unlocked, before, tested]),
            _ => under_its_mutex(&[before, tested].concat()),
        };
        let capabilities = if c.capabilities_first {
            "no lock; command not copied back".to_owned()
        } else {
            format!("{}; command copied back", locks(c.vm))
        };
        vec![
            axis("KVM_TDX_CAPABILITIES", capabilities),
            axis("KVM_TDX_INIT_VM", own(&[c.vm, c.init_vm])),
            axis("KVM_TDX_FINALIZE_VM", own(&[c.vm, c.finalize_vm])),
            axis(
                "KVM_TDX_INIT_VCPU",
                vcpu_command(TdxCmdId::KVM_TDX_INIT_VCPU, c.init_vcpu, &[]),
            ),
            axis(
                "KVM_TDX_INIT_MEM_REGION",
                vcpu_command(
                    TdxCmdId::KVM_TDX_INIT_MEM_REGION,
                    c.init_mem_region,
                    c.init_mem_region_tested,
                ),
            ),
            axis(
                "KVM_TDX_GET_CPUID",
                c.unlocked.then(under_its_mutex(c.get_cpuid)),
            ),
            axis("unlocked vCPU ioctls", c.unlocked.says()),
            axis("state tested again under own locks", yes(c.retest_state)),
            axis("bytes of kvm_tdx_cmd copied in", c.cmd_bytes.to_string()),
        ]
    }

    /// What sets this discipline apart from another one.
    pub fn differences(&self, other: &Discipline) -> Vec<Difference> {
        let pairs = self.axes().into_iter().zip(other.axes());
        pairs
            .filter(|(here, there)| here.value != there.value)
            .map(|(here, there)| Difference {
                axis: here.name,
                here: here.value,
                there: there.value,
            })
            .collect()
    }
}

impl Seal {
    fn axes(self) -> [Axis; 7] {
        let axis = |name, value| Axis {
            name,
            value: yes(value),
        };
        [
            axis("mmu_lock around MR.EXTEND", self.extend_under_mmu_lock),
            axis("cpus_read_lock around the TDR's own", self.cpus_stay_online),
            axis(
                "FINALIZE without a vCPU is -EINVAL",
                self.finalize_wants_a_vcpu,
            ),
            axis("EPT levels by GPAW, not CPUID", self.levels_of_the_td),
            axis(
                "NMI for a disabled vCPU is dropped",
                self.late_nmi_is_dropped,
            ),
            axis(
                "pre-faulting before INIT_VCPU is -EINVAL",
                self.prefault_wants_init,
            ),
            axis(
                "memory error unlocks the folio first",
                self.error_unlocks_folio,
            ),
        ]
    }
}

fn text(says: &str) -> String {
    says.to_owned()
}

fn yes(value: bool) -> String {
    text(if value { "yes" } else { "no" })
}

/// Locks in the order in which they are taken.
fn locks(steps: &[Step]) -> String {
    if steps.is_empty() {
        return text("no lock");
    }
    let words: Vec<_> = steps.iter().map(|step| step.says()).collect();
    words.join(" > ")
}

fn under_its_mutex(steps: &[Step]) -> String {
    let own = "its vcpu->mutex";
    if steps.is_empty() {
        return text(own);
    }
    format!("{own} > {}", locks(steps))
}

impl Step {
    /// The step in a list of locks.
    pub const fn says(self) -> &'static str {
        match self {
            Step::KvmLock => "kvm->lock",
            Step::RefuseCreationInFlight => "(created == online)",
            Step::AllVcpuMutexes => "every vcpu->mutex",
            Step::SlotsLock => "slots_lock",
        }
    }
}

impl Unlocked {
    /// How a command of the locked path starts.
    fn then(self, locked: String) -> String {
        match self {
            Unlocked::Nothing | Unlocked::Only(_) => locked,
            Unlocked::AfterLocks(_) => format!("the guard, given back; then {locked}"),
        }
    }

    fn says(self) -> String {
        let names = |ids: &[TdxCmdId]| {
            let names: Vec<_> = ids.iter().filter_map(|id| id.name()).collect();
            names.join(", ")
        };
        match self {
            Unlocked::Nothing => text("none"),
            Unlocked::Only(ids) => format!("{}; others take no lock first", names(ids)),
            Unlocked::AfterLocks(ids) => format!("{}; others after the guard", names(ids)),
        }
    }
}

impl CreateVcpu {
    const fn says(self) -> &'static str {
        match self {
            CreateVcpu::UnderKvmLock => "kvm->lock from start to end",
            CreateVcpu::UnlockedMiddle => "built without a lock; kvm->lock to begin and to publish",
        }
    }
}

impl Population {
    const fn says(self) -> &'static str {
        match self {
            Population::MapGivenPfn => "PAGE.ADD under mmu_lock as the mirror entry is set",
            Population::Premap => {
                "mirror entry premapped by a simulated fault, PAGE.ADD later without mmu_lock"
            }
        }
    }
}

impl GmemPopulate {
    const fn says(self) -> &'static str {
        match self {
            GmemPopulate::PinsFirst => "source pinned before filemap_invalidate_lock",
            GmemPopulate::TracksPreparation => {
                "-EEXIST for a prepared page; source pinned under filemap_invalidate_lock"
            }
        }
    }
}

impl ExtendFailure {
    const fn says(self) -> &'static str {
        match self {
            ExtendFailure::Bugs => "VM bugged, -EIO",
            ExtendFailure::Eio => "-EIO, the VM lives",
            ExtendFailure::BusyToUser => "-EBUSY when busy, else -EIO, the VM lives",
        }
    }
}

impl InvalidSlot {
    const fn says(self) -> &'static str {
        match self {
            InvalidSlot::Retries => "retries for ever inside its SRCU section",
            InvalidSlot::GivesUp => "-EAGAIN",
        }
    }
}

impl SevInFlight {
    const fn says(self) -> &'static str {
        match self {
            SevInFlight::Ignored => "not looked at",
            SevInFlight::Tested => "-EBUSY by its own test",
            SevInFlight::ByLockAllVcpus => "refused by kvm_lock_all_vcpus",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::*;

    #[test]
    fn every_discipline_has_its_own_name_and_differs_from_every_other() {
        let names: BTreeSet<_> = DISCIPLINES.iter().map(|d| d.name).collect();
        assert_eq!(names.len(), DISCIPLINES.len());
        for (i, a) in DISCIPLINES.iter().enumerate() {
            assert!(std::ptr::eq(by_name(a.name).unwrap(), *a));
            assert!(!a.source.is_empty() && a.differences(a).is_empty());
            for b in &DISCIPLINES[i + 1..] {
                assert!(!a.differences(b).is_empty(), "{} and {}", a.name, b.name);
            }
        }
    }

    #[test]
    fn a_mutant_leaves_out_one_thing_of_what_its_summary_names() {
        let base = |d: &Discipline| by_name(d.summary.split([',', ' ']).next().unwrap()).unwrap();
        for mutant in DISCIPLINES.iter().filter(|d| d.kind == Kind::Mutant) {
            let axes: Vec<_> = mutant
                .differences(base(mutant))
                .iter()
                .map(|d| d.axis)
                .collect();
            let guard = [
                "KVM_TDX_INIT_VM",
                "KVM_TDX_FINALIZE_VM",
                "KVM_TDX_INIT_VCPU",
                "KVM_TDX_INIT_MEM_REGION",
            ];
            let expected: &[&str] = match mutant.name {
                "no-mmu-lock" => &["mmu_lock around VP.INIT"],
                "init-vcpu-unguarded" => &["KVM_TDX_INIT_VCPU", "unlocked vCPU ioctls"],
                "finalize-unguarded" => &["KVM_TDX_FINALIZE_VM"],
                "sev-unchecked" => &["SEV migration, vCPU in creation"],
                "guardslots" => &["KVM_TDX_INIT_VCPU", "KVM_TDX_GET_CPUID"],
                _ => &guard,
            };
            assert_eq!(axes, expected, "{}", mutant.name);
        }
    }

    #[test]
    fn the_mails_order_has_slots_lock_outside_of_the_vcpu_mutexes_and_the_merged_one_inside() {
        let order = |d: &Discipline| {
            let axes = d.axes();
            let region = axes.iter().find(|a| a.name == "KVM_TDX_INIT_MEM_REGION");
            region.unwrap().value.clone()
        };
        let mail = "kvm->lock > slots_lock > (created == online) > every vcpu->mutex";
        let merged = "kvm->lock > (created == online) > every vcpu->mutex > slots_lock";
        assert_eq!((order(&SEED), order(&SEED_24)), (mail.into(), mail.into()));
        assert_eq!(
            (order(&V6_19), order(&V7_3)),
            (merged.into(), merged.into())
        );
        assert_eq!(order(&V6_16), "its vcpu->mutex > slots_lock");
    }
}
