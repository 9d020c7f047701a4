//! CPUID as a TD sees it: what the host may configure, and what comes out.
//!
//! Every leaf that the module knows is an [`Entry`] of [`ENTRIES`]; a TD keeps one value for each,
//! in the same order (metadata field CPUID_VALUES). A bit of such a value is one of
//!
//! | kind | value |
//! |---|---|
//! | FIXED0, or dynamic | 0; dynamic bits are filled in when the guest asks |
//! | FIXED1 | 1 |
//! | CONFIG_DIRECT | as configured in TD_PARAMS |
//! | ALLOW_DIRECT | native, and configured as 1 |
//! | by XFAM or ATTRIBUTES | native, if the TD has the feature |
//! | native | as the processor has it |
//!
//! Source: TDX module 1.5.06, `cpuid_configurations`; ABI specification, "CPUID Virtualization".

mod configurable;
mod entries;
mod family;
mod topology;
mod virtualize;
mod xfam;

pub use configurable::{CONFIGURABLE, Configurable};
pub use entries::{ENTRIES, Entry, NUM_CPUID_VALUES};
pub(crate) use family::allowed_families;
pub(crate) use virtualize::{MIN_VIRT_MAXPA, virtualize};

use crate::platform::Platform;

/// EAX, EBX, ECX and EDX.
pub type Value = [u32; 4];

/// Leaf in 63:32 and 31:0 the subleaf plus 1, or 0 for a leaf without subleaves; with the index in
/// [`ENTRIES`]. Ascending.
const SORTED: [(u64, u8); NUM_CPUID_VALUES] = sorted();

const fn sorted() -> [(u64, u8); NUM_CPUID_VALUES] {
    let mut sorted = [(0, 0); NUM_CPUID_VALUES];
    let mut i = 0;
    while i < NUM_CPUID_VALUES {
        let entry = &ENTRIES[i];
        let key = match (entry.is_used(), entry.subleaf) {
            (false, _) => u64::MAX,
            (true, None) => (entry.leaf as u64) << 32,
            (true, Some(subleaf)) => (entry.leaf as u64) << 32 | (subleaf as u64 + 1),
        };
        let mut at = i;
        while at > 0 && sorted[at - 1].0 > key {
            sorted[at] = sorted[at - 1];
            at -= 1;
        }
        sorted[at] = (key, i as u8);
        i += 1;
    }
    sorted
}

/// The index in [`ENTRIES`] of a leaf and subleaf. A leaf without subleaves has one entry for all.
#[inline]
pub fn lookup(leaf: u32, subleaf: u32) -> Option<usize> {
    let whole = u64::from(leaf) << 32;
    let key = whole
        | u64::from(subleaf)
            .saturating_add(1)
            .min(u64::from(u32::MAX));
    let after = SORTED.partition_point(|(k, _)| *k <= key);
    let (found, index) = SORTED[after.checked_sub(1)?];
    (found == key || found == whole).then_some(usize::from(index))
}

/// The processor's values in the order of [`ENTRIES`], bits that are the same in every TD applied.
pub(crate) fn native_values(platform: &Platform) -> [Value; NUM_CPUID_VALUES] {
    std::array::from_fn(|i| {
        let entry = &ENTRIES[i];
        if !entry.is_used() {
            return [0; 4];
        }
        let native = platform.cpuid(entry.leaf, entry.subleaf.unwrap_or(0));
        std::array::from_fn(|r| native[r] & !entry.fixed0[r] | entry.fixed1[r])
    })
}

/// The bits of a configurable leaf that the host may set on this machine, as SYS.RD and SYS.INFO
/// report them.
pub(crate) fn configurable_bits(
    config: &Configurable,
    native: &[Value; NUM_CPUID_VALUES],
) -> Value {
    let native = &native[config.entry];
    std::array::from_fn(|r| config.direct[r] | config.allow[r] & native[r])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_configurable_leaf_is_linked_with_its_entry_both_ways() {
        for (i, config) in CONFIGURABLE.iter().enumerate() {
            let entry = &ENTRIES[config.entry];
            assert_eq!(
                (entry.leaf, entry.subleaf),
                (config.leaf, config.subleaf),
                "{i}"
            );
            assert_eq!(entry.config, Some(i));
        }
        let linked = ENTRIES.iter().filter(|e| e.config.is_some()).count();
        assert_eq!(linked, CONFIGURABLE.len());
    }

    #[test]
    fn no_bit_is_of_two_kinds() {
        for entry in &ENTRIES {
            let none = [0; 4];
            let config = entry.config.map(|c| &CONFIGURABLE[c]);
            let (direct, allow) = config.map_or((&none, &none), |c| (&c.direct, &c.allow));
            for r in 0..4 {
                let kinds = [entry.fixed0[r], entry.fixed1[r], direct[r], allow[r]];
                let sum: u64 = kinds.iter().map(|k| u64::from(*k)).sum();
                let or = kinds.iter().fold(0, |or, k| or | k);
                assert_eq!(
                    sum,
                    u64::from(or),
                    "{:#x} {:?} {r}",
                    entry.leaf,
                    entry.subleaf
                );
            }
        }
    }

    #[test]
    fn a_leaf_without_subleaves_is_found_whatever_the_subleaf() {
        assert_eq!(lookup(1, 0), Some(0));
        assert_eq!(lookup(1, 77), Some(0));
        assert_eq!(lookup(4, 3), Some(4));
        assert_eq!(lookup(4, 5), None);
        assert_eq!(lookup(0, 0), Some(10));
        assert_eq!(lookup(0x4000_0000, 0), None);
        assert_eq!(lookup(1, u32::MAX), Some(0));
        assert_eq!(lookup(4, u32::MAX), None);
    }

    #[test]
    fn every_entry_is_found() {
        for (i, entry) in ENTRIES.iter().enumerate().filter(|(_, e)| e.is_used()) {
            assert_eq!(lookup(entry.leaf, entry.subleaf.unwrap_or(0)), Some(i));
        }
    }
}
