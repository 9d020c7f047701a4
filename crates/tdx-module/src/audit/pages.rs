//! Whether every page is in exactly one place.

use std::collections::BTreeMap;

use seamlock_tdx_abi::addr::{Gpa, Hpa};
use seamlock_tdx_abi::lifecycle::{LifecycleState, OpState};
use seamlock_tdx_abi::pamt::PageType;
use seamlock_tdx_abi::sept::{L2SeptState, SeptEntry, SeptState};

use super::{Accounting, Fault, words};
use crate::Module;
use crate::memory::WORDS;
use crate::pamt::PageSize;
use crate::sept::{entry_name, l2, leaf_to_hpa, without_accept_counter};
use crate::sys::KotState;
use crate::td::{MIN_TDCS_PAGES, SEPT_ROOT_PAGE, Td};
use crate::vp::{NO_LP, Vp};

/// A page in use.
struct Used<'m> {
    size: PageSize,
    page_type: PageType,
    owner: Hpa,
    td: Option<&'m Td>,
    vp: Option<&'m Vp>,
    reached: bool,
}

/// Pages in use by address.
type Pages<'m> = BTreeMap<Hpa, Used<'m>>;

pub(super) fn check(m: &Module, books: &mut Accounting, faults: &mut Vec<Fault>) {
    let mut pages = used_pages(m, books, faults);
    let tds: Vec<&Td> = pages.values().filter_map(|used| used.td).collect();
    let mut book = Book {
        m,
        books,
        faults,
        pages: &mut pages,
    };
    for td in tds {
        book.check_td(td);
    }
    let orphans = pages.iter().filter(|(_, used)| used.td.is_none());
    for (page, used) in orphans {
        let owner = pages.get(&used.owner).and_then(|owner| owner.td);
        match owner {
            None => faults.push(Fault::Orphan {
                page: *page,
                page_type: used.page_type,
                owner: used.owner,
            }),
            Some(td) if !used.reached && has_structure(td) => faults.push(Fault::Lost {
                tdr: td.tdr,
                page: *page,
                page_type: used.page_type,
            }),
            Some(_) => {}
        }
    }
}

/// Whether the TD still has all pages that it was given.
fn has_structure(td: &Td) -> bool {
    td.lifecycle() != LifecycleState::TEARDOWN
}

fn used_pages<'m>(m: &'m Module, books: &mut Accounting, faults: &mut Vec<Fault>) -> Pages<'m> {
    let mut pages = Pages::new();
    let mut covered = 0;
    for touched in m.pamt.entries() {
        let page_type = touched.entry.page_type();
        if page_type == PageType::NDA || page_type == PageType::RSVD {
            continue;
        }
        if touched.pa.0 < covered {
            faults.push(Fault::Covered { page: touched.pa });
        }
        covered = covered.max(touched.pa.0 + touched.size.bytes());
        match page_type {
            PageType::REG => books.private_pages += touched.size.pages(),
            PageType::EPT => books.sept_pages += 1,
            _ => books.control_pages += 1,
        }
        let of_type = |wanted| touched.page.filter(|_| page_type == wanted);
        let used = Used {
            size: touched.size,
            page_type,
            owner: touched.entry.owner(),
            td: of_type(PageType::TDR).and_then(|page| page.td()),
            vp: of_type(PageType::TDVPR).and_then(|page| page.vp()),
            reached: false,
        };
        pages.insert(touched.pa, used);
    }
    pages
}

struct Book<'a, 'm> {
    m: &'m Module,
    books: &'a mut Accounting,
    faults: &'a mut Vec<Fault>,
    pages: &'a mut Pages<'m>,
}

impl<'m> Book<'_, 'm> {
    fn check_td(&mut self, td: &Td) {
        self.books.tds += 1;
        self.check_counts(td);
        self.check_key(td);
        if !has_structure(td) {
            return;
        }
        for i in 0..td.num_tdcx.load() as usize {
            self.reach(td, td.tdcx(i), PageSize::K4, PageType::TDCX);
        }
        let vps: Vec<&Vp> = self.owned(td).filter_map(|used| used.vp).collect();
        for vp in &vps {
            self.check_vp(td, vp);
        }
        let associated = vps.iter().filter(|vp| vp.assoc_lpid.peek() != NO_LP);
        let associated = associated.count() as u64;
        self.count(
            td,
            "associated vCPUs",
            td.num_assoc.load().into(),
            associated,
        );
        if td.op_state() != OpState::UNINITIALIZED {
            self.check_sept(td);
        }
    }

    fn owned(&self, td: &Td) -> impl Iterator<Item = &Used<'m>> {
        let tdr = td.tdr;
        let of_td = move |used: &&Used<'m>| used.td.is_none() && used.owner == tdr;
        self.pages.values().filter(of_td)
    }

    fn check_counts(&mut self, td: &Td) {
        let pages = self.owned(td).map(|used| used.size.pages()).sum();
        self.count(td, "pages", td.chldcnt.load(), pages);
        let lps = self.m.sys.lps.iter();
        let inside = lps.filter(|lp| {
            lp.running
                .with(|running| running.is_some_and(|running| running.tdr == td.tdr))
        });
        let inside = inside.count() as u64;
        let entered = td.refcount.iter().map(|count| u64::from(count.peek()));
        self.count(td, "vCPUs in the guest", entered.sum(), inside);
    }

    fn count(&mut self, td: &Td, what: &'static str, says: u64, is: u64) {
        if says != is {
            self.faults.push(Fault::Miscounted {
                tdr: td.tdr,
                what,
                says,
                is,
            });
        }
    }

    fn check_key(&mut self, td: &Td) {
        let hkid = td.hkid();
        let expected = match td.lifecycle() {
            LifecycleState::HKID_ASSIGNED | LifecycleState::KEYS_CONFIGURED => KotState::Assigned,
            LifecycleState::BLOCKED => KotState::Flushed,
            _ => return,
        };
        let holders = self.pages.values().filter_map(|used| used.td);
        let with_key = |other: &&Td| other.hkid() == hkid && has_structure(other);
        let holders = holders.filter(with_key).count();
        if holders != 1 || self.m.sys.kot(hkid).state.load() != expected {
            self.faults.push(Fault::Key {
                tdr: td.tdr,
                hkid: hkid.0,
            });
        }
    }

    fn check_vp(&mut self, td: &Td, vp: &Vp) {
        self.books.vcpus += 1;
        self.reach(td, vp.tdvpr, PageSize::K4, PageType::TDVPR);
        for i in 1..vp.pages.load() as usize {
            self.reach(td, vp.tdvps(i), PageSize::K4, PageType::TDCX);
        }
    }

    /// Notes that the TD refers to a page. False when the page can't be followed.
    fn reach(&mut self, td: &Td, pa: Hpa, size: PageSize, expected: PageType) -> bool {
        let tdr = td.tdr;
        match self.pages.get_mut(&pa) {
            Some(used) if used.owner == tdr && used.page_type == expected && used.size == size => {
                if used.reached {
                    self.faults.push(Fault::Twice { tdr, page: pa });
                }
                !std::mem::replace(&mut used.reached, true)
            }
            _ => {
                self.faults.push(Fault::NotItsPage {
                    tdr,
                    page: pa,
                    expected,
                });
                false
            }
        }
    }

    fn check_sept(&mut self, td: &Td) {
        let top = td.top_level();
        self.check_table(td, td.tdcx(SEPT_ROOT_PAGE), top, Gpa(0));
        for vm in 0..td.num_l2_vms.load() as usize {
            self.check_l2_table(td, td.tdcx(MIN_TDCS_PAGES as usize + vm), top);
        }
    }

    /// A table of the L1 tree whose first entry maps `start`. A table that nobody wrote is not there.
    fn check_table(&mut self, td: &Td, table: Hpa, level: u8, start: Gpa) {
        let Some(frame) = self.m.memory.frame(table) else {
            return;
        };
        for (i, slot) in (0..WORDS as u64).zip(frame.words()) {
            let gpa = Gpa(start.0 | i << (12 + 9 * u32::from(level)));
            let name = entry_name(td, gpa, level, 0);
            words::check_entry(name, slot, self.books, self.faults);
            let entry = SeptEntry::from_bits_retain(slot.load(std::sync::atomic::Ordering::SeqCst));
            match entry.state() {
                SeptState::FREE | SeptState::REMOVED => {}
                SeptState::NL_MAPPED | SeptState::NL_BLOCKED if level > 0 => {
                    if self.reach(td, entry.hpa(), PageSize::K4, PageType::EPT) {
                        self.check_table(td, entry.hpa(), level - 1, gpa);
                    }
                }
                state if state.name().is_some() && is_leaf(state) && level <= 2 => {
                    let entry = without_accept_counter(entry, level);
                    let pa = leaf_to_hpa(entry, Gpa(0), level);
                    self.reach(td, pa, PageSize::of_level(level), PageType::REG);
                }
                _ => self.bad_entry(td, entry, level),
            }
        }
    }

    /// A table of an L2 VM. It maps pages that the TD's own tree maps, and has tables of its own.
    fn check_l2_table(&mut self, td: &Td, table: Hpa, level: u8) {
        let Some(frame) = self.m.memory.frame(table) else {
            return;
        };
        for slot in frame.words() {
            let entry = SeptEntry::from_bits_retain(slot.load(std::sync::atomic::Ordering::SeqCst));
            match l2::state(entry) {
                L2SeptState::L2_FREE => {}
                L2SeptState::L2_NL_MAPPED | L2SeptState::L2_NL_BLOCKED if level > 0 => {
                    if self.reach(td, entry.hpa(), PageSize::K4, PageType::EPT) {
                        self.check_l2_table(td, entry.hpa(), level - 1);
                    }
                }
                L2SeptState::L2_MAPPED | L2SeptState::L2_BLOCKED if level <= 2 => {
                    let pa = leaf_to_hpa(entry, Gpa(0), level);
                    self.check_mapped(td, pa, PageSize::of_level(level));
                }
                _ => self.bad_entry(td, entry, level),
            }
        }
    }

    fn check_mapped(&mut self, td: &Td, pa: Hpa, size: PageSize) {
        let mapped = |used: &Used<'_>| {
            used.owner == td.tdr && used.page_type == PageType::REG && used.size == size
        };
        if !self.pages.get(&pa).is_some_and(mapped) {
            self.faults.push(Fault::NotItsPage {
                tdr: td.tdr,
                page: pa,
                expected: PageType::REG,
            });
        }
    }

    fn bad_entry(&mut self, td: &Td, entry: SeptEntry, level: u8) {
        self.faults.push(Fault::BadEntry {
            tdr: td.tdr,
            entry: entry.bits(),
            level,
        });
    }
}

fn is_leaf(state: SeptState) -> bool {
    state.to_bits() & SeptEntry::LEAF.bits() != 0
}
