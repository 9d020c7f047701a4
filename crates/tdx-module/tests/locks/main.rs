//! The table of locks, row by row: a leaf is busy exactly when the table says so, with the status that
//! the table says.

#[path = "../bed/mod.rs"]
mod bed;
mod scene;

use bed::{Ask, Bed, MIB2, PAGE, TDMR};
use scene::{Scene, scene};
use seamlock_sync::Mode;
use seamlock_tdx_abi::addr::Hpa;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_module::LockAt;
use seamlock_tdx_module::tables::{LOCKS, LockPath};

fn conflicts(wanted: Mode, held: Mode) -> bool {
    wanted == Mode::Exclusive || held == Mode::Exclusive
}

/// Holds a word while the leaf is called, and checks what it answers, and that it works afterwards.
fn check(
    leaf: Leaf,
    version: u8,
    which: impl Fn(&Scene) -> Option<LockAt>,
    held: Mode,
    expected: Option<TdxStatus>,
) {
    let scene = scene(leaf, version);
    let Some(at) = which(&scene) else { return };
    // An entry and a mutex are only ever held alone.
    let only_alone = matches!(at, LockAt::Entry { .. } | LockAt::Wbt(_) | LockAt::Tdmr(_));
    if only_alone && held == Mode::Shared {
        return;
    }
    let what = format!("{leaf} version {version}, {at:?} held {held:?}");
    if scene.bed.m.hold(at, held).is_err() {
        panic!("{what}: no such word");
    }
    let status = scene.call();
    match expected {
        Some(busy) => {
            assert_eq!(status, busy, "{what}");
            scene.bed.m.release(at, held);
            assert_eq!(scene.call(), usual(leaf), "{what}, then released");
        }
        None => assert_eq!(status, usual(leaf), "{what}"),
    }
}

/// What the leaf answers when nothing is held.
fn usual(leaf: Leaf) -> TdxStatus {
    match leaf {
        Leaf::SYS_UPDATE => TdxStatus::SYS_INVALID_HANDOFF,
        _ => TdxStatus::SUCCESS,
    }
}

#[test]
fn every_leaf_of_the_table_works_in_its_scene() {
    for row in LOCKS {
        let status = scene(row.leaf, row.version).call();
        assert_eq!(
            status,
            usual(row.leaf),
            "{} version {}",
            row.leaf,
            row.version
        );
    }
}

#[test]
fn a_word_of_the_table_makes_its_leaf_busy() {
    for row in LOCKS {
        let always = row
            .locks
            .iter()
            .filter(|lock| lock.when.is_none_or(|when| !when.contains("zero-step")));
        for lock in always {
            assert!(
                scene(row.leaf, row.version).place(lock).is_some(),
                "{} {lock:?}",
                row.leaf
            );
            for held in [Mode::Shared, Mode::Exclusive] {
                let expected = conflicts(lock.mode, held).then_some(lock.busy);
                check(
                    row.leaf,
                    row.version,
                    |scene| scene.place(lock),
                    held,
                    expected,
                );
            }
        }
    }
}

#[test]
fn a_word_that_is_not_in_the_table_does_not_matter() {
    for row in LOCKS {
        let words = scene(row.leaf, row.version).words.len();
        for i in 0..words {
            let scene = scene(row.leaf, row.version);
            let at = scene.words[i].2;
            if row.locks.iter().any(|lock| scene.place(lock) == Some(at)) {
                continue;
            }
            for held in [Mode::Shared, Mode::Exclusive] {
                check(
                    row.leaf,
                    row.version,
                    |scene| Some(scene.words[i].2),
                    held,
                    None,
                );
            }
        }
    }
}

#[test]
fn an_explicit_operand_is_busy_when_a_bigger_page_around_it_is_held_alone() {
    for row in LOCKS {
        for lock in row.locks {
            if matches!(
                lock.busy.operand(),
                Some(OperandId::R9 | OperandId::R10 | OperandId::R11)
            ) {
                continue;
            }
            let around = |scene: &Scene| match scene.place(lock)? {
                LockAt::Page(pa) => Some(LockAt::Pamt2m(pa)),
                _ => None,
            };
            let expected = (lock.path == LockPath::Explicit).then_some(lock.busy);
            check(row.leaf, row.version, around, Mode::Exclusive, expected);
            check(row.leaf, row.version, around, Mode::Shared, None);
        }
    }
}

#[test]
fn the_first_explicit_operand_is_blamed_for_the_gigabyte_around_all() {
    for row in LOCKS {
        let first = row
            .locks
            .iter()
            .find(|lock| lock.path == LockPath::Explicit);
        let gigabyte = |_: &Scene| Some(LockAt::Pamt1g(Hpa(TDMR)));
        if let Some(lock) = first {
            check(
                row.leaf,
                row.version,
                gigabyte,
                Mode::Exclusive,
                Some(lock.busy),
            );
            check(row.leaf, row.version, gigabyte, Mode::Shared, None);
        }
    }
}

#[test]
fn a_2m_page_is_new_only_when_nobody_walks_inside_it() {
    let bed = Bed::new();
    let tdr = bed.td(Ask::PLAIN);
    bed.tables(tdr, 0, 1);
    let page = bed.page_2m();
    let inside = LockAt::Pamt2m(Hpa(page));
    bed.m.hold(inside, Mode::Shared).unwrap();
    let busy = TdxStatus::OPERAND_BUSY.with(OperandId::R8);
    assert_eq!(bed.status(Leaf::MEM_PAGE_AUG, &[1, tdr, page]), busy);
    bed.m.release(inside, Mode::Shared);
    bed.ok(Leaf::MEM_PAGE_AUG, &[1, tdr, page]);
    assert_eq!(bed.metadata(page + MIB2 - PAGE), (3, tdr, 1));
}
