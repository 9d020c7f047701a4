//! Processor families that a migratable TD may claim: this one, and older ones that TDX runs on.
//!
//! Source: TDX module 1.5.06 (facts of `cpuid_fms`).

/// CPUID(1).EAX of every TDX processor, latest stepping, newest first.
const KNOWN: [u32; 6] = [0xd06d0, 0xa06e0, 0xa06d0, 0xa06f3, 0xc06f2, 0x806f8];

const STEPPING: u32 = 0xf;

fn same_model(a: u32, b: u32) -> bool {
    (a ^ b) & !STEPPING == 0
}

/// What a TD on `platform` (its CPUID(1).EAX) may claim, `platform` first. Empty for a processor
/// that is not known.
pub(crate) fn allowed_families(platform: u32) -> impl Iterator<Item = u32> + Clone {
    let own = KNOWN.iter().position(|k| same_model(*k, platform));
    let older = KNOWN[own.map_or(KNOWN.len(), |own| own + 1)..].iter();
    own.map(|_| platform).into_iter().chain(older.copied())
}

/// Whether a migratable TD on `platform` may claim to run on `claimed`.
pub(super) fn is_allowed(claimed: u32, platform: u32) -> bool {
    allowed_families(platform).any(|f| same_model(f, claimed) && claimed & STEPPING <= f & STEPPING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_td_may_claim_this_or_an_older_processor_and_no_later_stepping() {
        let emerald_rapids = 0xc06f1;
        assert!(is_allowed(0xc06f1, emerald_rapids));
        assert!(!is_allowed(0xc06f2, emerald_rapids));
        assert!(is_allowed(0x806f8, emerald_rapids));
        assert!(!is_allowed(0xa06d0, emerald_rapids));
        assert!(!is_allowed(0x806f8, 0x1234));
    }
}
