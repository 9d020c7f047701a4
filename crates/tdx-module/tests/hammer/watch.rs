//! Who holds which lock word, as the hook sees it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use seamlock_sync::{Action, Class, Hook, Mode, Name, Op, Outcome, Verdict};
use seamlock_tdx_module::locks;

/// Holders of a word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holds {
    /// Together with others.
    pub shared: u32,
    /// Alone.
    pub exclusive: u32,
}

/// A class of words, how one was wanted, and whether by the guest side.
pub type Wanted = (&'static str, &'static str, bool);

/// Follows this thread's lock words until it is dropped.
#[derive(Debug, Default)]
pub struct Watch {
    inner: Rc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    held: RefCell<BTreeMap<Name, Holds>>,
    wanted: RefCell<BTreeSet<Wanted>>,
}

/// Classes that are lock words, not cells.
fn is_word(class: &'static Class) -> bool {
    [
        &locks::PAMT_4K,
        &locks::PAMT_2M,
        &locks::PAMT_1G,
        &locks::OP_STATE,
        &locks::SEPT_TREE,
        &locks::TD_EPOCH,
        &locks::RTMR,
        &locks::SEPT_ENTRY,
        &locks::KOT,
        &locks::GLOBAL,
        &locks::WBT,
        &locks::TDMR,
    ]
    .contains(&class)
}

impl Hook for Inner {
    fn before(&self, _: &Op) -> Verdict {
        Verdict::Go
    }

    fn after(&self, op: &Op, outcome: Outcome) {
        if !is_word(op.name.class) {
            return;
        }
        let mut held = self.held.borrow_mut();
        let holds = held.entry(op.name).or_default();
        let done = outcome == Outcome::Done;
        let mode = match op.action {
            Action::TryShared => "shared",
            Action::TryExclusive | Action::Promote => "exclusive",
            _ => "",
        };
        if !mode.is_empty() {
            let wanted = (op.name.class.name(), mode, op.arg == 1);
            self.wanted.borrow_mut().insert(wanted);
        }
        match op.action {
            Action::TryShared if done => holds.shared += 1,
            Action::TryExclusive if done => holds.exclusive += 1,
            Action::Promote if done => {
                holds.shared -= 1;
                holds.exclusive += 1;
            }
            Action::ReleaseShared => holds.shared -= 1,
            Action::ReleaseExclusive => holds.exclusive -= 1,
            _ => {}
        }
        if *holds == Holds::default() {
            held.remove(&op.name);
        }
    }
}

impl Watch {
    /// Begins to follow this thread's lock words.
    pub fn install() -> Watch {
        let watch = Watch::default();
        seamlock_sync::install(Some(watch.inner.clone()));
        watch
    }

    /// Words that are held now.
    pub fn held(&self) -> BTreeMap<Name, Holds> {
        self.inner.held.borrow().clone()
    }

    /// The words that were wanted since the last time, and how.
    pub fn take_wanted(&self) -> BTreeSet<Wanted> {
        self.inner.wanted.take()
    }

    /// Forgets the locks of entries that went with their table: PROMOTE leaves them as they are.
    pub fn forget_entries(&self, tdr: u64, gpa: u64, bytes: u64, level: u8) {
        let mut held = self.inner.held.borrow_mut();
        held.retain(|name, _| {
            let gone = name.class == &locks::SEPT_ENTRY
                && name.a == tdr
                && name.b & 7 == u64::from(level)
                && (gpa..gpa + bytes).contains(&(name.b & !0xfff));
            !gone
        });
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        seamlock_sync::install(None);
    }
}

/// The mode as the watch names it.
pub fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Shared => "shared",
        Mode::Exclusive => "exclusive",
    }
}
