//! Lock words from outside: to look at them, and to hold them as another party would.
//!
//! Recorded vectors, stress tests and fault injection use this; the module itself does not.

use std::sync::atomic::Ordering::SeqCst;

use seamlock_sync::{Busy, EntryLock, Mode, MutexWord, Name, Sharex, SharexHp, WordView};
use seamlock_tdx_abi::addr::{Gpa, Hpa};

use crate::Module;
use crate::locks::{GLOBAL, KOT, OP_STATE, SEPT_TREE, TD_EPOCH, TDMR, WBT};
use crate::pamt::PageSize;
use crate::sept::Walk;
use crate::td::Td;

/// One lock word of the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockAt {
    /// The 4 KiB PAMT entry of a page, whatever the page is: TDR, TDVPR or other.
    Page(Hpa),
    /// The 2 MiB PAMT entry that covers the address.
    Pamt2m(Hpa),
    /// The 1 GiB PAMT entry that covers the address.
    Pamt1g(Hpa),
    /// OP_STATE of the TD with this TDR.
    OpState(Hpa),
    /// The secure-EPT tree of the TD with this TDR.
    SeptTree(Hpa),
    /// The TLB epoch of the TD with this TDR.
    Epoch(Hpa),
    /// One secure-EPT entry.
    Entry {
        /// The TD's TDR.
        tdr: Hpa,
        /// A guest physical address that the entry maps.
        gpa: Gpa,
        /// The entry's level, 0 for 4 KiB.
        level: u8,
    },
    /// The key ownership table.
    Kot,
    /// The module's global lock.
    Global,
    /// PHYMEM.CACHE.WB of a package.
    Wbt(u32),
    /// The TDMR with this base.
    Tdmr(Hpa),
}

enum Word<'m> {
    Hp(&'m SharexHp, Name),
    Plain(&'m Sharex, Name),
    Mutex(&'m MutexWord, Name),
    Entry(Walk<'m>),
}

impl Module {
    fn word(&self, at: LockAt) -> Option<Word<'_>> {
        let pamt = |pa, size| {
            let chain = self.chain(pa)?;
            Some(Word::Hp(chain.entry(size).lock(), chain.name(size)))
        };
        match at {
            LockAt::Page(pa) => pamt(pa, PageSize::K4),
            LockAt::Pamt2m(pa) => pamt(pa, PageSize::M2),
            LockAt::Pamt1g(pa) => pamt(pa, PageSize::G1),
            LockAt::OpState(tdr) => Some(Word::Hp(
                &self.td_at(tdr)?.op_state_lock,
                OP_STATE.at(tdr.0),
            )),
            LockAt::SeptTree(tdr) => Some(Word::Plain(
                &self.td_at(tdr)?.sept_lock,
                SEPT_TREE.at(tdr.0),
            )),
            LockAt::Epoch(tdr) => Some(Word::Plain(
                &self.td_at(tdr)?.epoch_lock,
                TD_EPOCH.at(tdr.0),
            )),
            LockAt::Entry { tdr, gpa, level } => {
                let found = self.find_entry(self.td_at(tdr)?, gpa, level)?;
                Some(Word::Entry(found))
            }
            LockAt::Kot => Some(Word::Plain(&self.sys.kot_lock, KOT.only())),
            LockAt::Global => Some(Word::Plain(&self.sys.global, GLOBAL.only())),
            LockAt::Wbt(package) => {
                let wbt = self.sys.wbt.get(package as usize)?;
                Some(Word::Mutex(&wbt.lock, WBT.at(u64::from(package))))
            }
            LockAt::Tdmr(base) => Some(Word::Mutex(&self.sys.tdmr(base)?.lock, TDMR.at(base.0))),
        }
    }

    pub(crate) fn td_at(&self, tdr: Hpa) -> Option<&Td> {
        self.chain(tdr)?.page.td()
    }

    /// One attempt at a word as another host call would make it. A word that does not exist is busy.
    ///
    /// # Errors
    /// [`Busy::Held`] when the word is held; the attempt may have left its mark.
    pub fn hold(&self, at: LockAt, mode: Mode) -> Result<(), Busy> {
        let ok = match self.word(at) {
            Some(Word::Hp(word, name)) => word.try_acquire(mode, name),
            Some(Word::Plain(word, name)) => word.try_acquire(mode, name),
            Some(Word::Mutex(word, name)) => word.try_acquire(name),
            Some(Word::Entry(walk)) => EntryLock::try_host(walk.slot, walk.name),
            None => false,
        };
        if ok { Ok(()) } else { Err(Busy::Held) }
    }

    /// Gives back what [`hold`](Module::hold) took.
    pub fn release(&self, at: LockAt, mode: Mode) {
        match self.word(at) {
            Some(Word::Hp(word, name)) => word.release(mode, name),
            Some(Word::Plain(word, name)) => word.release(mode, name),
            Some(Word::Mutex(word, name)) => word.release(name),
            Some(Word::Entry(walk)) => EntryLock::release(walk.slot, walk.name),
            None => {}
        }
    }

    /// What a word holds; None for a word that does not exist.
    pub fn peek(&self, at: LockAt) -> Option<WordView> {
        Some(match self.word(at)? {
            Word::Hp(word, _) => word.view(),
            Word::Plain(word, _) => word.view(),
            Word::Mutex(word, _) => word.view(),
            Word::Entry(walk) => EntryLock::view(walk.slot.load(SeqCst)),
        })
    }

    /// One attempt at a word by the rules of the guest side.
    ///
    /// # Errors
    /// When the word is held, or a host call that found it busy goes first.
    pub fn guest_try(&self, at: LockAt, mode: Mode) -> Result<(), Busy> {
        let held = |ok: bool| if ok { Ok(()) } else { Err(Busy::Held) };
        match self.word(at) {
            Some(Word::Hp(word, name)) => word.guest_try(mode, name),
            Some(Word::Plain(word, name)) => held(word.try_acquire(mode, name)),
            Some(Word::Mutex(word, name)) => held(word.try_acquire(name)),
            Some(Word::Entry(walk)) => EntryLock::try_guest(walk.slot, walk.name),
            None => Err(Busy::Held),
        }
    }
}
