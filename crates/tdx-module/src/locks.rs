//! The module's locks: their classes, and guards that give words back in the module's order.
//!
//! Every lock here is a word of Intel's module (specification "Concurrency"; `tdx_locks.h`). All are
//! tried once: there is no queue, no spinning and no time-out on the host side.

use std::sync::atomic::AtomicU64;

use seamlock_sync::{Busy, Class, EntryLock, Mode, MutexWord, Name, Sharex, SharexHp};

/// PAMT entry of a 4 KiB page: TDR, TDVPR, any page operand.
pub static PAMT_4K: Class = Class::new("PAMT.4K");
/// PAMT entry of a 2 MiB page.
pub static PAMT_2M: Class = Class::new("PAMT.2M");
/// PAMT entry of a 1 GiB page.
pub static PAMT_1G: Class = Class::new("PAMT.1G");
/// OP_STATE of a TD.
pub static OP_STATE: Class = Class::new("TDCS.OP_STATE");
/// The secure-EPT tree of a TD.
pub static SEPT_TREE: Class = Class::new("TDCS.SEPT");
/// The TLB epoch of a TD.
pub static TD_EPOCH: Class = Class::new("TDCS.TD_EPOCH");
/// The run-time measurement registers of a TD.
pub static RTMR: Class = Class::new("TDCS.RTMR");
/// One secure-EPT entry: TDR, and GPA with level.
pub static SEPT_ENTRY: Class = Class::new("SEPT.ENTRY");
/// The key ownership table.
pub static KOT: Class = Class::new("KOT");
/// The module's global lock.
pub static GLOBAL: Class = Class::new("SYS");
/// PHYMEM.CACHE.WB of one package.
pub static WBT: Class = Class::new("WBT");
/// One TDMR's initialisation.
pub static TDMR: Class = Class::new("TDMR");

/// A hold of a [`SharexHp`] word.
#[derive(Debug)]
pub(crate) struct HpGuard<'m> {
    word: &'m SharexHp,
    mode: Mode,
    name: Name,
}

impl<'m> HpGuard<'m> {
    /// One attempt by a host call.
    #[inline]
    pub(crate) fn try_host(word: &'m SharexHp, mode: Mode, name: Name) -> Option<HpGuard<'m>> {
        word.try_acquire(mode, name)
            .then(|| HpGuard { word, mode, name })
    }

    /// One attempt by the guest side.
    ///
    /// # Errors
    /// When the word is held, or a host call goes first.
    pub(crate) fn try_guest(
        word: &'m SharexHp,
        mode: Mode,
        name: Name,
    ) -> Result<HpGuard<'m>, Busy> {
        word.guest_try(mode, name)?;
        Ok(HpGuard { word, mode, name })
    }

    /// Leaves the word held; whoever ends what it protects releases it by name.
    pub(crate) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for HpGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.word.release(self.mode, self.name);
    }
}

/// A hold of a [`Sharex`] word.
#[derive(Debug)]
pub(crate) struct SharexGuard<'m> {
    word: &'m Sharex,
    mode: Mode,
    name: Name,
}

impl<'m> SharexGuard<'m> {
    /// One attempt.
    #[inline]
    pub(crate) fn try_take(word: &'m Sharex, mode: Mode, name: Name) -> Option<SharexGuard<'m>> {
        word.try_acquire(mode, name)
            .then(|| SharexGuard { word, mode, name })
    }
}

impl Drop for SharexGuard<'_> {
    fn drop(&mut self) {
        self.word.release(self.mode, self.name);
    }
}

/// A hold of a [`MutexWord`].
#[derive(Debug)]
pub(crate) struct MutexWordGuard<'m> {
    word: &'m MutexWord,
    name: Name,
}

impl<'m> MutexWordGuard<'m> {
    /// One attempt.
    pub(crate) fn try_take(word: &'m MutexWord, name: Name) -> Option<MutexWordGuard<'m>> {
        word.try_acquire(name)
            .then(|| MutexWordGuard { word, name })
    }
}

impl Drop for MutexWordGuard<'_> {
    fn drop(&mut self) {
        self.word.release(self.name);
    }
}

/// A hold of one secure-EPT entry.
#[derive(Debug)]
pub(crate) struct EntryGuard<'m> {
    entry: &'m AtomicU64,
    name: Name,
}

impl<'m> EntryGuard<'m> {
    /// One attempt by a host call.
    pub(crate) fn try_host(entry: &'m AtomicU64, name: Name) -> Option<EntryGuard<'m>> {
        EntryLock::try_host(entry, name).then(|| EntryGuard { entry, name })
    }

    /// One attempt by the guest side.
    ///
    /// # Errors
    /// When the entry is held, or a host call goes first.
    pub(crate) fn try_guest(entry: &'m AtomicU64, name: Name) -> Result<EntryGuard<'m>, Busy> {
        EntryLock::try_guest(entry, name)?;
        Ok(EntryGuard { entry, name })
    }

    /// Leaves the entry locked: its table is none any more.
    pub(crate) fn forget(self) {
        std::mem::forget(self);
    }
}

impl Drop for EntryGuard<'_> {
    fn drop(&mut self) {
        EntryLock::release(self.entry, self.name);
    }
}
