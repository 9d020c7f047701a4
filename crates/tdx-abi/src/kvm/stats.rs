//! Binary statistics (KVM_GET_STATS_FD).
//!
//! Source: Linux v7.3.4 `include/uapi/linux/kvm.h` and `include/linux/kvm_types.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::assert_layout;

/// Bytes of a name, its end included.
pub const KVM_STATS_NAME_SIZE: usize = 48;
/// A value that only grows.
pub const KVM_STATS_TYPE_CUMULATIVE: u32 = 0;
/// A value of the moment.
pub const KVM_STATS_TYPE_INSTANT: u32 = 1;
/// The highest value that there was.
pub const KVM_STATS_TYPE_PEAK: u32 = 2;
/// A histogram whose buckets double.
pub const KVM_STATS_TYPE_LOG_HIST: u32 = 4;
/// A number of something.
pub const KVM_STATS_UNIT_NONE: u32 = 0;
/// Seconds, by the exponent.
pub const KVM_STATS_UNIT_SECONDS: u32 = 2 << 4;
/// Zero or one.
pub const KVM_STATS_UNIT_BOOLEAN: u32 = 4 << 4;
/// The exponent is one of 10.
pub const KVM_STATS_BASE_POW10: u32 = 0;

/// `struct kvm_stats_header`, 24 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KvmStatsHeader {
    /// Zero.
    pub flags: u32,
    /// Bytes of a name.
    pub name_size: u32,
    /// Number of descriptors.
    pub num_desc: u32,
    /// Offset of the id.
    pub id_offset: u32,
    /// Offset of the descriptors.
    pub desc_offset: u32,
    /// Offset of the values.
    pub data_offset: u32,
}

/// `struct kvm_stats_desc` with its name, 64 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct KvmStatsDesc {
    /// Type, unit and base.
    pub flags: u32,
    /// Power of the base that the unit has.
    pub exponent: i16,
    /// Number of values, 8 bytes each.
    pub size: u16,
    /// Offset of the first, from the start of the values.
    pub offset: u32,
    /// Width of a bucket of a linear histogram.
    pub bucket_size: u32,
    /// Name, filled up with zeros.
    pub name: [u8; KVM_STATS_NAME_SIZE],
}

assert_layout!(KvmStatsHeader, size 24, flags @ 0, name_size @ 4, num_desc @ 8, id_offset @ 12, desc_offset @ 16, data_offset @ 20);
assert_layout!(KvmStatsDesc, size 64, flags @ 0, exponent @ 4, size @ 6, offset @ 8, bucket_size @ 12, name @ 16);
