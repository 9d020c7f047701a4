//! What must hold when all threads have stopped.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use seamlock_kvm::discipline::{Kind, Population};
use seamlock_kvm::tdx::TdState;
use seamlock_kvm::{Control, Kvm, close};
use seamlock_tdx_abi::Leaf;
use seamlock_tdx_abi::kvm::TdxCmdId;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::sept::{SeptEntry, SeptInfo, SeptState};
use seamlock_tdx_abi::{Gfn, Hpa, TdxStatus};

use super::client::{Client, MM};
use super::finding::{Blame, Finding};
use super::ledger::compare;
use super::ops::gmem_of;
use super::replay::{Replayer, mrtd};
use super::world::{Vm, World};

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Looked {
    /// VMs.
    pub vms: u64,
    /// Pages of guests, in the mirror and in the secure EPT.
    pub leaves: u64,
    /// MRTDs that were compared with a replay.
    pub replays: u64,
}

impl std::ops::AddAssign for Looked {
    fn add_assign(&mut self, more: Looked) {
        self.vms += more.vms;
        self.leaves += more.leaves;
        self.replays += more.replays;
    }
}

/// Looks at everything while the VMs are there, and again when they are gone.
pub fn audit(world: &World, replayer: &Replayer) -> Looked {
    let audit = Audit {
        world,
        control: Control::on(world.cpus.with(|cpus| cpus[0])),
    };
    let mut looked = Looked::default();
    audit.locks();
    audit.module_while_vms_are_there();
    audit.sev_guests();
    for slot in 0..world.slots.len() {
        if let Some(vm) = world.vm(slot) {
            looked.vms += 1;
            audit.counts(&vm);
            audit.vmsas(&vm.kvm);
            looked.leaves += audit.mirror(&vm.kvm);
            looked.replays += u64::from(audit.measurement(&vm, replayer));
        }
    }
    audit.close_all();
    audit.nothing_is_left();
    looked
}

struct Audit<'a> {
    world: &'a World,
    control: Control,
}

impl Audit<'_> {
    fn client(&self) -> Client<'_> {
        Client::new(&self.world.files, &self.control, &self.world.sources)
    }

    /// A finding; this program's fault unless a bug of KVM's came before, or KVM lacks something on
    /// purpose.
    fn find(&self, check: &'static str, kvm: Option<&Kvm>, what: String) {
        let mutant = self.world.host.discipline().kind == Kind::Mutant;
        let bugged = kvm.is_some_and(|kvm| !kvm.bugs().is_empty());
        let blame = if mutant || bugged {
            Blame::Discipline
        } else {
            Blame::Seamlock
        };
        self.find_as(blame, check, kvm, what);
    }

    fn find_as(&self, blame: Blame, check: &'static str, kvm: Option<&Kvm>, what: String) {
        self.find_with(blame, check, kvm, what, Vec::new());
    }

    fn find_with(
        &self,
        blame: Blame,
        check: &'static str,
        kvm: Option<&Kvm>,
        what: String,
        detail: Vec<String>,
    ) {
        let watch = &self.world.watch;
        let number = kvm.map_or(0, |kvm| kvm.number);
        watch.findings.add(Finding {
            blame,
            detail,
            ..watch.finding(check, number, what)
        });
    }

    fn locks(&self) {
        let host = &self.world.host;
        let mut held = host.held_locks();
        for kvm in host.live_vms() {
            held.extend(kvm.held_locks());
        }
        if !held.is_empty() {
            let names: Vec<_> = held.iter().map(|name| name.to_string()).collect();
            let names = names.join(", ");
            let what = format!("held though no thread is in the kernel: {names}");
            self.find("no lock is held", None, what);
        }
        for vm in (0..self.world.slots.len()).filter_map(|slot| self.world.vm(slot)) {
            for open in vm.gmems.with(|gmems| gmems.clone()) {
                if gmem_of(&open).is_some_and(|gmem| gmem.is_locked()) {
                    let what = format!("filemap_invalidate_lock of descriptor {} is held", open.fd);
                    self.find("no guest_memfd is locked", Some(&vm.kvm), what);
                }
            }
        }
    }

    /// The module's books, and that they have as many private pages as the mirrors.
    fn module_while_vms_are_there(&self) {
        let host = &self.world.host;
        let vms = host.live_vms();
        match host.module().audit() {
            Err(faults) => {
                for fault in faults {
                    self.find("module audit", None, fault.to_string());
                }
            }
            Ok(books) => {
                let leaves = |kvm: &Arc<Kvm>| kvm.mirror().leaves().len() as u64;
                let mirrored: u64 = vms.iter().map(leaves).sum();
                let premapped: u64 = vms.iter().map(|kvm| kvm.tdx().nr_premapped()).sum();
                if books.private_pages != mirrored - premapped && !self.world.watch.is_spoiled() {
                    let what = format!(
                        "the mirrors have {mirrored} pages, the secure EPTs {}",
                        books.private_pages
                    );
                    self.find("as many pages in both", None, what);
                }
                if books.guests != 0 {
                    let what = format!("{} guests run", books.guests);
                    self.find("no guest runs", None, what);
                }
            }
        }
    }

    fn counts(&self, vm: &Vm) {
        let (created, online) = vm.kvm.vcpu_counts();
        let given = vm.created.load(Relaxed);
        if created != online || online != given {
            let what = format!(
                "created_vcpus {created}, online_vcpus {online}, KVM_CREATE_VCPU succeeded {given} times"
            );
            self.find("vCPU counts", Some(&vm.kvm), what);
        }
    }

    /// A guest of SEV's is in one VM.
    fn sev_guests(&self) {
        let mut seen = BTreeSet::new();
        for kvm in self.world.host.live_vms() {
            if let Some(asid) = kvm.sev().asid().filter(|asid| !seen.insert(*asid)) {
                let what = format!("the guest of ASID {asid} is in two VMs");
                self.find("an SEV guest is in one VM", Some(&kvm), what);
            }
        }
    }

    /// The vCPUs of an SEV-ES VM have a VMSA, and no others.
    fn vmsas(&self, kvm: &Kvm) {
        let stale = kvm.stale_sev_vcpus();
        if !stale.is_empty() {
            let watch = &self.world.watch;
            let es = kvm.sev().is_es();
            let what = format!("is_es is {es}, and vCPUs {stale:?} are not such");
            watch.findings.add(Finding {
                blame: Blame::Discipline,
                race: Some("R8"),
                ..watch.finding("VMSAs fit their VM", kvm.number, what)
            });
        }
    }

    /// Every leaf of the mirror: the secure EPT has it, the guest_memfd has the page, and the frame is
    /// private. How many there are.
    fn mirror(&self, kvm: &Kvm) -> u64 {
        let leaves = kvm.mirror().leaves();
        if kvm.is_dead() {
            // What a bug leaves behind is no news.
            return 0;
        }
        let premapped = kvm.tdx().nr_premapped();
        let mut missing = 0;
        for &(gfn, page) in &leaves {
            if let Some(why) = self.backing(kvm, Gfn(gfn), Hpa(page)) {
                self.find("a leaf has its page", Some(kvm), why);
            }
            if self.sept_page(kvm, Gfn(gfn)) != Some(Hpa(page)) {
                missing += 1;
            }
        }
        if missing != 0 {
            let premaps = kvm.discipline.population == Population::Premap;
            let blame = if premaps && missing == premapped {
                Blame::Discipline
            } else {
                Blame::Seamlock
            };
            let what = format!("{missing} pages of the mirror are not in the secure EPT");
            self.find_as(blame, "mirror equals S-EPT", Some(kvm), what);
        }
        leaves.len() as u64
    }

    /// What the secure EPT maps at a frame (TDH.MEM.SEPT.RD).
    fn sept_page(&self, kvm: &Kvm, gfn: Gfn) -> Option<Hpa> {
        let mut regs = Regs {
            rcx: gfn.gpa().0,
            rdx: kvm.tdx().tdr()?.0,
            ..Regs::call(Leaf::MEM_SEPT_RD)
        };
        let _ = self.world.host.module().seamcall(0, &mut regs);
        let state = Some(SeptInfo::from_rdx(regs.rdx).state);
        let mapped = [SeptState::MAPPED, SeptState::PENDING]
            .iter()
            .any(|known| known.rdx_state() == state);
        let entry = SeptEntry::from_bits_retain(regs.rcx);
        (regs.status() == TdxStatus::SUCCESS && mapped).then(|| entry.hpa())
    }

    /// Why a frame must not be mapped to a page; None when it may.
    fn backing(&self, kvm: &Kvm, gfn: Gfn, page: Hpa) -> Option<String> {
        let at = gfn.gpa();
        if !kvm.is_private(gfn) {
            return Some(format!("{at} is mapped, and not private"));
        }
        let Some(slot) = kvm.memslots().of_gfn(gfn) else {
            return Some(format!("{at} is mapped, and in no memslot"));
        };
        let file = slot.gmem_file();
        let gmem = file.as_deref().and_then(|file| match file.kind() {
            seamlock_kvm::file::Kind::Gmem(gmem) => Some(gmem),
            _ => None,
        });
        let Some(gmem) = gmem else {
            return Some(format!("{at} is mapped, and its guest_memfd closed"));
        };
        let there = gmem.page(slot.gmem_index(gfn));
        (there != Some(page)).then(|| format!("{at} maps {page}, its guest_memfd has {there:?}"))
    }

    /// MRTD against that of a replay. A TD that is being built is finalized for it. Whether it was
    /// compared.
    fn measurement(&self, vm: &Vm, replayer: &Replayer) -> bool {
        let client = self.client();
        if vm.kvm.is_dead() {
            return false;
        }
        if vm.kvm.tdx().state() != TdState::Runnable {
            let id = TdxCmdId::KVM_TDX_FINALIZE_VM;
            let has_vcpu = vm.kvm.vcpus().any(|vcpu| vcpu.tdvpr().is_some());
            if !has_vcpu || client.tdx(&vm.open.file, id, 0, 0).is_err() {
                return false;
            }
        }
        let journal = vm.journal.with(|journal| journal.clone());
        if journal.unknown {
            return false;
        }
        let ours = mrtd(&self.world.host, &vm.open.file);
        match (ours, replayer.mrtd(&journal)) {
            (Ok(ours), Ok(theirs)) if ours == theirs => {}
            (Ok(_), Ok(_)) => {
                let pages = journal.pages.len();
                let what = format!(
                    "MRTD is not that of the {pages} pages that INIT_MEM_REGION says it added"
                );
                // Under these a failed call leaves something measured.
                let outcomes = &vm.kvm.discipline.outcomes;
                let loses = outcomes.mr_extend != seamlock_kvm::discipline::ExtendFailure::Bugs;
                let blame = if loses {
                    Blame::Discipline
                } else {
                    Blame::Seamlock
                };
                let made = vm
                    .kvm
                    .tdx()
                    .tdr()
                    .map(|tdr| self.world.watch.ledger.of(tdr));
                let detail = compare(&journal, &made.unwrap_or_default());
                self.find_with(blame, "MRTD equals its replay", Some(&vm.kvm), what, detail);
            }
            (Err(error), _) => {
                let what = format!("MRTD can't be read: {error:#}");
                self.find("MRTD equals its replay", Some(&vm.kvm), what);
            }
            (_, Err(error)) => {
                let what = format!("the replay fails: {error:#}");
                self.find("MRTD equals its replay", Some(&vm.kvm), what);
            }
        }
        true
    }

    fn close_all(&self) {
        let client = self.client();
        for slot in &self.world.slots {
            slot.with(|vm| *vm = None);
        }
        for fd in self.world.files.open_fds() {
            // Open a moment ago, and there is nobody else.
            let _ = close(&client.task(MM), fd);
        }
    }

    /// Every VM ended, and everything came back. A round in which a VM was bugged is not looked at: what
    /// that cost is known.
    fn nothing_is_left(&self) {
        if self.world.watch.is_spoiled() {
            return;
        }
        let host = &self.world.host;
        let listed: usize = host.cpus().iter().map(|cpu| cpu.associated().len()).sum();
        let left = [
            ("no VM leaks", "VMs", host.live_vms().len() as u64),
            ("no page leaks", "pages", host.pages().in_use()),
            (
                "no HKID leaks",
                "HKIDs",
                (self.world.hkids - host.free_hkids()) as u64,
            ),
            (
                "no descriptor leaks",
                "descriptors",
                self.world.files.open_fds().len() as u64,
            ),
            (
                "no vCPU stays listed",
                "vCPUs on per-CPU lists",
                listed as u64,
            ),
        ];
        for (check, what, count) in left {
            // To v6.16 a vCPU whose creation fails stays on a list (R5).
            let discipline =
                what.starts_with("vCPUs") && !host.discipline().vcpu_free_disassociates;
            if count != 0 && !discipline {
                let what = format!("{count} {what} are left when all is closed");
                self.find(check, None, what);
            }
        }
        match host.module().audit() {
            Ok(books) if books.tds + books.control_pages + books.sept_pages == 0 => {}
            Ok(books) => {
                let what = format!("the TDX module still has {books:?}");
                self.find("the TDX module has no TD", None, what);
            }
            Err(faults) => {
                for fault in faults {
                    self.find("module audit", None, fault.to_string());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
