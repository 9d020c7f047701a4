//! The leaves that the host may configure, in the order of TD_PARAMS.CPUID_CONFIG.
//!
//! Source: TDX module 1.5.06 (facts of its generated table).

use seamlock_tdx_abi::td_params::NUM_CPUID_CONFIG;

use super::Value;

/// One leaf that the host may configure.
#[derive(Clone, Copy, Debug)]
pub struct Configurable {
    /// EAX on input.
    pub leaf: u32,
    /// ECX on input; None when the leaf has no subleaves.
    pub subleaf: Option<u32>,
    /// Bits that come out as they are configured.
    pub direct: Value,
    /// Bits that come out as 1 when the processor has them and they are configured as 1.
    pub allow: Value,
    /// Index of the leaf in [`ENTRIES`](super::ENTRIES).
    pub entry: usize,
}

impl Configurable {
    /// The leaf in 31:0 and the subleaf in 63:32, all ones for a leaf that has none.
    pub fn leaf_subleaf(&self) -> u64 {
        u64::from(self.leaf) | u64::from(self.subleaf.unwrap_or(u32::MAX)) << 32
    }
}

const fn sub(leaf: u32, subleaf: u32, entry: usize, direct: Value, allow: Value) -> Configurable {
    Configurable {
        leaf,
        subleaf: Some(subleaf),
        direct,
        allow,
        entry,
    }
}

const fn whole(leaf: u32, entry: usize, direct: Value, allow: Value) -> Configurable {
    Configurable {
        subleaf: None,
        ..sub(leaf, 0, entry, direct, allow)
    }
}

const NONE: Value = [0; 4];
const ALL: u32 = u32::MAX;
const CACHE: Value = [0xffff_c3ff, 0xffff_f000, ALL, 0xffff_fffb];
const TOPOLOGY: Value = [0x1f, 0xffff, 0xffff, 0];

/// Every leaf that the host may configure.
#[rustfmt::skip]
pub const CONFIGURABLE: [Configurable; NUM_CPUID_CONFIG] = [
    whole(0x1, 0, [0x0fff_3fff, 0x00ff_0000, 0, 0], [0, 0, 0x3104_4d88, 0xb844_0000]),
    sub(0x4, 0, 1, CACHE, NONE),
    sub(0x4, 1, 2, CACHE, NONE),
    sub(0x4, 2, 3, CACHE, NONE),
    sub(0x4, 3, 4, [0xffff_c3ff, 0xffff_f000, ALL, 7], NONE),
    sub(0x7, 0, 5, NONE, [0, 0xdc2b_9b18, 0x0241_7f65, 0x0005_411c]),
    sub(0x7, 1, 6, NONE, [0x0488_1db0, 0, 0, 0x0002_0430]),
    whole(0xa, 7, NONE, NONE),
    whole(0x1c, 8, NONE, [0xff, 0, 0, 0]),
    whole(0x8000_0008, 9, [0xff, 0, 0, 0], [0, 0x200, 0, 0]),
    sub(0x7, 2, 14, NONE, [0, 0, 0, 0x28]),
    sub(0x23, 0, 59, NONE, [0xf, 0, 0, 0]),
    sub(0x1f, 0, 46, TOPOLOGY, NONE),
    sub(0x1f, 1, 47, TOPOLOGY, NONE),
    sub(0x1f, 2, 48, TOPOLOGY, NONE),
    sub(0x1f, 3, 49, TOPOLOGY, NONE),
    sub(0x1f, 4, 50, TOPOLOGY, NONE),
    sub(0x1f, 5, 51, TOPOLOGY, NONE),
];
