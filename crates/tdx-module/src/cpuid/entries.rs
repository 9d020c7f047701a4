//! The leaves that the module knows, in the order of CPUID_VALUES.
//!
//! Source: TDX module 1.5.06 (facts of its generated table). Four of the 73 places are not used.

use super::Value;

/// Number of places in CPUID_VALUES.
pub const NUM_CPUID_VALUES: usize = 73;

/// One leaf or subleaf that the module virtualises.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// EAX on input.
    pub leaf: u32,
    /// ECX on input; None when the leaf has no subleaves.
    pub subleaf: Option<u32>,
    /// Bits that are 0, or that are only known when the guest asks.
    pub fixed0: Value,
    /// Bits that are 1.
    pub fixed1: Value,
    /// Index of the leaf in [`CONFIGURABLE`](super::CONFIGURABLE).
    pub config: Option<usize>,
    /// The guest gets #VE; there is no value to read.
    pub faulting: bool,
    used: bool,
}

impl Entry {
    /// Whether there is a leaf at this place.
    pub const fn is_used(&self) -> bool {
        self.used
    }

    const fn zero(mut self, bits: Value) -> Entry {
        self.fixed0 = bits;
        self
    }

    const fn one(mut self, bits: Value) -> Entry {
        self.fixed1 = bits;
        self
    }

    const fn config(mut self, index: usize) -> Entry {
        self.config = Some(index);
        self
    }

    const fn faulting(mut self) -> Entry {
        self.faulting = true;
        self
    }
}

const fn sub(leaf: u32, subleaf: u32) -> Entry {
    Entry {
        subleaf: Some(subleaf),
        ..whole(leaf)
    }
}

const fn whole(leaf: u32) -> Entry {
    Entry {
        leaf,
        subleaf: None,
        fixed0: [0; 4],
        fixed1: [0; 4],
        config: None,
        faulting: false,
        used: true,
    }
}

/// A state component of XSAVE: size, offset and flags are native.
const fn component(subleaf: u32) -> Entry {
    sub(0xd, subleaf).zero([0, 0, 0, ALL])
}

const fn cache(subleaf: u32) -> Entry {
    sub(4, subleaf).zero([0x3c00, 0, 0, 4])
}

const fn topology(leaf: u32, subleaf: u32) -> Entry {
    sub(leaf, subleaf).zero([0xffff_ffe0, 0xffff_0000, 0xffff_0000, ALL])
}

const ALL: u32 = u32::MAX;
const ZERO: Value = [ALL; 4];
const UNUSED: Entry = Entry {
    used: false,
    ..whole(0)
};

/// Every leaf that the module knows.
#[rustfmt::skip]
pub const ENTRIES: [Entry; NUM_CPUID_VALUES] = [
    whole(0x1).zero([0xf000_c000, 0xff00_00ff, 0x0801_0060, 0x4012_0400])
        .one([0, 0, 0x8000_0000, 0x200]).config(0),
    cache(0).config(1),
    cache(1).config(2),
    cache(2).config(3),
    sub(0x4, 3).zero([0x3c00, 0, 0, 0xffff_fff8]).config(4),
    sub(0x7, 0).zero([0, 0x0040_4006, 0x643e_8010, 0x0022_98c3]).config(5),
    sub(0x7, 1).zero([0xfb77_e20f, ALL, ALL, 0xfffd_fbcf]).config(6),
    whole(0xa).zero([0, 0, 0, 0xffff_6000]).config(7),
    whole(0x1c).config(8),
    whole(0x8000_0008).zero([0xffff_0000, 0xffff_fdff, ALL, ALL]).config(9),
    whole(0x0).zero([0xffff_ffdc, 0, 0, 0]).one([0x23, 0, 0, 0]),
    whole(0x3).zero(ZERO),
    sub(0x4, 4).zero(ZERO),
    whole(0x6).faulting(),
    sub(0x7, 2).zero([ALL, ALL, ALL, 0xffff_ffc0]).config(10),
    whole(0x8).zero(ZERO),
    sub(0xd, 0).zero([0xfff9_fd18, ALL, 0, ALL]),
    sub(0xd, 1).zero([0xffff_ffe0, ALL, 0xffff_26ff, ALL]),
    component(2), component(3), component(4), component(5), component(6), component(7),
    component(8), component(9), component(10), component(11), component(12), component(13),
    component(14), component(15), component(16), component(17), component(18),
    whole(0xe).zero(ZERO),
    whole(0x11).zero(ZERO),
    whole(0x12).zero(ZERO),
    whole(0x13).zero(ZERO),
    sub(0x14, 0).zero([0, 0xffff_fe00, 0x7fff_fff0, ALL]),
    sub(0x14, 1).zero([0xfff8, 0, ALL, ALL]),
    whole(0x15).zero([0xffff_fffe, 0, 0xfe82_87bf, ALL]).one([1, 0, 25_000_000, 0]),
    whole(0x19).zero(ZERO),
    sub(0x1d, 0),
    sub(0x1d, 1),
    whole(0x1e),
    topology(0x1f, 0).config(12),
    topology(0x1f, 1).config(13),
    topology(0x1f, 2).config(14),
    topology(0x1f, 3).config(15),
    topology(0x1f, 4).config(16),
    topology(0x1f, 5).config(17),
    whole(0x20).zero(ZERO),
    // "IntelTDX    "
    sub(0x21, 0).zero([ALL, 0x9a8b_91b6, 0xdfdf_dfdf, 0xa7bb_ab93])
        .one([0, 0x6574_6e49, 0x2020_2020, 0x5844_546c]),
    whole(0x8000_0000).zero([0x7fff_fff7, ALL, ALL, ALL]).one([0x8000_0008, 0, 0, 0]),
    whole(0x8000_0001).zero([ALL, ALL, 0xffff_fede, 0xd3ef_ffff]),
    whole(0x8000_0006).faulting(),
    whole(0x8000_0007).zero([ALL, ALL, ALL, 0xffff_feff]),
    whole(0x22).zero(ZERO),
    sub(0x23, 0).zero([0xffff_fff0, 0, ALL, ALL]).config(11),
    sub(0x23, 1).zero([0, 0, ALL, ALL]),
    sub(0x23, 2).zero(ZERO),
    sub(0x23, 3).zero([0, ALL, ALL, ALL]),
    whole(0x5).zero([0xffff_0000, 0xffff_0000, 0xffff_fffc, 0]),
    topology(0xb, 0),
    topology(0xb, 1),
    sub(0xb, 2).zero([ALL, ALL, 0xffff_ff00, ALL]),
    whole(0x1a).zero([0, ALL, ALL, ALL]),
    UNUSED, UNUSED, UNUSED, UNUSED,
    whole(0x2).zero([0xff01_00fe, ALL, ALL, ALL]).one([0x00fe_ff01, 0, 0, 0]),
];
