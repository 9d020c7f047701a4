//! CPUID bits that exist only for a TD that has an extended feature.
//!
//! Source: TDX module 1.5.06 (facts of its generated tables).

use super::Value;

/// XFAM bits, and the CPUID bits that a TD does not have unless it has *all* of the listed
/// features.
pub(super) type Masks = &'static [(u64, Value)];

const AVX: u64 = 1 << 2;
const AVX512: u64 = 7 << 5;
const PT: u64 = 1 << 8;
const PK: u64 = 1 << 9;
const CET: u64 = 3 << 11;
const ULI: u64 = 1 << 14;
const LBR: u64 = 1 << 15;
const AMX: u64 = 3 << 17;

/// Leaf 1.
pub(super) const LEAF_1: Masks = &[(AVX, [0, 0, 0x3000_1000, 0])];

/// Leaf 7, subleaf 0.
pub(super) const LEAF_7_0: Masks = &[
    (AVX, [0, 0x20, 0x600, 0]),
    (AVX512, [0, 0xdc23_0000, 0x5842, 0x0080_010c]),
    (PT, [0, 0x0200_0000, 0, 0]),
    (PK, [0, 0, 0x8, 0]),
    (CET, [0, 0, 0x80, 0x0010_0000]),
    (ULI, [0, 0, 0, 0x20]),
    (LBR, [0, 0, 0, 0x0008_0000]),
    (AMX, [0, 0, 0, 0x0340_0000]),
];

/// Leaf 7, subleaf 1.
pub(super) const LEAF_7_1: Masks = &[(AVX, [0x0080_0010, 0, 0, 0x430]), (AVX512, [0x20, 0, 0, 0])];

/// Leaf 0xD, subleaf 0.
pub(super) const LEAF_D_0: Masks = &[
    (AVX, [0x4, 0, 0, 0]),
    (AVX512, [0xe0, 0, 0, 0]),
    (PK, [0x200, 0, 0, 0]),
    (AMX, [0x6_0000, 0, 0, 0]),
];

/// Leaf 0xD, subleaf 1.
pub(super) const LEAF_D_1: Masks = &[
    (PT, [0, 0, 0x100, 0]),
    (CET, [0, 0, 0x1800, 0]),
    (ULI, [0, 0, 0x4000, 0]),
    (LBR, [0, 0, 0x8000, 0]),
];

/// Leaves that a TD has only with a feature.
pub(super) const WHOLE_LEAVES: &[(u32, u64)] = &[(0x14, PT), (0x1c, LBR), (0x1d, AMX)];

/// Clears the bits of features that the TD does not have.
pub(super) fn apply(value: &mut Value, xfam: u64, masks: Masks) {
    for (features, bits) in masks {
        if xfam & features != *features {
            for (value, bits) in value.iter_mut().zip(bits) {
                *value &= !bits;
            }
        }
    }
}
