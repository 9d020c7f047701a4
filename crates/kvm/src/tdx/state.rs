//! `struct kvm_tdx`: what KVM knows of a TD.
//!
//! # Locking
//! `state` and `hkid` change under the VM-state guard (or when nobody else has the VM) and are read
//! without a lock. `page_add_src` is guarded by `slots_lock`; `wait_for_sept_zap` is written under
//! `mmu_lock` for writing.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use seamlock_sync::{Class, Private, Shared, Word};
use seamlock_tdx_abi::{Hkid, Hpa, PAGE_SHIFT};

use crate::locks::cells;
use crate::vm::Kvm;

static PAGE_ADD_SRC: Class = Class::new("kvm_tdx->page_add_src");
static NR_PREMAPPED: Class = Class::new("kvm_tdx->nr_premapped");

/// `enum kvm_tdx_state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TdState {
    /// KVM_TDX_INIT_VM has not succeeded, or the TD is gone.
    Uninitialized,
    /// The TD is being built.
    Initialized,
    /// The measurement is final; vCPUs may run.
    Runnable,
}

impl Word for TdState {
    fn to_word(self) -> u64 {
        self as u64
    }
    fn from_word(word: u64) -> TdState {
        match word {
            0 => TdState::Uninitialized,
            1 => TdState::Initialized,
            _ => TdState::Runnable,
        }
    }
}

/// What KVM_TDX_INIT_VM settled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TdConfig {
    /// ATTRIBUTES.
    pub attributes: u64,
    /// XFAM.
    pub xfam: u64,
    /// TSC offset of the TD.
    pub tsc_offset: u64,
    /// TSC multiplier of the TD.
    pub tsc_multiplier: u64,
    /// The shared bit as a frame number; 0 before INIT_VM.
    pub gfn_direct_bits: u64,
}

/// The TDX half of a VM. Unused when the VM is no TD.
#[derive(Debug)]
pub struct KvmTdx {
    state: Shared<TdState>,
    hkid: Shared<u16>,
    tdr: AtomicU64,
    gfn_direct_bits: AtomicU64,
    shared_root: OnceLock<Option<Hpa>>,
    /// TDCS pages; None where a page was freed before it was added.
    pub(crate) tdcs_pages: Private<Vec<Option<Hpa>>>,
    pub(crate) config: Private<TdConfig>,
    pub(crate) wait_for_sept_zap: Shared<bool>,
    /// The source of the PAGE.ADD that is under way; 0 for none.
    pub(crate) page_add_src: Shared<u64>,
    /// Pages that the mirror has and the secure EPT lacks (`Population::Premap` only).
    pub(crate) nr_premapped: Shared<u64>,
}

impl KvmTdx {
    pub(crate) fn new(vm: u64) -> KvmTdx {
        KvmTdx {
            state: Shared::new(cells::TD_STATE.at(vm), TdState::Uninitialized),
            hkid: Shared::new(cells::HKID.at(vm), 0),
            tdr: AtomicU64::new(0),
            gfn_direct_bits: AtomicU64::new(0),
            shared_root: OnceLock::new(),
            tdcs_pages: Private::default(),
            config: Private::default(),
            wait_for_sept_zap: Shared::new(cells::WAIT_FOR_SEPT_ZAP.at(vm), false),
            page_add_src: Shared::new(PAGE_ADD_SRC.at(vm), 0),
            nr_premapped: Shared::new(NR_PREMAPPED.at(vm), 0),
        }
    }

    /// Pages that were mapped and not added yet; always 0 but under `Population::Premap`.
    pub fn nr_premapped(&self) -> u64 {
        self.nr_premapped.peek()
    }

    /// `kvm_tdx->state`.
    #[inline]
    pub fn state(&self) -> TdState {
        self.state.load()
    }

    pub(crate) fn set_state(&self, state: TdState) {
        self.state.store(state);
    }

    /// The TD's HKID while it has one (`is_hkid_assigned`).
    pub fn hkid(&self) -> Option<Hkid> {
        Some(self.hkid.load()).filter(|hkid| *hkid != 0).map(Hkid)
    }

    pub(crate) fn set_hkid(&self, hkid: Option<Hkid>) {
        self.hkid.store(hkid.map_or(0, |h| h.0));
    }

    /// The TDR page.
    #[inline]
    pub fn tdr(&self) -> Option<Hpa> {
        Some(self.tdr.load(SeqCst)).filter(|tdr| *tdr != 0).map(Hpa)
    }

    pub(crate) fn set_tdr(&self, tdr: Option<Hpa>) {
        self.tdr.store(tdr.map_or(0, |t| t.0), SeqCst);
    }

    pub(crate) fn set_config(&self, config: TdConfig) {
        self.gfn_direct_bits.store(config.gfn_direct_bits, SeqCst);
        self.config.with(|c| *c = config);
    }

    /// The shared bit as a frame number (`kvm_gfn_direct_bits`); 0 before INIT_VM.
    pub fn gfn_direct_bits(&self) -> u64 {
        self.gfn_direct_bits.load(SeqCst)
    }

    /// Whether a frame has the shared bit (`kvm_is_gfn_alias`).
    pub fn is_shared_gfn(&self, gfn: u64) -> bool {
        gfn & self.gfn_direct_bits() != 0
    }

    /// Whether a guest address is private (`vt_is_tdx_private_gpa`): it lacks the shared bit.
    pub fn is_private_gpa(&self, gpa: u64) -> bool {
        !self.is_shared_gfn(gpa >> PAGE_SHIFT)
    }

    /// Levels of the TD's EPT.
    pub fn ept_levels(&self) -> u8 {
        if self.gfn_direct_bits() == 1 << (51 - PAGE_SHIFT) {
            5
        } else {
            4
        }
    }

    /// The root of the shared EPT, which all vCPUs have in common; None when memory is exhausted.
    pub(crate) fn shared_root_or_alloc(&self, kvm: &Kvm) -> Option<Hpa> {
        *self
            .shared_root
            .get_or_init(|| kvm.host.alloc_page(kvm.owner()))
    }

    /// The root of the shared EPT if a vCPU has loaded one.
    pub(crate) fn shared_root(&self) -> Option<Hpa> {
        self.shared_root.get().copied().flatten()
    }
}
