//! Addresses and key ids, one type each so that a host page can't be passed for a guest page.

use core::fmt;

/// Bytes in the smallest page, 4 KiB.
pub const PAGE_SIZE: u64 = 4096;
/// `log2(PAGE_SIZE)`.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in a 2 MiB page.
pub const PAGE_SIZE_2M: u64 = 1 << 21;
/// Bytes in a 1 GiB page.
pub const PAGE_SIZE_1G: u64 = 1 << 30;
/// The all-ones address that stands for "no page" in leaf operands (TDX module ABI, `NULL_PA`).
pub const NULL_PA: u64 = u64::MAX;
/// Number of bits in the widest physical address, HKID bits included.
pub const MAX_PA_BITS: u32 = 52;

/// Rounds `value` down to a multiple of `align`, a power of two.
pub const fn align_down(value: u64, align: u64) -> u64 {
    value & !(align - 1)
}

/// Whether `value` is a multiple of `align`, a power of two.
pub const fn is_aligned(value: u64, align: u64) -> bool {
    value & (align - 1) == 0
}

macro_rules! hex_newtype {
    ($(#[$doc:meta])* $name:ident($repr:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(pub $repr);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }

        impl From<$repr> for $name {
            fn from(raw: $repr) -> Self {
                Self(raw)
            }
        }

        impl From<$name> for $repr {
            fn from(value: $name) -> Self {
                value.0
            }
        }
    };
}

hex_newtype! {
    /// A host physical address in bytes. May carry HKID bits in its upper part.
    Hpa(u64)
}
hex_newtype! {
    /// A guest physical address in bytes. May carry the shared bit (47 or 51).
    Gpa(u64)
}
hex_newtype! {
    /// A guest frame number: a guest physical address in units of 4 KiB.
    Gfn(u64)
}
hex_newtype! {
    /// A memory encryption key id (host key id).
    Hkid(u16)
}

macro_rules! byte_address {
    ($name:ident) => {
        impl $name {
            /// Whether the address is a multiple of 4 KiB.
            pub const fn page_aligned(self) -> bool {
                is_aligned(self.0, PAGE_SIZE)
            }

            /// The address of the 4 KiB page that holds this byte.
            pub const fn page(self) -> Self {
                Self(align_down(self.0, PAGE_SIZE))
            }

            /// The address `bytes` further on, or `None` when it does not fit in 64 bits.
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }
        }
    };
}

byte_address!(Hpa);
byte_address!(Gpa);

impl Gpa {
    /// The frame that holds this address.
    pub const fn gfn(self) -> Gfn {
        Gfn(self.0 >> PAGE_SHIFT)
    }
}

impl Gfn {
    /// The first byte of the frame; bits above 63 are lost.
    pub const fn gpa(self) -> Gpa {
        Gpa(self.0 << PAGE_SHIFT)
    }
}

impl From<Gfn> for Gpa {
    fn from(gfn: Gfn) -> Self {
        gfn.gpa()
    }
}

impl From<Gpa> for Gfn {
    fn from(gpa: Gpa) -> Self {
        gpa.gfn()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;

    #[test]
    fn frames_and_addresses_convert_both_ways() {
        assert_eq!(Gpa(0x1234_5678).gfn(), Gfn(0x12345));
        assert_eq!(Gfn(0x12345).gpa(), Gpa(0x1234_5000));
        assert!(!Gpa(0x1234_5678).page_aligned());
        assert!(Gpa(0x1234_5678).page().page_aligned());
        assert_eq!(Hpa(u64::MAX).checked_add(1), None);
    }

    #[test]
    fn addresses_print_in_hex() {
        assert_eq!(
            format!("{:?} {} {:x}", Hpa(0x1000), Gpa(0x2000), Gfn(16)),
            "Hpa(0x1000) 0x2000 10"
        );
        assert_eq!(format!("{:?}", Hkid(32)), "Hkid(0x20)");
    }
}
