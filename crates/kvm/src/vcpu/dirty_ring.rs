//! The ring of pages that a vCPU has dirtied, in memory that it shares with user space. No guest code but
//! a TD's runs here, and private memory is never logged: what is in it was written by KVM itself.
//!
//! # Locking
//! A vCPU fills its own ring, under `vcpu->mutex`; rings are reset under `slots_lock`.
//!
//! Source: Linux v7.3.4 `virt/kvm/dirty_ring.c`.

use seamlock_sync::Private;
use seamlock_tdx_abi::PAGE_SIZE;
use seamlock_tdx_abi::kvm::{
    KVM_DIRTY_GFN_F_DIRTY, KVM_DIRTY_GFN_F_RESET, KVM_DIRTY_LOG_PAGE_OFFSET, KvmDirtyGfn,
};
use zerocopy::{FromZeros, IntoBytes};

use super::Vcpu;
use crate::task::Task;

/// Where the ring starts in the vCPU's mapping.
const START: usize = KVM_DIRTY_LOG_PAGE_OFFSET * PAGE_SIZE as usize;
const ENTRY: usize = size_of::<KvmDirtyGfn>();

/// `struct kvm_dirty_ring`, but for its entries.
#[derive(Debug)]
pub(crate) struct DirtyRing {
    /// Entries, a power of two; 0 where the VM has no rings.
    entries: u32,
    indices: Private<Indices>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Indices {
    dirty: u32,
    reset: u32,
}

impl DirtyRing {
    /// A ring of this many bytes.
    pub(super) fn new(bytes: u32) -> DirtyRing {
        DirtyRing {
            entries: bytes / ENTRY as u32,
            indices: Private::default(),
        }
    }

    /// Where an entry lies in the vCPU's mapping.
    fn place(&self, index: u32) -> usize {
        START + (index & (self.entries - 1)) as usize * ENTRY
    }
}

impl Vcpu {
    /// `kvm_dirty_ring_push`. Whether the VM has rings.
    pub(crate) fn push_dirty(&self, slot: u32, offset: u64) -> bool {
        let ring = &self.dirty_ring;
        if ring.entries == 0 {
            return false;
        }
        let index = ring.indices.with(|indices| {
            let index = indices.dirty;
            indices.dirty = index.wrapping_add(1);
            index
        });
        let mut entry = KvmDirtyGfn {
            flags: 0,
            slot,
            offset,
        };
        self.run.write(ring.place(index), entry.as_bytes());
        entry.flags = KVM_DIRTY_GFN_F_DIRTY;
        let flags = entry.flags.to_le_bytes();
        self.run.write(ring.place(index), &flags);
        true
    }

    /// `kvm_dirty_ring_reset`: makes room of the entries that user space has taken note of, and adds how
    /// many they are. False when a signal is pending. Nothing is write-protected again.
    pub(crate) fn reset_dirty(&self, task: &Task, cleared: &mut i32) -> bool {
        let ring = &self.dirty_ring;
        while ring.entries != 0 && *cleared < i32::MAX {
            if task.signal_pending() {
                return false;
            }
            let index = ring.indices.with(|indices| indices.reset);
            let mut entry = KvmDirtyGfn::new_zeroed();
            self.run.read(ring.place(index), entry.as_mut_bytes());
            if entry.flags & KVM_DIRTY_GFN_F_RESET == 0 {
                break;
            }
            self.run.write(ring.place(index), &0u32.to_le_bytes());
            ring.indices
                .with(|indices| indices.reset = index.wrapping_add(1));
            *cleared += 1;
        }
        true
    }
}
