//! Memory attributes: which guest frames are private (`kvm->mem_attr_array`).
//!
//! # Locking
//! Changed under `slots_lock`, with an MMU invalidation in progress; read under any of `slots_lock`,
//! `mmu_lock` or, in the fault path, none.

use std::collections::BTreeMap;

use seamlock_sync::{Class, Private, Shared};
use seamlock_tdx_abi::Gfn;
use seamlock_tdx_abi::kvm::{Errno, KVM_MEMORY_ATTRIBUTE_PRIVATE, KvmMemoryAttributes};
use seamlock_tdx_abi::{PAGE_SHIFT, PAGE_SIZE};

use super::Kvm;
use crate::error::{Result, fail};
use crate::task::Task;

static MEM_ATTR_ARRAY: Class = Class::new("kvm->mem_attr_array");

/// The private ranges of a VM.
#[derive(Debug)]
pub struct Attributes {
    version: Shared<u64>,
    /// Private ranges: first frame and the frame after the last. They neither touch nor overlap.
    private: Private<BTreeMap<u64, u64>>,
}

impl Attributes {
    pub(super) fn new(vm: u64) -> Attributes {
        Attributes {
            version: Shared::new(MEM_ATTR_ARRAY.at(vm), 0),
            private: Private::default(),
        }
    }

    /// `kvm_mem_is_private`.
    #[inline]
    pub fn is_private(&self, gfn: Gfn) -> bool {
        self.version.load();
        self.private.with(|ranges| {
            ranges
                .range(..=gfn.0)
                .next_back()
                .is_some_and(|(_, end)| gfn.0 < *end)
        })
    }

    /// Whether all of `start..end` is private, or none of it.
    fn is_uniform(&self, start: u64, end: u64, private: bool) -> bool {
        self.version.load();
        self.private.with(|ranges| {
            let last = ranges.range(..end).next_back().map(|(s, e)| (*s, *e));
            match last {
                Some((s, e)) if private => s <= start && e >= end,
                Some((_, e)) => e <= start,
                None => !private,
            }
        })
    }

    fn set(&self, start: u64, end: u64, private: bool) {
        // First, as in Memslots::replace.
        self.version.fetch_add(1);
        self.private
            .with(|ranges| cut_and_fill(ranges, start, end, private));
    }
}

fn cut_and_fill(ranges: &mut BTreeMap<u64, u64>, mut start: u64, mut end: u64, fill: bool) {
    // When filling, ranges that touch are joined; when clearing, only what overlaps is cut.
    let reach = if fill { end + 1 } else { end };
    while let Some((s, e)) = ranges.range(..reach).next_back().map(|(s, e)| (*s, *e)) {
        if e < start || (!fill && e <= start) {
            break;
        }
        ranges.remove(&s);
        if fill {
            start = start.min(s);
            end = end.max(e);
            continue;
        }
        if s < start {
            ranges.insert(s, start);
        }
        if e > end {
            ranges.insert(end, e);
        }
        if s <= start {
            break;
        }
    }
    if fill {
        ranges.insert(start, end);
    }
}

const SITE: &str = "virt/kvm/kvm_main.c:2658 kvm_vm_ioctl_set_mem_attributes";

/// KVM_SET_MEMORY_ATTRIBUTES.
///
/// # Errors
/// EINVAL for flags, attributes that the VM type lacks, and a range that is empty, unaligned or wraps.
pub(crate) fn set_memory_attributes(
    task: &Task,
    kvm: &Kvm,
    attrs: &KvmMemoryAttributes,
) -> Result<()> {
    let supported = if kvm.has_private_mem() {
        KVM_MEMORY_ATTRIBUTE_PRIVATE
    } else {
        0
    };
    if attrs.flags != 0 {
        return fail(Errno::EINVAL, SITE, "flags are not zero");
    }
    if attrs.attributes & !supported != 0 {
        return fail(
            Errno::EINVAL,
            SITE,
            "an attribute is not supported by this VM type",
        );
    }
    if attrs.size == 0 || attrs.address.checked_add(attrs.size).is_none() {
        return fail(Errno::EINVAL, SITE, "the range is empty or wraps");
    }
    if !attrs.address.is_multiple_of(PAGE_SIZE) || !attrs.size.is_multiple_of(PAGE_SIZE) {
        return fail(Errno::EINVAL, SITE, "the range is not page aligned");
    }
    let start = attrs.address >> PAGE_SHIFT;
    let end = (attrs.address + attrs.size) >> PAGE_SHIFT;
    let private = attrs.attributes != 0;
    let _slots = kvm.slots_lock.lock();
    if kvm.attributes.is_uniform(start, end, private) {
        return Ok(());
    }
    let slots = kvm.memslots.in_range(0, start, end);
    if !slots.is_empty() {
        let mmu = kvm.mmu_lock.write();
        kvm.mirror.invalidate_begin(&mmu);
        // Frames that become private lose their shared mappings, and the other way round; only
        // private mappings are in the mirror.
        for slot in slots.iter().filter(|_| !private) {
            let (start, end) = (start.max(slot.base_gfn), end.min(slot.end_gfn()));
            kvm.zap_gfn_range(task, &mmu, start, end);
        }
    }
    kvm.attributes.set(start, end, private);
    if !slots.is_empty() {
        let mmu = kvm.mmu_lock.write();
        kvm.mirror.invalidate_end(&mmu);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model_check(steps: &[(u64, u64, bool)]) {
        let attributes = Attributes::new(1);
        let mut model = [false; 64];
        for &(start, end, private) in steps {
            let uniform = model[start as usize..end as usize]
                .iter()
                .all(|p| *p == private);
            assert_eq!(
                attributes.is_uniform(start, end, private),
                uniform,
                "{steps:?}"
            );
            attributes.set(start, end, private);
            model[start as usize..end as usize].fill(private);
            for (gfn, expected) in model.iter().enumerate() {
                assert_eq!(
                    attributes.is_private(Gfn(gfn as u64)),
                    *expected,
                    "{gfn} {steps:?}"
                );
            }
            let ranges: Vec<_> = attributes.private.with(|r| r.clone().into_iter().collect());
            assert!(ranges.windows(2).all(|w| w[0].1 < w[1].0), "{ranges:?}");
        }
    }

    #[test]
    fn ranges_behave_as_one_flag_per_frame() {
        model_check(&[
            (0, 8, true),
            (8, 16, true),
            (4, 12, false),
            (6, 7, true),
            (0, 64, true),
        ]);
        model_check(&[
            (10, 20, true),
            (30, 40, true),
            (15, 35, false),
            (0, 64, false),
        ]);
        let mut seed = 7u64;
        for _ in 0..300 {
            let mut steps = Vec::new();
            for _ in 0..12 {
                seed = seed
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                let (a, b) = ((seed >> 33) % 64, (seed >> 43) % 64);
                steps.push((a.min(b), a.max(b) + 1, seed >> 60 & 1 == 0));
            }
            model_check(&steps);
        }
    }
}
