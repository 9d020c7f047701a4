//! Each invariant can fail: something is broken behind KVM's back, and the audit says so.

mod halfway;

use std::time::Instant;

use seamlock_kvm::discipline::V7_3;
use seamlock_kvm::mmu::Spte;
use seamlock_kvm::task::{self, UserMemory};
use seamlock_kvm::{Task, ioctl};
use seamlock_tdx_abi::PAGE_SIZE;
use seamlock_tdx_abi::kvm::KVM_MEMORY_ENCRYPT_OP;

use super::*;
use crate::stress::desk::Desk;
use crate::stress::finding::Findings;
use crate::stress::known;
use crate::stress::watch::Watch;
use crate::stress::worker::Worker;
use crate::stress::world::{Open, Shape, Stage, gpa_of};
use seamlock_kvm::file::Kind as FileKind;

const SHAPE: Shape = Shape {
    threads: 1,
    vms: 1,
    vcpus: 2,
};

fn boot() -> World {
    boot_with(false)
}

fn boot_with(amd: bool) -> World {
    let desk = Arc::new(Desk::new(SHAPE.threads));
    let faults = known::of(&V7_3).map(str::to_owned);
    let findings = Arc::new(Findings::knowing(faults));
    let watch = Watch::new(SHAPE.lps(), desk, findings, &V7_3, (1, 0), Instant::now());
    World::boot(SHAPE, &V7_3, None, Arc::new(watch), amd).expect("a machine")
}

/// Whether the VM is a TD that is being built, with pages, all calls accounted for.
fn is_rich(vm: &Vm) -> bool {
    let measured = vm
        .journal
        .with(|journal| journal.pages.iter().filter(|page| page.measured).count());
    vm.stage() == Stage::Building
        && vm.kvm.mirror().leaves().len() >= 2
        && measured >= 2
        && vm.kvm.bugs().is_empty()
        && vm.kvm.vcpus().any(|vcpu| vcpu.tdvpr().is_some())
}

/// A machine on which one thread has made random calls until there was a TD with pages.
fn world_with_a_td() -> (World, Arc<Vm>) {
    let world = boot();
    let mut worker = Worker::new(&world, 0, 1);
    for calls in 1..100_000 {
        worker.work(calls);
        if let Some(vm) = world.vm(0).filter(|vm| is_rich(vm)) {
            world.controls[0].clear_signals();
            return (world, vm);
        }
    }
    panic!("no TD with pages in 100,000 calls");
}

/// What the audit finds: the check and the text of each.
fn findings(world: &World) -> Vec<(&'static str, String)> {
    let replayer = Replayer::boot(SHAPE, &V7_3).expect("a machine");
    audit(world, &replayer);
    let all = world.watch.findings.all();
    all.into_iter()
        .map(|found| (found.check, found.what))
        .collect()
}

fn assert_found(found: &[(&str, String)], check: &str, text: &str) {
    let fits = |(c, what): &(&str, String)| *c == check && what.contains(text);
    assert!(found.iter().any(fits), "no {check}, {text}: {found:#?}");
}

/// A SEAMCALL that KVM knows nothing of.
fn seamcall(world: &World, regs: Regs) -> Regs {
    let mut regs = regs;
    let _ = world.host.module().seamcall(0, &mut regs);
    assert_eq!(regs.status(), TdxStatus::SUCCESS, "{}", regs.status());
    regs
}

fn at(leaf: Leaf, gpa: u64, vm: &Vm) -> Regs {
    Regs {
        rcx: gpa,
        rdx: vm.kvm.tdx().tdr().expect("a TDR").0,
        ..Regs::call(leaf)
    }
}

fn first_leaf(vm: &Vm) -> (u64, u64) {
    vm.kvm.mirror().leaves()[0]
}

#[test]
fn nothing_is_found_where_nothing_was_broken_and_mrtd_is_compared() {
    let (world, vm) = world_with_a_td();
    drop(vm);
    let replayer = Replayer::boot(SHAPE, &V7_3).expect("a machine");
    let looked = audit(&world, &replayer);
    assert!(
        world.watch.findings.is_empty(),
        "{:?}",
        world.watch.findings.all()
    );
    assert_eq!((looked.vms, looked.replays), (1, 1));
    assert!(looked.leaves >= 2);
}

#[test]
fn a_page_that_user_space_was_not_told_of_changes_mrtd_and_is_named() {
    let (world, vm) = world_with_a_td();
    vm.journal.with(|journal| {
        journal.pages.sort_unstable();
        journal.pages.pop();
    });
    drop(vm);
    assert_found(
        &findings(&world),
        "MRTD equals its replay",
        "MRTD is not that of",
    );
    let all = world.watch.findings.all();
    assert!(
        all[0]
            .detail
            .iter()
            .any(|line| line.contains("user space: nothing"))
    );
}

#[test]
fn a_measurement_that_kvm_did_not_make_changes_mrtd() {
    let (world, vm) = world_with_a_td();
    let (gfn, _) = first_leaf(&vm);
    seamcall(&world, at(Leaf::MR_EXTEND, Gfn(gfn).gpa().0, &vm));
    drop(vm);
    assert_found(
        &findings(&world),
        "MRTD equals its replay",
        "MRTD is not that of",
    );
}

#[test]
fn a_vcpu_too_many_is_told() {
    let (world, vm) = world_with_a_td();
    vm.created.fetch_add(1, Relaxed);
    drop(vm);
    assert_found(
        &findings(&world),
        "vCPU counts",
        "KVM_CREATE_VCPU succeeded",
    );
}

#[test]
fn a_page_that_left_the_secure_ept_alone_is_told() {
    let (world, vm) = world_with_a_td();
    let gpa = Gfn(first_leaf(&vm).0).gpa().0;
    seamcall(&world, at(Leaf::MEM_RANGE_BLOCK, gpa, &vm));
    seamcall(&world, at(Leaf::MEM_PAGE_REMOVE, gpa, &vm));
    drop(vm);
    let found = findings(&world);
    assert_found(
        &found,
        "mirror equals S-EPT",
        "1 pages of the mirror are not",
    );
    assert_found(&found, "as many pages in both", "the secure EPTs");
    // And KVM meets it when it takes the page out itself.
    assert_found(&found, "no KVM_BUG_ON", "TDH.MEM.RANGE.BLOCK");
}

#[test]
fn a_secure_ept_entry_that_leads_elsewhere_is_told_by_the_modules_books() {
    let (world, vm) = world_with_a_td();
    let (gfn, page) = first_leaf(&vm);
    // Nobody tells where the table is: it is the page with the entry at the right place.
    let memory = world.host.memory();
    let leads = |at: &Hpa| {
        let entry = SeptEntry::from_bits_retain(memory.read_u64(*at));
        entry.hpa() == Hpa(page) && entry.intersects(SeptEntry::RWX)
    };
    let tables = (0..memory.size()).step_by(PAGE_SIZE as usize);
    let mut entries = tables.map(|table| Hpa(table + gfn % 512 * 8));
    let at = entries.find(leads).expect("an entry");
    memory.write_u64(at, memory.read_u64(at) ^ PAGE_SIZE);
    drop(vm);
    assert_found(&findings(&world), "module audit", "");
}

#[test]
fn a_page_of_a_td_that_kvm_does_not_know_costs_the_tdr_and_is_told() {
    let (world, vm) = world_with_a_td();
    let known: Vec<u64> = vm
        .kvm
        .mirror()
        .leaves()
        .iter()
        .map(|(gfn, _)| *gfn)
        .collect();
    let free = (0..512)
        .find(|gfn| !known.contains(gfn))
        .expect("a free frame");
    // A page that is nobody's, far above what was handed out.
    let page = 2 << 30;
    let add = Regs {
        r8: page,
        r9: page + PAGE_SIZE,
        ..at(Leaf::MEM_PAGE_ADD, Gfn(free).gpa().0, &vm)
    };
    assert!(known.iter().any(|gfn| gfn >> 9 == 0), "a table of this GiB");
    seamcall(&world, add);
    drop(vm);
    let found = findings(&world);
    assert_found(&found, "no KVM_BUG_ON", "TDH.PHYMEM.PAGE.RECLAIM");
    assert_found(&found, "no page leaks", "pages are left");
    assert_found(&found, "the TDX module has no TD", "still has");
}

#[test]
fn a_reference_that_is_never_given_back_costs_a_vm_with_its_pages_and_hkid() {
    let (world, vm) = world_with_a_td();
    assert!(vm.open.file.get());
    let found = findings(&world);
    assert_found(&found, "no VM leaks", "1 VMs");
    assert_found(&found, "no HKID leaks", "1 HKIDs");
    assert_found(&found, "no page leaks", "pages are left");
}

/// User memory that calls back when it is read at an address.
struct Watching<'a> {
    memory: &'a dyn UserMemory,
    at: u64,
    then: &'a dyn Fn(),
}

impl UserMemory for Watching<'_> {
    fn read(&self, addr: u64, out: &mut [u8]) -> Result<(), task::Fault> {
        if addr == self.at {
            (self.then)();
        }
        self.memory.read(addr, out)
    }
    fn write(&self, addr: u64, bytes: &[u8]) -> Result<(), task::Fault> {
        self.memory.write(addr, bytes)
    }
}

#[test]
fn locks_that_are_held_are_told_by_name() {
    let (world, vm) = world_with_a_td();
    let control = Control::on(0);
    let client = Client::new(&world.files, &control, &world.sources);
    let arg = client.load(gpa_of(0), 0, 1, false);
    let (_, region) = client.pages();
    let audit = Audit {
        world: &world,
        control: Control::on(0),
    };
    // The region is read with the VM-state guard held.
    let memory = Watching {
        memory: &client.memory,
        at: region,
        then: &|| audit.locks(),
    };
    let ready = |open: &Open| matches!(open.file.kind(), FileKind::Vcpu(v) if v.tdvpr().is_some());
    let vcpu = vm
        .vcpus
        .with(|vcpus| vcpus.iter().find(|open| ready(open)).cloned());
    let file = vcpu.expect("an initialised vCPU").file;
    let task = Task::new(&control, MM, &memory, &world.files);
    let _ = ioctl(&task, &file, KVM_MEMORY_ENCRYPT_OP, arg);
    let all = world.watch.findings.all();
    let told: Vec<_> = all
        .iter()
        .map(|found| (found.check, found.what.clone()))
        .collect();
    for lock in ["kvm->lock", "vcpu->mutex", "kvm->slots_lock"] {
        assert_found(&told, "no lock is held", lock);
    }
}

#[test]
fn a_leaf_whose_page_its_guest_memfd_does_not_have_is_told() {
    let (world, vm) = world_with_a_td();
    let (gfn, page) = first_leaf(&vm);
    let root = vm.kvm.mirror().root().expect("a mirror");
    let elsewhere = Spte::present(Hpa(page ^ PAGE_SIZE));
    root.for_each_leaf(gfn, gfn + 1, &mut |_, entry| entry.store(elsewhere));
    drop(vm);
    let found = findings(&world);
    assert_found(&found, "a leaf has its page", "its guest_memfd has");
    assert_found(
        &found,
        "mirror equals S-EPT",
        "1 pages of the mirror are not",
    );
}

#[test]
fn a_leaf_where_the_guest_has_no_private_memory_is_told() {
    let (world, vm) = world_with_a_td();
    let (gfn, page) = first_leaf(&vm);
    // The last entry of its table, far beyond the memslot.
    let mut table = vm.kvm.mirror().root().expect("a mirror");
    while let Some(next) = table.child(table.index(gfn)) {
        table = next;
    }
    table.entry(511).store(Spte::present(Hpa(page)));
    drop(vm);
    let found = findings(&world);
    assert_found(&found, "a leaf has its page", "is mapped, and not private");
}
