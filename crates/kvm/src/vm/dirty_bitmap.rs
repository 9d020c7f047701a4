//! The log of a memslot: which of its pages were written. Guests' writes are not seen; KVM's own are.
//!
//! # Locking
//! `slots_lock` to read and to clear; whoever writes guest memory sets bits without a lock.
//!
//! Source: Linux v7.3.4 `virt/kvm/kvm_main.c` (`mark_page_dirty_in_slot`, `kvm_get_dirty_log_protect`).

use std::collections::BTreeMap;

use seamlock_sync::Private;
use seamlock_tdx_abi::Gfn;

use super::{Kvm, Slot};
use crate::vcpu::Vcpu;

/// `dirty_bitmap`, which costs what differs from its start.
#[derive(Debug)]
pub(crate) struct DirtyBitmap {
    pages: u64,
    /// Every page is dirty at first.
    set: bool,
    words: Private<BTreeMap<u64, u64>>,
}

impl DirtyBitmap {
    pub(super) fn new(pages: u64, set: bool) -> DirtyBitmap {
        DirtyBitmap {
            pages,
            set,
            words: Private::default(),
        }
    }

    /// A word as it was at first.
    fn first(&self, at: u64) -> u64 {
        let left = self.pages.saturating_sub(at * 64).min(64);
        match left {
            _ if !self.set => 0,
            64 => u64::MAX,
            left => (1 << left) - 1,
        }
    }

    fn set(&self, page: u64) {
        let at = page / 64;
        self.words.with(|words| {
            *words.entry(at).or_insert_with(|| self.first(at)) |= 1 << (page % 64);
        });
    }

    /// The whole of it.
    pub(crate) fn words(&self) -> Vec<u64> {
        let mut all: Vec<u64> = (0..self.pages.div_ceil(64))
            .map(|at| self.first(at))
            .collect();
        self.words.with(|words| {
            for (at, word) in words.iter() {
                all[*at as usize] = *word;
            }
        });
        all
    }

    /// Takes bits out of a word.
    pub(crate) fn clear(&self, at: u64, bits: u64) {
        self.words.with(|words| {
            *words.entry(at).or_insert_with(|| self.first(at)) &= !bits;
        });
    }
}

impl Kvm {
    /// `mark_page_dirty_in_slot`, by a vCPU that is loaded.
    pub(crate) fn mark_page_dirty(&self, vcpu: &Vcpu, slot: &Slot, gfn: Gfn) {
        let Some(log) = slot.logs_dirty_pages().then_some(&slot.dirty) else {
            return;
        };
        let page = gfn.0 - slot.base_gfn;
        if !vcpu.push_dirty(slot.as_id << 16 | slot.id, page)
            && let Some(bitmap) = log
        {
            bitmap.set(page);
        }
    }
}
