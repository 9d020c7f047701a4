//! Whether every lock word is free.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::SeqCst;

use seamlock_sync::{EntryLock, Name, WordView};

use super::{Accounting, Fault};
use crate::Module;
use crate::locks::{GLOBAL, KOT, OP_STATE, RTMR, SEPT_TREE, TD_EPOCH, TDMR, WBT};
use crate::pamt::PageSize;
use crate::td::Td;

/// Shared holders that a word should have; words that are not in it should have none.
type Expected = BTreeMap<Name, u16>;

pub(super) fn check(m: &Module, books: &mut Accounting, faults: &mut Vec<Fault>) {
    let expected = held_for_guests(m, books);
    let mut look = |word: Name, view: WordView| {
        let readers = expected.get(&word).copied().unwrap_or(0);
        if view.exclusive || view.readers != readers {
            faults.push(Fault::Held {
                word,
                view,
                readers,
            });
        } else if view.host_priority {
            books.marks.push(word);
        }
    };
    look(GLOBAL.only(), m.sys.global.view());
    look(KOT.only(), m.sys.kot_lock.view());
    for (package, wbt) in (0..).zip(&m.sys.wbt) {
        look(WBT.at(package), wbt.lock.view());
    }
    for tdmr in m.sys.tdmrs.get().into_iter().flatten() {
        look(TDMR.at(tdmr.range.base), tdmr.lock.view());
    }
    for touched in m.pamt.entries() {
        let name = touched.size.name(touched.pa);
        look(name, touched.entry.lock().view());
        if let Some(td) = touched.page.and_then(|page| page.td()) {
            td_words(td, &mut look);
        }
    }
}

/// What VP.ENTER keeps held: the TDR, and the TDVPR with the entries above it.
fn held_for_guests(m: &Module, books: &mut Accounting) -> Expected {
    let mut expected = Expected::new();
    let mut hold = |name| *expected.entry(name).or_default() += 1;
    for lp in &m.sys.lps {
        let Some(running) = lp.running.with(|running| *running) else {
            continue;
        };
        books.guests += 1;
        hold(PageSize::K4.name(running.tdr));
        for size in [PageSize::K4, PageSize::M2, PageSize::G1] {
            hold(size.name(running.tdvpr));
        }
    }
    expected
}

fn td_words(td: &Td, look: &mut impl FnMut(Name, WordView)) {
    look(OP_STATE.at(td.tdr.0), td.op_state_lock.view());
    look(SEPT_TREE.at(td.tdr.0), td.sept_lock.view());
    look(TD_EPOCH.at(td.tdr.0), td.epoch_lock.view());
    look(RTMR.at(td.tdr.0), td.rtmr_lock.view());
}

/// The lock inside a secure-EPT entry.
pub(super) fn check_entry(
    word: Name,
    entry: &std::sync::atomic::AtomicU64,
    books: &mut Accounting,
    faults: &mut Vec<Fault>,
) {
    let view = EntryLock::view(entry.load(SeqCst));
    if view.exclusive {
        let readers = 0;
        faults.push(Fault::Held {
            word,
            view,
            readers,
        });
    } else if view.host_priority {
        books.marks.push(word);
    }
}
