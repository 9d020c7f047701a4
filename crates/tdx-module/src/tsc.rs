//! The time-stamp counter as a TD sees it, and times in its ticks.

use seamlock_tdx_abi::td_params::TSC_FREQUENCY_UNIT_HZ;

use crate::platform::Platform;

/// Fraction bits of a TSC multiplier (Intel SDM, "TSC scaling").
const FRACTION_BITS: u32 = 48;

/// The multiplier that turns native ticks into ticks of a virtual counter of `frequency` * 25 MHz.
pub(crate) fn multiplier(platform: &Platform, frequency: u16) -> u64 {
    let hertz = u128::from(frequency) * u128::from(TSC_FREQUENCY_UNIT_HZ);
    ((hertz << FRACTION_BITS) / u128::from(platform.native_tsc_hz.max(1))) as u64
}

/// The offset that makes a virtual counter read zero when the native one reads `tsc`.
pub(crate) fn offset(tsc: u64, multiplier: u64) -> u64 {
    0u64.wrapping_sub(scaled(tsc, multiplier))
}

fn scaled(tsc: u64, multiplier: u64) -> u64 {
    ((u128::from(tsc) * u128::from(multiplier)) >> FRACTION_BITS) as u64
}

/// Native ticks in so many microseconds.
pub(crate) fn ticks(platform: &Platform, microseconds: u64) -> u64 {
    (u128::from(microseconds) * u128::from(platform.native_tsc_hz) / 1_000_000) as u64
}

/// Microseconds in so many native ticks, rounded down.
pub(crate) fn microseconds(platform: &Platform, ticks: u64) -> u64 {
    let hertz = platform.native_tsc_hz.max(1);
    ticks.min(u64::MAX / 1_000_000) * 1_000_000 / hertz
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_virtual_counter_starts_from_zero_and_runs_at_its_frequency() {
        let platform = Platform::sapphire_rapids(4 << 30, 1);
        let (native, start) = (platform.native_tsc_hz, 123_456_789_012);
        let multiplier = multiplier(&platform, 40);
        let offset = offset(start, multiplier);
        let virtual_tsc = |tsc| scaled(tsc, multiplier).wrapping_add(offset);
        assert_eq!(virtual_tsc(start), 0);
        let after_a_second = virtual_tsc(start + native);
        assert!(after_a_second.abs_diff(1_000_000_000) <= 1);
    }
}
