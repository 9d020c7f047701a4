//! The bare work: what a leaf can't do without.

use std::hint::black_box;
use std::sync::atomic::AtomicU64;

use anyhow::Context;
use openssl::sha::Sha384;
use seamlock_sync::{EntryLock, Mode, MutexWord, Sharex, SharexHp};
use seamlock_tdx_abi::addr::Hpa;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_module::locks::{KOT, OP_STATE, PAMT_4K, SEPT_ENTRY};
use seamlock_tdx_module::memory::{Frame, Memory};
use seamlock_tdx_module::tables::{LockPath, LockUse, LockWord, locks_of};

use super::rig::{BARE_NEW, BARE_SOURCE};
use super::{Measure, Samples};

/// One SHA-384 block and a page, copied: what PAGE.ADD does.
pub const PAGE_ADD: &str = "block of 128 bytes hashed, page copied";
/// Three SHA-384 blocks, two of them copied: what MR.EXTEND does.
pub const EXTEND: &str = "128 + 256 bytes hashed, 256 copied";

/// Operations on one word.
const TIMES: u64 = 1 << 13;

/// The kinds of words, with the mode, and what taking one and giving it back is called here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Hp(Mode),
    Sharex(Mode),
    Mutex,
    Entry,
}

impl Kind {
    const ALL: [Kind; 6] = [
        Kind::Hp(Mode::Shared),
        Kind::Hp(Mode::Exclusive),
        Kind::Sharex(Mode::Shared),
        Kind::Sharex(Mode::Exclusive),
        Kind::Mutex,
        Kind::Entry,
    ];

    fn name(self) -> &'static str {
        match self {
            Kind::Hp(Mode::Shared) => "SharexHp shared",
            Kind::Hp(Mode::Exclusive) => "SharexHp alone",
            Kind::Sharex(Mode::Shared) => "Sharex shared",
            Kind::Sharex(Mode::Exclusive) => "Sharex alone",
            Kind::Mutex => "MutexWord",
            Kind::Entry => "EntryLock",
        }
    }

    /// Locked read-modify-writes that taking it, when it is free, and giving it back need.
    fn rmw(self) -> u64 {
        match self {
            // The host-priority bit goes by itself.
            Kind::Entry => 3,
            _ => 2,
        }
    }
}

/// Times each kind of word: taken once and given back.
pub fn words(samples: &mut Samples) -> anyhow::Result<()> {
    let (hp, sharex) = (SharexHp::new(), Sharex::new());
    let (mutex, entry) = (MutexWord::new(), AtomicU64::new(0));
    for kind in Kind::ALL {
        samples.time(kind.name(), TIMES, |i| {
            match kind {
                Kind::Hp(mode) => {
                    let name = PAMT_4K.at(black_box(i));
                    black_box(hp.try_acquire(mode, name));
                    hp.release(mode, name);
                }
                Kind::Sharex(mode) => {
                    let name = OP_STATE.at(black_box(i));
                    black_box(sharex.try_acquire(mode, name));
                    sharex.release(mode, name);
                }
                Kind::Mutex => {
                    black_box(mutex.try_acquire(KOT.only()));
                    mutex.release(KOT.only());
                }
                Kind::Entry => {
                    let name = SEPT_ENTRY.at(black_box(i));
                    black_box(EntryLock::try_host(&entry, name));
                    EntryLock::release(&entry, name);
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// The words that a leaf takes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Words {
    /// Nanoseconds to take each once and to give it back.
    pub ns: f64,
    /// Locked read-modify-writes in that.
    pub rmw: u64,
}

impl Words {
    /// Of version 0 of these leaves, by the table of locks: the words that they always take.
    pub fn of(samples: &Samples, measure: Measure, leaves: &[Leaf]) -> Words {
        let all = leaves.iter().flat_map(|leaf| locks_of(*leaf, 0));
        let kinds = all.filter(|lock| lock.when.is_none()).flat_map(kinds);
        kinds.fold(Words::default(), |sum, (times, kind)| {
            let ns = measure.of(samples, kind.name()).unwrap_or(f64::NAN);
            Words {
                ns: sum.ns + times as f64 * ns,
                rmw: sum.rmw + times * kind.rmw(),
            }
        })
    }
}

/// The kinds of words that one line of the table stands for, with their numbers.
fn kinds(lock: &LockUse) -> [(u64, Kind); 2] {
    // An explicit page comes with the two entries above it.
    let parents = match lock.path {
        LockPath::Explicit => 2,
        LockPath::Implicit | LockPath::Direct => 0,
    };
    let own = match lock.word {
        LockWord::Global | LockWord::Kot | LockWord::SeptTree | LockWord::TdEpoch => {
            (1, Kind::Sharex(lock.mode))
        }
        LockWord::CacheWriteBack | LockWord::Tdmr => (1, Kind::Mutex),
        LockWord::SeptEntry => (1, Kind::Entry),
        LockWord::SeptTable => (512, Kind::Entry),
        _ => (1, Kind::Hp(lock.mode)),
    };
    [(parents, Kind::Hp(Mode::Shared)), own]
}

/// A hash that belongs to nobody, with pages of the module's memory that no TD has.
pub struct Bare<'m> {
    memory: &'m Memory,
    hash: Sha384,
    block: [u8; 384],
}

impl<'m> Bare<'m> {
    /// Nothing hashed yet.
    pub fn new(memory: &'m Memory) -> Bare<'m> {
        Bare {
            memory,
            hash: Sha384::new(),
            block: [7; 384],
        }
    }

    fn frame(&self, pa: u64) -> anyhow::Result<&'m Frame> {
        self.memory
            .frame(Hpa(pa))
            .context("a page of the bench is missing")
    }

    /// What PAGE.ADD of page `i` can't do without.
    pub fn page_add(&mut self, i: u64) -> anyhow::Result<()> {
        let (source, target) = (BARE_SOURCE + i * 4096, BARE_NEW + i * 4096);
        self.block[16..24].copy_from_slice(&target.to_le_bytes());
        self.hash.update(black_box(&self.block[..128]));
        self.frame(target)?.copy_from(self.frame(source)?);
        Ok(())
    }

    /// What MR.EXTEND of chunk `i` can't do without.
    pub fn extend(&mut self, i: u64) -> anyhow::Result<()> {
        let (page, chunk) = (BARE_NEW + i / 16 * 4096, i as usize % 16 * 256);
        self.block[16..24].copy_from_slice(&i.to_le_bytes());
        self.frame(page)?.read_words(chunk, &mut self.block[128..]);
        self.hash.update(black_box(&self.block));
        Ok(())
    }
}

impl Drop for Bare<'_> {
    fn drop(&mut self) {
        black_box(std::mem::take(&mut self.hash).finish());
    }
}
