//! Metadata field ids: how the module's fields are named in RD and WR leaves.
//!
//! | bits | meaning |
//! |---|---|
//! | 23:0 | field code |
//! | 33:32 | log2 of the element size in bytes |
//! | 37:34 | last element in the field, counted from 0 |
//! | 46:38 | last field in the sequence, counted from 0 |
//! | 50 | field code increment (0: by element) |
//! | 51 | a write mask is given |
//! | 54:52 | context: 0 system, 1 TD, 2 vCPU |
//! | 61:56 | class |
//! | 63 | not architectural, may change with the module |
//!
//! For access to a single element the module ignores size and context, so the short ids that KVM
//! builds (non-arch, class and code only) mean the same; see [`FieldId::key`].
//!
//! Source: TDX module 1.5.06, ABI specification "MD_FIELD_ID".

mod sys;
mod td;
mod vp;

use core::fmt;

/// Declares field id constants and their table.
macro_rules! field_ids {
    ($table:ident, { $($name:ident = $id:literal, $text:literal;)* }) => {
        impl FieldId {
            $(
                #[doc = concat!("`", $text, "`: `", stringify!($id), "`.")]
                pub const $name: Self = Self($id);
            )*

            /// The fields of this scope with their names in the specification.
            pub const $table: &'static [(Self, &'static str)] = &[$((Self::$name, $text),)*];
        }
    };
}

use field_ids;

/// A metadata field id.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct FieldId(pub u64);

/// Which structure a field belongs to, bits 54:52.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct FieldContext(pub u8);

impl FieldContext {
    /// The module as a whole.
    pub const SYS: Self = Self(0);
    /// A TD (TDR and TDCS).
    pub const TD: Self = Self(1);
    /// A vCPU (TDVPS).
    pub const VP: Self = Self(2);
}

impl FieldId {
    /// The id that stands for "none": input to ask for the first field, output after the last.
    pub const NULL: Self = Self(u64::MAX);

    const NON_ARCH: u64 = 1 << 63;
    const KEY_MASK: u64 = Self::NON_ARCH | 0x3f << 56 | 0xff_ffff;
    const RESERVED_MASK: u64 = 1 << 62 | 1 << 55 | 7 << 47 | 0xff << 24;

    /// The short id KVM uses: non-arch, class and code, the rest zero.
    pub const fn short(non_arch: bool, class: u8, code: u32) -> Self {
        Self((non_arch as u64) << 63 | (class as u64 & 0x3f) << 56 | code as u64 & 0xff_ffff)
    }

    /// The short id of a vCPU's VMCS field, from its VMCS encoding.
    pub const fn vmcs(encoding: u32) -> Self {
        Self::short(false, 0, encoding)
    }

    /// The id of a `CPUID_VALUES` element pair, as `TDH.MNG.RD` takes it.
    ///
    /// `element` 0 holds EAX (low) and EBX (high), 1 holds ECX and EDX. `subleaf` is `None` for
    /// leaves without subleaves.
    pub const fn cpuid_values(leaf: u32, subleaf: Option<u32>, element: u8) -> Self {
        let subleaf = match subleaf {
            Some(index) => (index as u64 & 0x7f) << 1,
            None => 0x1fe,
        };
        let leaf = (leaf as u64 & 0x7f) << 9 | (leaf as u64 >> 31) << 16;
        Self(Self::TDCS_CPUID_VALUES.0 | leaf | subleaf | element as u64 & 1)
    }

    /// Field code, bits 23:0.
    pub const fn code(self) -> u32 {
        self.0 as u32 & 0xff_ffff
    }

    /// Element size in bytes, from bits 33:32.
    pub const fn element_bytes(self) -> u8 {
        1 << (self.0 >> 32 & 3)
    }

    /// Last element, bits 37:34.
    pub const fn last_element(self) -> u8 {
        (self.0 >> 34) as u8 & 0xf
    }

    /// Last field, bits 46:38.
    pub const fn last_field(self) -> u16 {
        (self.0 >> 38) as u16 & 0x1ff
    }

    /// Increment, bit 50.
    pub const fn inc(self) -> bool {
        self.0 >> 50 & 1 != 0
    }

    /// Write mask valid, bit 51.
    pub const fn write_mask_valid(self) -> bool {
        self.0 >> 51 & 1 != 0
    }

    /// Context, bits 54:52.
    pub const fn context(self) -> FieldContext {
        FieldContext((self.0 >> 52) as u8 & 7)
    }

    /// Class, bits 61:56.
    pub const fn class(self) -> u8 {
        (self.0 >> 56) as u8 & 0x3f
    }

    /// Not architectural, bit 63.
    pub const fn non_arch(self) -> bool {
        self.0 & Self::NON_ARCH != 0
    }

    /// The reserved bits 62, 55, 49:47 and 31:24, in place.
    pub const fn reserved(self) -> u64 {
        self.0 & Self::RESERVED_MASK
    }

    /// The part that identifies a field within a context: non-arch, class and code.
    pub const fn key(self) -> u64 {
        self.0 & Self::KEY_MASK
    }

    /// The element `index` further on in the same field or array.
    pub const fn element(self, index: u32) -> Self {
        Self(self.0 & !0xff_ffff | (self.code().wrapping_add(index)) as u64 & 0xff_ffff)
    }

    /// The name of a field whose full id is known, whatever its scope.
    pub fn name(self) -> Option<&'static str> {
        let known = [Self::SYS, Self::TD, Self::VP].into_iter().flatten();
        known
            .copied()
            .find(|(id, _)| *id == self)
            .map(|(_, name)| name)
    }
}

impl fmt::Display for FieldId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "{:#018x}", self.0),
        }
    }
}

impl fmt::Debug for FieldId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FieldId({:#018x})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn tables_are_unique_and_in_their_context() {
        let tables = [
            (FieldId::SYS, FieldContext::SYS),
            (FieldId::TD, FieldContext::TD),
            (FieldId::VP, FieldContext::VP),
        ];
        let mut seen = BTreeSet::new();
        for (table, context) in tables {
            for (id, name) in table {
                assert_eq!((id.context(), id.reserved()), (context, 0), "{name}");
                assert!(seen.insert((context, id.key())), "{name} twice");
            }
        }
    }

    #[test]
    fn bits_of_an_id_come_apart() {
        let id = FieldId::TDCS_MRTD;
        assert_eq!((id.class(), id.code(), id.element_bytes()), (19, 0, 8));
        assert!(!id.non_arch() && !id.inc() && !id.write_mask_valid());
        assert_eq!((id.last_element(), id.last_field()), (0, 0));
        assert_eq!(FieldId::SYS_MAX_TDMRS.element_bytes(), 2);
        assert!(FieldId::SYS_MAX_TDMRS.non_arch());
        let full = FieldId(0x1310_0003_0000_0000 | 5 << 34 | 3 << 38 | 1 << 50 | 1 << 51);
        assert_eq!((full.last_element(), full.last_field()), (5, 3));
        assert!(full.inc() && full.write_mask_valid());
    }

    #[test]
    fn short_ids_of_kvm_name_the_same_fields() {
        assert_eq!(
            FieldId::short(false, 17, 10).key(),
            FieldId::TDCS_TSC_OFFSET.key()
        );
        assert_eq!(
            FieldId::vmcs(0x203c).key(),
            FieldId::VP_VMCS_SHARED_EPT_POINTER.key()
        );
        assert_eq!(
            FieldId::short(true, 17, 0x100).key(),
            FieldId::VP_VCPU_STATE_DETAILS.key()
        );
    }

    #[test]
    fn cpuid_ids_hold_leaf_and_subleaf() {
        assert_eq!(
            FieldId::cpuid_values(0x8000_0008, None, 0).0,
            0x9410_0003_0001_11fe
        );
        assert_eq!(
            FieldId::cpuid_values(7, Some(1), 1).0,
            0x9410_0003_0000_0e03
        );
        assert_eq!(FieldId::SYS_CMR_BASE.element(3).0, 0x9000_0003_0000_0083);
    }
}
