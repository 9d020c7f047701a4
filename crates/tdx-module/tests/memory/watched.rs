//! What a checker sees of the secure EPT: loads and stores of entries where the TDR is shared, none
//! where it is held alone.

use std::cell::RefCell;
use std::rc::Rc;

use seamlock_sync::{Action, Hook, Op, Outcome, Verdict, install};
use seamlock_tdx_abi::leaf::Leaf;

use crate::bed::{Ask, Bed, SOURCE};

#[derive(Default)]
struct Seen(RefCell<Vec<(Action, u64)>>);

impl Hook for Seen {
    fn before(&self, op: &Op) -> Verdict {
        if op.name.class.name() == "SEPT.ENTRY" {
            self.0.borrow_mut().push((op.action, op.name.b));
        }
        Verdict::Go
    }

    fn after(&self, _op: &Op, _outcome: Outcome) {}
}

/// What is done to entries while `work` runs: the action, and GPA with level.
fn watch(work: impl FnOnce()) -> Vec<(Action, u64)> {
    let seen = Rc::new(Seen::default());
    let before = install(Some(Rc::<Seen>::clone(&seen)));
    work();
    install(before);
    seen.0.take()
}

#[test]
fn a_leaf_that_shares_the_tdr_walks_and_changes_in_sight() {
    let bed = Bed::new();
    let tdr = bed.td(Ask::PLAIN);
    bed.tables(tdr, 0, 0);
    let page = bed.page();
    let seen = watch(|| {
        bed.ok(Leaf::MEM_PAGE_AUG, &[0x3000, tdr, page]);
    });
    assert_eq!(
        seen,
        [
            (Action::Load, 3),
            (Action::Load, 2),
            (Action::Load, 1),
            (Action::Load, 0x3000),
            (Action::TryExclusive, 0x3000),
            (Action::Store, 0x3000),
            (Action::ReleaseExclusive, 0x3000),
        ]
    );
}

#[test]
fn a_leaf_that_holds_the_tdr_alone_does_so_unseen() {
    let bed = Bed::new();
    let tdr = bed.td(Ask::PLAIN);
    bed.tables(tdr, 0, 0);
    let seen = watch(|| {
        bed.ok(Leaf::MEM_PAGE_ADD, &[0, tdr, bed.page(), SOURCE]);
        bed.ok(Leaf::MR_EXTEND, &[0, tdr]);
    });
    assert_eq!(seen, []);
}

#[test]
fn a_refused_leaf_changes_nothing() {
    let bed = Bed::new();
    let tdr = bed.td(Ask::PLAIN);
    bed.tables(tdr, 0, 0);
    let seen = watch(|| {
        let _ = bed.call(Leaf::MEM_PAGE_REMOVE, &[0x3000, tdr]);
    });
    let changes = |(action, _): &&(Action, u64)| *action == Action::Store;
    assert_eq!(seen.iter().find(changes), None);
}
