//! Who has which lock word of the TDX module, so that of a SEAMCALL that found one busy it is known, and
//! not guessed, who was in its way.
//!
//! # Locking
//! An attempt at a word or its release, and the note of it, are one step to the others: whoever does it
//! has the word's shard to himself from before to after. Nothing in between waits.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use seamlock_kvm::observer::Seamcall;
use seamlock_sync::{Action, Name, Op, Outcome, Private};
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::{Leaf, TdxStatus};
use seamlock_tdx_module::locks::PAMT_4K;

const SHARDS: usize = 64;

/// A party at a lock word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Party {
    /// Which thread.
    pub seat: usize,
    /// The SEAMCALL it makes.
    pub leaf: Leaf,
    /// The operation that it is part of.
    pub doing: &'static str,
    /// The guest_memfd whose `filemap_invalidate_lock` it holds.
    pub filemap: Option<Name>,
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.leaf, self.doing)
    }
}

/// A lock word that was busy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Busy {
    /// Which.
    pub word: Name,
    /// It is that of a TDR.
    pub is_tdr: bool,
    /// Who found it busy.
    pub loser: Party,
    /// Who had it.
    pub holders: Vec<Party>,
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tdr = if self.is_tdr { " (the TDR)" } else { "" };
        let holders: Vec<_> = self.holders.iter().map(Party::to_string).collect();
        let holders = holders.join(", ");
        write!(f, "{}{tdr} was held by {holders}", self.word)
    }
}

thread_local! {
    /// The SEAMCALL that the thread makes.
    static LEAF: Cell<Leaf> = const { Cell::new(Leaf::SYS_INFO) };
    /// What it found busy.
    static BUSY: RefCell<Vec<Busy>> = const { RefCell::new(Vec::new()) };
}

/// What the last SEAMCALL of this thread found busy.
pub fn found_busy() -> Vec<Busy> {
    BUSY.with(|busy| busy.borrow().clone())
}

#[derive(Debug, Default)]
struct Shard {
    taken: AtomicBool,
    /// The holders of each word, and whether the word is held by one alone.
    held: Private<BTreeMap<Name, (bool, Vec<Party>)>>,
}

/// The lock words of a machine.
#[derive(Debug)]
pub struct Words {
    shards: Vec<Shard>,
    tdrs: Private<BTreeMap<u64, ()>>,
}

impl Default for Words {
    fn default() -> Words {
        Words {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            tdrs: Private::default(),
        }
    }
}

/// Whether an operation is one on a lock word.
pub fn is_at_a_word(action: Action) -> bool {
    matches!(
        action,
        Action::TryShared
            | Action::TryExclusive
            | Action::Promote
            | Action::Demote
            | Action::ReleaseShared
            | Action::ReleaseExclusive
    )
}

impl Words {
    fn shard(&self, word: Name) -> &Shard {
        &self.shards[word.fingerprint() as usize % SHARDS]
    }

    /// The thread makes a SEAMCALL.
    pub fn begin(&self, regs: &Regs) {
        LEAF.set(regs.leaf());
        BUSY.with(|busy| busy.borrow_mut().clear());
    }

    /// It came back.
    pub fn end(&self, call: &Seamcall) {
        if call.status() != TdxStatus::SUCCESS {
            return;
        }
        match call.leaf() {
            Leaf::MNG_CREATE => self.tdrs.with(|tdrs| tdrs.insert(call.input.rcx, ())),
            Leaf::PHYMEM_PAGE_RECLAIM => self.tdrs.with(|tdrs| tdrs.remove(&call.input.rcx)),
            _ => None,
        };
    }

    /// The thread is about to do something to a word.
    pub fn before(&self, word: Name) {
        let shard = self.shard(word);
        while shard.taken.swap(true, Ordering::Acquire) {
            std::thread::yield_now();
        }
    }

    /// It has, being this party.
    pub fn after(&self, op: &Op, outcome: Outcome, seat: usize, party: impl Fn(Leaf) -> Party) {
        let shard = self.shard(op.name);
        let done = outcome != Outcome::Busy;
        let me = || party(LEAF.get());
        let busy = shard.held.with(|held| {
            let (alone, holders) = held.entry(op.name).or_default();
            match op.action {
                // A word that nobody seems to have given back went away with its page.
                Action::TryShared if done => {
                    if std::mem::take(alone) {
                        holders.clear();
                    }
                    holders.push(me());
                }
                Action::TryExclusive | Action::Promote if done => {
                    (*alone, *holders) = (true, vec![me()]);
                }
                Action::Demote => *alone = false,
                Action::ReleaseShared | Action::ReleaseExclusive => {
                    *alone = false;
                    let mine = holders.iter().position(|holder| holder.seat == seat);
                    if !holders.is_empty() {
                        holders.swap_remove(mine.unwrap_or(0));
                    }
                }
                _ => {
                    let others = holders.iter().filter(|holder| holder.seat != seat);
                    return Some(others.copied().collect::<Vec<_>>());
                }
            }
            None
        });
        shard.taken.store(false, Ordering::Release);
        if let Some(holders) = busy {
            self.note(op.name, me(), holders);
        }
    }

    #[cold]
    fn note(&self, word: Name, loser: Party, holders: Vec<Party>) {
        let is_tdr = *word.class == PAMT_4K && self.tdrs.with(|tdrs| tdrs.contains_key(&word.a));
        let busy = Busy {
            word,
            is_tdr,
            loser,
            holders,
        };
        BUSY.with(|all| all.borrow_mut().push(busy));
    }
}

#[cfg(test)]
mod tests {
    use std::panic::Location;

    use super::*;

    const WORD: Name = PAMT_4K.at(0x7000);

    fn act(words: &Words, seat: usize, leaf: Leaf, action: Action, outcome: Outcome) {
        words.begin(&Regs::call(leaf));
        let op = Op {
            action,
            name: WORD,
            nest: None,
            arg: 0,
            site: Location::caller(),
        };
        words.before(WORD);
        words.after(&op, outcome, seat, |leaf| Party {
            seat,
            leaf,
            doing: "a test",
            filemap: None,
        });
    }

    fn holders() -> Vec<(usize, Leaf)> {
        let busy = found_busy();
        busy.iter()
            .flat_map(|busy| busy.holders.iter().map(|held| (held.seat, held.leaf)))
            .collect()
    }

    #[test]
    fn who_finds_a_word_busy_is_told_who_has_it_and_not_who_had_it() {
        use Action::{ReleaseShared, TryExclusive, TryShared};
        let (words, done, busy) = (Words::default(), Outcome::Done, Outcome::Busy);
        act(&words, 0, Leaf::VP_FLUSH, TryShared, done);
        act(&words, 1, Leaf::MEM_RANGE_BLOCK, TryShared, done);
        act(&words, 0, Leaf::VP_FLUSH, ReleaseShared, done);
        act(&words, 2, Leaf::VP_INIT, TryExclusive, busy);
        assert_eq!(holders(), [(1, Leaf::MEM_RANGE_BLOCK)]);
        act(&words, 2, Leaf::VP_INIT, TryExclusive, done);
        assert!(
            found_busy().is_empty(),
            "the last SEAMCALL found nothing busy"
        );
    }

    #[test]
    fn a_word_that_is_had_again_without_a_release_is_the_new_holders() {
        use Action::{TryExclusive, TryShared};
        let words = Words::default();
        act(&words, 0, Leaf::MR_FINALIZE, TryExclusive, Outcome::Done);
        act(&words, 1, Leaf::VP_CREATE, TryShared, Outcome::Done);
        act(&words, 2, Leaf::MR_EXTEND, TryExclusive, Outcome::Busy);
        assert_eq!(holders(), [(1, Leaf::VP_CREATE)]);
    }
}
