//! The books notice what is wrong: each test breaks one thing behind the module's back.

use seamlock_sync::Mode;
use seamlock_tdx_abi::addr::Hpa;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::pamt::PageType;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_abi::td_params::{EptpControls, TdParams};
use zerocopy::{FromZeros, IntoBytes};

use super::{Accounting, Fault};
use crate::{LockAt, Module, Platform};

const TDR: u64 = 0x4000_0000;
const TDVPR: u64 = 0x4001_0000;
const TABLES: u64 = 0x4002_0000;
const PAGE: u64 = 0x4003_0000;

fn call(m: &Module, leaf: Leaf, [rcx, rdx, r8, r9]: [u64; 4]) {
    let mut regs = Regs {
        rcx,
        rdx,
        r8,
        r9,
        ..Regs::call(leaf)
    };
    let _ = m.seamcall(0, &mut regs);
    assert_eq!(regs.status(), TdxStatus::SUCCESS, "{leaf}");
}

/// A TD with two vCPU pages, three tables and one page.
fn module_with_td() -> Module {
    let m = Module::ready(Platform::sapphire_rapids(3 << 30, 2)).unwrap();
    call(&m, Leaf::MNG_CREATE, [TDR, 40, 0, 0]);
    call(&m, Leaf::MNG_KEY_CONFIG, [TDR, 0, 0, 0]);
    for i in 1..=6 {
        call(&m, Leaf::MNG_ADDCX, [TDR + i * 4096, TDR, 0, 0]);
    }
    let mut params = TdParams::new_zeroed();
    (params.xfam, params.max_vcpus, params.tsc_frequency) = (3, 1, 80);
    params.eptp_controls = EptpControls::WB_PWL4.0;
    m.memory().write(Hpa(0x1000), params.as_bytes()).unwrap();
    call(&m, Leaf::MNG_INIT, [TDR, 0x1000, 0, 0]);
    call(&m, Leaf::VP_CREATE, [TDVPR, TDR, 0, 0]);
    call(&m, Leaf::VP_ADDCX, [TDVPR + 4096, TDVPR, 0, 0]);
    for level in 1..=3 {
        call(
            &m,
            Leaf::MEM_SEPT_ADD,
            [4 - level, TDR, TABLES + level * 4096, 0],
        );
    }
    call(&m, Leaf::MEM_PAGE_ADD, [0, TDR, PAGE, 0x2000]);
    m
}

fn faults(m: &Module) -> Vec<Fault> {
    m.audit().expect_err("the fault is not noticed")
}

fn set_type(m: &Module, pa: u64, page_type: PageType) {
    m.chain(Hpa(pa)).unwrap().page.entry.set_type(page_type);
}

#[test]
fn a_td_under_construction_is_in_order() {
    let books = Accounting {
        tds: 1,
        vcpus: 1,
        guests: 0,
        control_pages: 9,
        sept_pages: 3,
        private_pages: 1,
        marks: vec![],
    };
    assert_eq!(module_with_td().audit(), Ok(books));
}

#[test]
fn a_word_left_held_is_noticed_and_a_mark_is_only_listed() {
    let m = module_with_td();
    let (page, tree) = (LockAt::Page(Hpa(PAGE)), LockAt::SeptTree(Hpa(TDR)));
    for at in [page, tree] {
        m.hold(at, Mode::Shared).unwrap();
        assert!(matches!(faults(&m)[..], [Fault::Held { readers: 0, .. }]));
        m.release(at, Mode::Shared);
    }
    m.hold(page, Mode::Shared).unwrap();
    assert!(m.hold(page, Mode::Exclusive).is_err());
    m.release(page, Mode::Shared);
    assert_eq!(m.audit().unwrap().marks.len(), 1);
}

#[test]
fn a_locked_entry_is_noticed() {
    let m = module_with_td();
    let tdr = Hpa(TDR);
    let gpa = seamlock_tdx_abi::addr::Gpa(0);
    m.hold(LockAt::Entry { tdr, gpa, level: 2 }, Mode::Exclusive)
        .unwrap();
    assert!(matches!(faults(&m)[..], [Fault::Held { .. }]));
}

#[test]
fn a_page_that_its_td_does_not_know_is_lost() {
    let m = module_with_td();
    let entry = &m.chain(Hpa(PAGE + 4096)).unwrap().page.entry;
    entry.assign(PageType::REG, Hpa(TDR));
    let found = faults(&m);
    assert!(
        found
            .iter()
            .any(|fault| matches!(fault, Fault::Miscounted { what: "pages", .. }))
    );
    assert!(
        found
            .iter()
            .any(|fault| matches!(fault, Fault::Lost { .. }))
    );
}

#[test]
fn a_page_that_is_mapped_and_free_is_noticed() {
    for (pa, expected) in [(PAGE, PageType::REG), (TABLES + 4096, PageType::EPT)] {
        let m = module_with_td();
        set_type(&m, pa, PageType::NDA);
        let wrong = Fault::NotItsPage {
            tdr: Hpa(TDR),
            page: Hpa(pa),
            expected,
        };
        assert!(faults(&m).contains(&wrong), "{:?}", faults(&m));
    }
}

#[test]
fn a_page_that_is_mapped_twice_is_noticed() {
    let m = module_with_td();
    let table = m.memory().frame(Hpa(TABLES + 3 * 4096)).unwrap();
    let first = table.words()[0].load(std::sync::atomic::Ordering::SeqCst);
    m.memory().write_u64(Hpa(TABLES + 3 * 4096 + 8), first);
    assert_eq!(
        faults(&m),
        [Fault::Twice {
            tdr: Hpa(TDR),
            page: Hpa(PAGE)
        }]
    );
}

#[test]
fn a_page_without_a_td_and_a_page_below_a_bigger_one_are_noticed() {
    let m = module_with_td();
    let chain = m.chain(Hpa(0x4020_0000)).unwrap();
    chain.page.entry.assign(PageType::REG, Hpa(0x5000));
    assert!(matches!(faults(&m)[..], [Fault::Orphan { .. }]));
    chain
        .entry(crate::pamt::PageSize::M2)
        .assign(PageType::REG, Hpa(0x5000));
    assert!(faults(&m).contains(&Fault::Covered {
        page: Hpa(0x4020_0000)
    }));
}

#[test]
fn a_key_of_two_tds_and_a_wrong_count_of_vcpus_are_noticed() {
    let m = module_with_td();
    let td = m.chain(Hpa(TDR)).unwrap().page.td().unwrap();
    td.num_assoc.fetch_add(1);
    let what = "associated vCPUs";
    let miscounted = Fault::Miscounted {
        tdr: Hpa(TDR),
        what,
        says: 1,
        is: 0,
    };
    assert_eq!(faults(&m), [miscounted]);
    td.num_assoc.fetch_sub(1);
    call(&m, Leaf::MNG_CREATE, [0x4004_0000, 41, 0, 0]);
    m.sys
        .kot(seamlock_tdx_abi::addr::Hkid(41))
        .state
        .store(crate::sys::KotState::Free);
    assert_eq!(
        faults(&m),
        [Fault::Key {
            tdr: Hpa(0x4004_0000),
            hkid: 41
        }]
    );
}
