//! The processor topology that a TD sees: leaf 0x1F as configured, leaf 0xB derived from it.
//!
//! Source: TDX module 1.5.06; ABI specification, "CPUID leaf 1F configuration".

use seamlock_tdx_abi::status::TdxStatus;

use super::{NUM_CPUID_VALUES, Value};

/// Indices in CPUID_VALUES.
const LEAF_1F: usize = 46;
const LEAF_0B: usize = 64;
const LEVELS: usize = 6;

/// Level types of ECX 15:8.
const INVALID: u32 = 0;
const SMT: u32 = 1;
const CORE: u32 = 2;

fn level_type(value: &Value) -> u32 {
    value[2] >> 8 & 0xff
}

/// Checks leaf 0x1F and derives leaf 0xB. A leaf 0x1F that is configured as all zero becomes
/// native.
///
/// # Errors
/// CPUID_LEAF_1F_FORMAT_UNRECOGNIZED: levels out of order, numbered wrongly, without cores, or
/// partly zero.
pub(super) fn check_and_derive(
    values: &mut [Value; NUM_CPUID_VALUES],
    native: &[Value; NUM_CPUID_VALUES],
) -> Result<(), TdxStatus> {
    let unrecognized = TdxStatus::CPUID_LEAF_1F_FORMAT_UNRECOGNIZED;
    let is_native = values[LEAF_1F] == [0; 4];
    let (mut previous, mut has_cores, mut last) = (INVALID, false, [0; 4]);
    let mut core_level = 0;
    for level in 0..LEVELS {
        let value = &mut values[LEAF_1F + level];
        if is_native {
            if *value != [0; 4] {
                return Err(unrecognized);
            }
            *value = native[LEAF_1F + level];
        }
        let value = *value;
        let kind = level_type(&value);
        if kind == INVALID {
            if !has_cores {
                return Err(unrecognized);
            }
        } else {
            let numbered = value[2] & 0xff == level as u32;
            let ordered = kind > previous && kind < LEVELS as u32;
            if !ordered || !numbered || (kind == SMT && level != 0) {
                return Err(unrecognized);
            }
            if kind == SMT {
                values[LEAF_0B] = value;
                core_level = 1;
            }
            has_cores |= kind == CORE;
            last = value;
        }
        previous = kind;
    }
    // The core level of leaf 0xB holds the whole package; what follows it is empty.
    last[2] = core_level as u32 | CORE << 8;
    values[LEAF_0B + core_level] = last;
    values[LEAF_0B + core_level + 1..=LEAF_0B + 2].fill([0; 4]);
    Ok(())
}
