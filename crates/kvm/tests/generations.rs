//! What a page that could not be added or measured leaves behind, generation by generation, as far as
//! user space can tell: errno, the region that comes back, what a second try and FINALIZE_VM answer,
//! and the MRTD.
//!
//! Nothing is raced for: a SEAMCALL is made to fail where another vCPU's would have made it fail, or a
//! lock word of the module is held.

mod measured;
mod vmm;

use std::sync::Arc;

use measured::{Measured, mrtd};
use seamlock_kvm::bug::What;
use seamlock_kvm::discipline::{self, Discipline, GmemPopulate};
use seamlock_kvm::host::Fault;
use seamlock_kvm::{Options, fallocate};
use seamlock_sync::Mode;
use seamlock_tdx_abi::kvm::*;
use seamlock_tdx_abi::{Leaf, TdxStatus};
use seamlock_tdx_module::LockAt;
use vmm::{Reply, Td, Vmm, boot_with};

const GPA: u64 = 0x10_0000;
const PAGES: u64 = 3;
/// The page whose SEAMCALL fails.
const SECOND: u64 = GPA + 4096;
const BUSY: TdxStatus = TdxStatus::OPERAND_BUSY;
const OTHER: TdxStatus = TdxStatus::PAGE_METADATA_INCORRECT;

/// Disciplines that map a given page and bug the VM when MR.EXTEND fails.
const GUARDED: [&Discipline; 3] = [&discipline::SEED_24, &discipline::V6_19, &discipline::V7_3];

/// A TD with one vCPU, and three pages that it is to get. The `nth` call of `leaf` fails.
struct Bed {
    vmm: Vmm,
    td: Td,
    bytes: Vec<u8>,
    region: KvmTdxInitMemRegion,
}

impl Bed {
    fn sound(discipline: &'static Discipline) -> Bed {
        Bed::with(discipline, vec![])
    }

    fn failing(discipline: &'static Discipline, leaf: Leaf, nth: u64, status: TdxStatus) -> Bed {
        Bed::with(discipline, vec![Fault { leaf, nth, status }])
    }

    fn with(discipline: &'static Discipline, faults: Vec<Fault>) -> Bed {
        let vmm = boot_with(Options {
            discipline,
            inject: Some(Arc::new(faults)),
            ..Options::default()
        });
        let td = vmm.build(1);
        let bytes: Vec<u8> = (0..PAGES * 4096).map(|i| (i / 7) as u8).collect();
        let region = KvmTdxInitMemRegion {
            source_addr: vmm.process.map_copy(&bytes),
            gpa: GPA,
            nr_pages: PAGES,
        };
        Bed {
            vmm,
            td,
            bytes,
            region,
        }
    }

    /// MR.EXTEND of the second page fails at this chunk.
    fn extend_failing(discipline: &'static Discipline, chunk: u64, status: TdxStatus) -> Bed {
        Bed::failing(discipline, Leaf::MR_EXTEND, 16 + chunk + 1, status)
    }

    /// PAGE.ADD of the second page fails.
    fn add_failing(discipline: &'static Discipline, status: TdxStatus) -> Bed {
        Bed::failing(discipline, Leaf::MEM_PAGE_ADD, 2, status)
    }

    /// KVM_TDX_INIT_MEM_REGION with what is left of the region.
    fn load(&mut self) -> Reply {
        self.vmm.load(self.td.vcpus[0], &mut self.region, true)
    }

    fn finalize(&self) -> Reply {
        self.vmm.finalize(&self.td)
    }

    fn punch(&self, gpa: u64) {
        let task = self.vmm.process.task(&self.vmm.control);
        fallocate(&task, self.td.gmem, 3, gpa, 4096).expect("PUNCH_HOLE");
    }

    /// Where the region points to: the page that comes next.
    fn next(&self) -> (u64, u64) {
        (self.region.gpa, self.region.nr_pages)
    }

    fn bugs(&self) -> Vec<Leaf> {
        let bugs = self.vmm.host.live_vms()[0].bugs();
        let leaf = |what: &What| match what {
            What::Seamcall { leaf, .. } => *leaf,
            What::Condition(what) => panic!("{what}"),
        };
        bugs.iter().map(|bug| leaf(&bug.what)).collect()
    }

    fn premapped(&self) -> u64 {
        self.vmm.host.live_vms()[0].tdx().nr_premapped()
    }

    fn made(&self, leaf: Leaf) -> u64 {
        self.vmm.host.counters().made(leaf)
    }

    fn page(&self, index: u64) -> &[u8] {
        &self.bytes[index as usize * 4096..][..4096]
    }

    /// All three pages, once each.
    fn exact(&self) -> Measured {
        let mut measured = Measured::default();
        (0..PAGES).for_each(|i| measured.page(GPA + i * 4096, self.page(i)));
        measured
    }

    /// Everything comes back, and nothing was a bug.
    fn assert_clean_end(self) {
        self.vmm.drop_td(&self.td);
        let end = self.vmm.host.teardowns().pop().expect("the VM is gone");
        let left = (end.pages_leaked, end.hkid_returned, end.bugs);
        assert_eq!(left, (0, true, 0));
    }
}

#[test]
fn v6_16_a_lost_page_add_is_eexist_then_and_einval_at_finalize_until_the_hole_is_punched() {
    for (status, errno) in [(BUSY, Errno::EBUSY), (OTHER, Errno::EIO)] {
        let mut bed = Bed::add_failing(&discipline::V6_16, status);
        assert_eq!((bed.load(), bed.next()), (Err(errno), (SECOND, 2)));
        assert_eq!((bed.premapped(), bed.bugs()), (1, vec![]));
        // guest_memfd refuses: the second PAGE.ADD is never made.
        assert_eq!((bed.load(), bed.next()), (Err(Errno::EEXIST), (SECOND, 2)));
        assert_eq!(bed.made(Leaf::MEM_PAGE_ADD), 2);
        assert_eq!(bed.finalize(), Err(Errno::EINVAL));
        bed.punch(SECOND);
        assert_eq!(bed.premapped(), 0);
        assert_eq!((bed.load(), bed.next().1), (Ok(0), 0));
        assert_eq!(bed.finalize(), Ok(0));
        assert_eq!(mrtd(&bed.vmm), bed.exact().value());
        bed.assert_clean_end();
    }
}

#[test]
fn v6_16_whatever_zaps_the_premapped_page_lets_the_td_be_finalized_but_only_a_hole_lets_it_be_redone()
 {
    type Zap = fn(&mut Bed);
    let attributes: Zap = |bed| {
        bed.vmm.attributes(bed.td.vm, SECOND, 4096, 0).unwrap();
        let private = KVM_MEMORY_ATTRIBUTE_PRIVATE;
        bed.vmm
            .attributes(bed.td.vm, SECOND, 4096, private)
            .unwrap();
    };
    let slot: Zap = |bed| {
        bed.vmm.slot(&bed.td, 0, 0, 0).unwrap();
        bed.vmm.slot(&bed.td, 0, 0, vmm::MEMORY).unwrap();
    };
    let close: Zap = |bed| {
        bed.vmm.close(bed.td.gmem);
        bed.td.gmem = 0;
    };
    for (zap, again) in [
        (attributes, Errno::EEXIST),
        (slot, Errno::EEXIST),
        (close, Errno::EFAULT),
    ] {
        let mut bed = Bed::add_failing(&discipline::V6_16, BUSY);
        assert_eq!(bed.load(), Err(Errno::EBUSY));
        zap(&mut bed);
        assert_eq!(bed.premapped(), 0);
        assert_eq!(bed.load(), Err(again));
        assert_eq!(bed.finalize(), Ok(0));
        bed.assert_clean_end();
    }
}

#[test]
fn v6_16_a_lost_mr_extend_leaves_a_td_that_finalizes_with_an_mrtd_nobody_can_predict() {
    for chunk in [0, 5, 15] {
        let mut bed = Bed::extend_failing(&discipline::V6_16, chunk, BUSY);
        // -EIO even for busy, and nothing is printed.
        assert_eq!((bed.load(), bed.next()), (Err(Errno::EIO), (SECOND, 2)));
        assert_eq!((bed.premapped(), bed.bugs()), (0, vec![]));
        assert_eq!(bed.load(), Err(Errno::EEXIST));
        assert_eq!(bed.finalize(), Ok(0));
        let mut measured = Measured::default();
        measured.page(GPA, bed.page(0));
        measured.add(SECOND);
        measured.chunks(SECOND, bed.page(1), 0..chunk);
        assert_eq!(mrtd(&bed.vmm), measured.value());
        bed.assert_clean_end();
    }
}

#[test]
fn v6_16_punching_the_hole_after_a_lost_mr_extend_lets_it_be_redone_but_the_first_add_stays_measured()
 {
    let mut bed = Bed::extend_failing(&discipline::V6_16, 5, BUSY);
    assert_eq!(bed.load(), Err(Errno::EIO));
    bed.punch(SECOND);
    assert_eq!((bed.load(), bed.finalize()), (Ok(0), Ok(0)));
    let mut measured = Measured::default();
    measured.page(GPA, bed.page(0));
    measured.add(SECOND);
    measured.chunks(SECOND, bed.page(1), 0..5);
    measured.page(SECOND, bed.page(1));
    measured.page(SECOND + 4096, bed.page(2));
    assert_eq!(mrtd(&bed.vmm), measured.value());
    assert_ne!(mrtd(&bed.vmm), bed.exact().value());
    bed.assert_clean_end();
}

#[test]
fn a_signal_before_a_page_costs_nothing_in_any_generation() {
    for discipline in discipline::DISCIPLINES.iter().filter(|d| d.name != "seed") {
        let mut bed = Bed::sound(discipline);
        bed.vmm.control.signal(false);
        assert_eq!((bed.load(), bed.next()), (Err(Errno::EINTR), (GPA, PAGES)));
        bed.vmm.control.clear_signals();
        assert_eq!((bed.load(), bed.finalize()), (Ok(0), Ok(0)));
        assert_eq!(mrtd(&bed.vmm), bed.exact().value(), "{}", discipline.name);
        bed.assert_clean_end();
    }
}

/// Loads a page whose tables are missing while somebody has the TDR, and sends a signal once
/// SEPT.ADD has been busy.
fn interrupt_a_retry(bed: &mut Bed) -> Reply {
    bed.region.gpa = 0x40_0000;
    bed.region.nr_pages = 1;
    let tdr = bed.vmm.host.live_vms()[0].tdx().tdr().expect("a TD");
    let (at, mode) = (LockAt::Page(tdr), Mode::Exclusive);
    let before = bed.made(Leaf::MEM_SEPT_ADD);
    let (vmm, vcpu, region) = (&bed.vmm, bed.td.vcpus[0], &mut bed.region);
    std::thread::scope(|scope| {
        vmm.host.module().hold(at, mode).expect("the TDR is free");
        let loading = scope.spawn(|| vmm.load(vcpu, region, true));
        while vmm.host.counters().made(Leaf::MEM_SEPT_ADD) == before {
            std::thread::yield_now();
        }
        vmm.control.signal(false);
        let reply = loading.join().expect("no panic");
        vmm.host.module().release(at, mode);
        vmm.control.clear_signals();
        reply
    })
}

#[test]
fn a_signal_after_a_retry_makes_the_page_up_to_date_only_where_the_fault_is_simulated() {
    let rows: [(&Discipline, Reply); 4] = [
        (&discipline::V6_16, Err(Errno::EEXIST)),
        (&discipline::SEED_24, Ok(0)),
        (&discipline::V6_19, Ok(0)),
        (&discipline::V7_3, Ok(0)),
    ];
    for (discipline, again) in rows {
        let mut bed = Bed::sound(discipline);
        // The vCPU has its roots from here on, so that the next load makes no VP.WR.
        assert_eq!(bed.load(), Ok(0));
        bed.region.source_addr -= PAGES * 4096;
        assert_eq!(interrupt_a_retry(&mut bed), Err(Errno::EINTR));
        assert_eq!(bed.load(), again, "{}", discipline.name);
        if again.is_err() {
            bed.punch(0x40_0000);
            assert_eq!(bed.load(), Ok(0));
        }
        assert_eq!(bed.finalize(), Ok(0));
        let mut measured = bed.exact();
        measured.page(0x40_0000, bed.page(0));
        assert_eq!(mrtd(&bed.vmm), measured.value());
        bed.assert_clean_end();
    }
}

#[test]
fn a_page_that_is_done_is_eexist_until_v6_19_and_eio_today() {
    for discipline in discipline::DISCIPLINES.iter().filter(|d| d.name != "seed") {
        let mut bed = Bed::sound(discipline);
        let whole = bed.region;
        assert_eq!(bed.load(), Ok(0));
        bed.region = whole;
        let expected = match discipline.gmem {
            GmemPopulate::PinsFirst => Errno::EIO,
            GmemPopulate::TracksPreparation => Errno::EEXIST,
        };
        let again = (bed.load(), bed.next());
        let name = discipline.name;
        assert_eq!(again, (Err(expected), (GPA, PAGES)), "{name}");
        assert_eq!((bed.bugs(), bed.finalize()), (vec![], Ok(0)), "{name}");
        assert_eq!(mrtd(&bed.vmm), bed.exact().value(), "{name}");
        bed.assert_clean_end();
    }
}

#[test]
fn a_busy_page_add_goes_unseen_where_a_given_page_is_mapped_and_another_failure_is_a_bug() {
    let milder = [&discipline::RETRY, &discipline::SLOTS];
    for discipline in GUARDED.into_iter().chain(milder) {
        let mut bed = Bed::add_failing(discipline, BUSY);
        assert_eq!((bed.load(), bed.finalize()), (Ok(0), Ok(0)));
        assert_eq!(bed.made(Leaf::MEM_PAGE_ADD), PAGES + 1);
        assert_eq!(mrtd(&bed.vmm), bed.exact().value());
        bed.assert_clean_end();
        let mut bed = Bed::add_failing(discipline, OTHER);
        assert_eq!((bed.load(), bed.next()), (Err(Errno::EIO), (SECOND, 2)));
        assert_eq!(bed.bugs(), [Leaf::MEM_PAGE_ADD]);
        assert_eq!(bed.finalize(), Err(Errno::EIO));
    }
}

#[test]
fn a_lost_mr_extend_bugs_the_vm_from_the_guard_on() {
    for discipline in GUARDED {
        for status in [BUSY, OTHER] {
            let mut bed = Bed::extend_failing(discipline, 5, status);
            assert_eq!((bed.load(), bed.next()), (Err(Errno::EIO), (SECOND, 2)));
            assert_eq!(bed.bugs(), [Leaf::MR_EXTEND], "{}", discipline.name);
            assert_eq!(
                (bed.load(), bed.finalize()),
                (Err(Errno::EIO), Err(Errno::EIO))
            );
        }
    }
}

#[test]
fn retry_succeeds_at_the_second_try_and_measures_the_chunks_before_the_failure_twice() {
    for chunk in [0, 5, 15] {
        let mut bed = Bed::extend_failing(&discipline::RETRY, chunk, BUSY);
        assert_eq!((bed.load(), bed.next()), (Err(Errno::EBUSY), (SECOND, 2)));
        assert_eq!((bed.load(), bed.finalize()), (Ok(0), Ok(0)));
        // The page is there: it is not added again.
        assert_eq!(bed.made(Leaf::MEM_PAGE_ADD), PAGES);
        let mut measured = Measured::default();
        measured.page(GPA, bed.page(0));
        measured.add(SECOND);
        measured.chunks(SECOND, bed.page(1), 0..chunk);
        measured.chunks(SECOND, bed.page(1), 0..16);
        measured.page(SECOND + 4096, bed.page(2));
        assert_eq!(mrtd(&bed.vmm), measured.value());
        let exact = bed.exact().value() == mrtd(&bed.vmm);
        assert_eq!(exact, chunk == 0, "a success return, chunk {chunk}");
        bed.assert_clean_end();
    }
}

#[test]
fn slots_has_no_way_back_from_a_lost_mr_extend_but_the_hole() {
    let mut bed = Bed::extend_failing(&discipline::SLOTS, 5, BUSY);
    assert_eq!(bed.load(), Err(Errno::EBUSY));
    // The mapping is spurious, which is -EIO on RFC v2; the VM lives.
    assert_eq!((bed.load(), bed.bugs()), (Err(Errno::EIO), vec![]));
    bed.punch(SECOND);
    assert_eq!((bed.load(), bed.finalize()), (Ok(0), Ok(0)));
    assert_ne!(mrtd(&bed.vmm), bed.exact().value());
    bed.assert_clean_end();
}
