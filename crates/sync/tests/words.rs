//! The module's lock words, bit for bit. Source: TDX module 1.5, `common/helpers/tdx_locks.h`.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use seamlock_sync::{Busy, Class, EntryLock, Mode, MutexWord, Name, Sharex, SharexHp, WordView};

static WORD: Class = Class::new("word");
const NAME: Name = WORD.only();

fn view(exclusive: bool, host_priority: bool, readers: u16) -> WordView {
    WordView {
        exclusive,
        host_priority,
        readers,
    }
}

#[test]
fn readers_of_a_host_priority_word_are_counted() {
    let word = SharexHp::new();
    assert!(word.try_shared(NAME) && word.try_shared(NAME));
    assert_eq!(word.view(), view(false, false, 2));
    word.release_shared(NAME);
    word.release(Mode::Shared, NAME);
    assert_eq!(word.view(), WordView::default());
}

#[test]
fn a_refused_exclusive_host_attempt_leaves_a_mark_until_the_next_success() {
    // Measured on the module: 6, then 2 when the reader leaves, then 0.
    let word = SharexHp::new();
    assert!(word.try_shared(NAME));
    assert!(!word.try_exclusive(NAME));
    assert_eq!(word.view(), view(false, true, 1));
    word.release_shared(NAME);
    assert_eq!(word.view(), view(false, true, 0));
    assert!(word.try_exclusive(NAME));
    assert_eq!(word.view(), view(true, false, 0));
    word.release_exclusive(NAME);
    assert_eq!(word.view(), WordView::default());
}

#[test]
fn a_shared_host_attempt_clears_the_mark_too() {
    let word = SharexHp::new();
    assert!(word.try_shared(NAME) && !word.try_exclusive(NAME));
    assert!(word.try_shared(NAME));
    assert_eq!(word.view(), view(false, false, 2));
}

#[test]
fn a_refused_shared_host_attempt_leaves_its_count_which_the_holder_wipes() {
    let word = SharexHp::new();
    assert!(word.try_exclusive(NAME));
    assert!(!word.try_shared(NAME) && !word.try_acquire(Mode::Shared, NAME));
    assert_eq!(word.view(), view(true, true, 2));
    word.release(Mode::Exclusive, NAME);
    assert_eq!(
        word.view(),
        view(false, true, 0),
        "the mark stays, the counts do not"
    );
}

#[test]
fn only_the_last_reader_can_be_promoted() {
    let word = SharexHp::new();
    assert!(word.try_shared(NAME) && word.try_shared(NAME));
    assert!(!word.promote(NAME));
    assert_eq!(word.view(), view(false, true, 2));
    word.release_shared(NAME);
    assert!(word.promote(NAME), "one reader with the mark");
    assert_eq!(word.view(), view(true, false, 0));
    assert!(!word.try_exclusive(NAME));
}

#[test]
fn the_guest_yields_to_a_host_that_was_refused() {
    let word = SharexHp::new();
    for mode in [Mode::Shared, Mode::Exclusive] {
        assert_eq!(word.guest_try(mode, NAME), Ok(()));
        word.release(mode, NAME);
    }
    assert!(word.try_shared(NAME) && !word.try_exclusive(NAME));
    assert_eq!(word.guest_try(Mode::Shared, NAME), Err(Busy::HostPriority));
    assert_eq!(
        word.guest_try(Mode::Exclusive, NAME),
        Err(Busy::Held),
        "a reader is there"
    );
    word.release_shared(NAME);
    assert_eq!(
        word.guest_try(Mode::Exclusive, NAME),
        Err(Busy::HostPriority)
    );
    assert_eq!(
        word.view(),
        view(false, true, 0),
        "a refused guest leaves nothing"
    );
    assert!(word.try_exclusive(NAME));
    assert_eq!(word.guest_try(Mode::Shared, NAME), Err(Busy::Held));
}

#[test]
fn a_word_without_priority_has_counts_and_no_mark() {
    let word = Sharex::new();
    assert!(word.try_acquire(Mode::Shared, NAME) && word.try_acquire(Mode::Shared, NAME));
    assert!(!word.try_acquire(Mode::Exclusive, NAME));
    assert_eq!(word.view(), view(false, false, 2));
    word.release(Mode::Shared, NAME);
    word.release(Mode::Shared, NAME);
    assert!(word.try_acquire(Mode::Exclusive, NAME));
    assert!(!word.try_acquire(Mode::Shared, NAME));
    assert_eq!(word.view(), view(true, false, 1));
    word.release(Mode::Exclusive, NAME);
    assert_eq!(word.view(), WordView::default());
}

#[test]
fn a_mutex_word_has_one_holder() {
    let word = MutexWord::new();
    assert!(word.try_acquire(NAME) && !word.try_acquire(NAME));
    assert_eq!(word.view(), view(true, false, 0));
    word.release(NAME);
    assert!(word.try_acquire(NAME));
}

#[test]
fn an_entry_is_locked_inside_its_own_word() {
    const BITS: u64 = 0x8000_0000_1234_5007;
    let entry = AtomicU64::new(BITS);
    assert!(EntryLock::try_host(&entry, NAME));
    assert_eq!(entry.load(SeqCst), BITS | EntryLock::LOCK);
    assert!(!EntryLock::try_host(&entry, NAME));
    assert_eq!(EntryLock::view(entry.load(SeqCst)), view(true, true, 0));
    assert_eq!(EntryLock::try_guest(&entry, NAME), Err(Busy::Held));
    EntryLock::release(&entry, NAME);
    assert_eq!(EntryLock::try_guest(&entry, NAME), Err(Busy::HostPriority));
    assert_eq!(
        entry.load(SeqCst),
        BITS | EntryLock::HOST_PRIORITY,
        "the guest gave way"
    );
    assert!(EntryLock::try_host(&entry, NAME));
    EntryLock::release(&entry, NAME);
    assert_eq!(EntryLock::try_guest(&entry, NAME), Ok(()));
    EntryLock::release(&entry, NAME);
    assert_eq!(entry.load(SeqCst), BITS);
}
