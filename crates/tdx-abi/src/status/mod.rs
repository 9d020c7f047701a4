//! What a leaf returns in RAX.
//!
//! Bits 63:32 are the code, bits 31:0 details. In the code, bit 63 is error, 62 non-recoverable, 61
//! fatal, 60 host-recoverability hint, 47:40 the class and 39:32 the number in the class. What the
//! details mean depends on the code: an operand id, a TDMR index, a VMX exit reason.

mod codes;

use core::fmt;

use crate::OperandId;

/// A status word, as it stands in RAX after a leaf.
///
/// Equality compares details too; compare [`TdxStatus::code`]s to ignore them, or use
/// [`TdxStatus::is`].
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct TdxStatus(pub u64);

impl TdxStatus {
    /// Bit 63: the leaf failed.
    pub const ERROR: u64 = 1 << 63;
    /// Bit 62: calling again can't help.
    pub const NON_RECOVERABLE: u64 = 1 << 62;
    /// Bit 61: the TD is lost.
    pub const FATAL: u64 = 1 << 61;
    /// Bit 60: the host may be able to recover.
    pub const HOST_RECOVERABILITY_HINT: u64 = 1 << 60;

    /// The status without its details (bits 31:0 cleared).
    pub const fn code(self) -> Self {
        Self(self.0 & 0xffff_ffff_0000_0000)
    }

    /// Bits 31:0.
    pub const fn details(self) -> u32 {
        self.0 as u32
    }

    /// The details read as an operand id; `None` when they don't fit in one.
    pub const fn operand(self) -> Option<OperandId> {
        match self.details() {
            id @ 0..=0xff => Some(OperandId(id as u8)),
            _ => None,
        }
    }

    /// This code with an operand id as its details.
    pub const fn with(self, operand: OperandId) -> Self {
        self.with_details(operand.0 as u32)
    }

    /// This code with the given details.
    pub const fn with_details(self, details: u32) -> Self {
        Self(self.code().0 | details as u64)
    }

    /// Whether both have the same code; details are ignored.
    pub const fn is(self, other: Self) -> bool {
        self.code().0 == other.code().0
    }

    /// Class of the code, bits 47:40.
    pub const fn class(self) -> u8 {
        (self.0 >> 40) as u8
    }

    /// Number of the code in its class, bits 39:32.
    pub const fn number(self) -> u8 {
        (self.0 >> 32) as u8
    }

    /// Bit 63: the leaf failed.
    pub const fn is_error(self) -> bool {
        self.0 & Self::ERROR != 0
    }

    /// Bits 63:60 are zero: success, or success with information such as KEY_CONFIGURED.
    pub const fn is_success_class(self) -> bool {
        self.0 >> 60 == 0
    }

    /// Bit 62: calling again can't help.
    pub const fn is_non_recoverable(self) -> bool {
        self.0 & Self::NON_RECOVERABLE != 0
    }

    /// Bit 61: the TD is lost.
    pub const fn is_fatal(self) -> bool {
        self.0 & Self::FATAL != 0
    }

    /// Bit 60: the host may be able to recover.
    pub const fn has_host_recoverability_hint(self) -> bool {
        self.0 & Self::HOST_RECOVERABILITY_HINT != 0
    }

    /// Whether the details of this code name an operand.
    pub const fn details_are_operand(self) -> bool {
        match self.code() {
            Self::PAGE_ALREADY_ACCEPTED | Self::PAGE_SIZE_MISMATCH => false,
            Self::OPERAND_BUSY | Self::OPERAND_BUSY_HOST_PRIORITY => true,
            code => matches!(code.class(), 0x01 | 0x03 | 0x0b),
        }
    }

    /// The status of a name, with or without `TDX_`; details zero.
    pub fn from_name(name: &str) -> Option<Self> {
        let short = name.strip_prefix("TDX_").unwrap_or(name);
        let found = Self::ALL
            .iter()
            .find(|(_, known)| known.strip_prefix("TDX_") == Some(short));
        found.map(|(status, _)| *status)
    }
}

impl From<u64> for TdxStatus {
    fn from(rax: u64) -> Self {
        Self(rax)
    }
}

impl From<TdxStatus> for u64 {
    fn from(status: TdxStatus) -> Self {
        status.0
    }
}

/// `TDX_SUCCESS`, `TDX_OPERAND_BUSY(TDR)`, `TDX_INVALID_PAMT(0x100)`; hex when the code is unknown.
impl fmt::Display for TdxStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(name) = self.name() else {
            return write!(f, "{:#018x}", self.0);
        };
        let operand = self.operand().filter(|_| self.details_are_operand());
        match operand.and_then(OperandId::name) {
            // Only class 1 reports RAX; elsewhere zero details say nothing.
            Some(id) if self.details() != 0 || self.class() == 1 => write!(f, "{name}({id})"),
            _ if self.details() != 0 => write!(f, "{name}({:#x})", self.details()),
            _ => f.pad(name),
        }
    }
}

impl fmt::Debug for TdxStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::LowerHex for TdxStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, format};

    #[test]
    fn names_round_trip_and_codes_are_unique() {
        let mut seen = BTreeSet::new();
        for (status, name) in TdxStatus::ALL {
            assert!(seen.insert(*status), "{name} twice");
            assert_eq!(status.details(), 0, "{name}");
            assert_eq!(status.name(), Some(*name));
            assert_eq!(TdxStatus::from_name(name), Some(*status));
            assert_eq!(TdxStatus::from_name(&name[4..]), Some(*status));
            assert_eq!(status.with_details(7).name(), Some(*name));
        }
        assert_eq!(TdxStatus::from_name("TDX_NO_SUCH"), None);
    }

    #[test]
    fn values_are_those_of_the_abi() {
        assert_eq!(TdxStatus::OPERAND_BUSY.0, 0x8000_0200_0000_0000);
        assert_eq!(TdxStatus::PREVIOUS_TLB_EPOCH_BUSY.0, 0x8000_0201_0000_0000);
        assert_eq!(TdxStatus::KEY_CONFIGURED.0, 0x0000_0815_0000_0000);
        assert_eq!(TdxStatus::TD_FATAL.0, 0xe000_0604_0000_0000);
        assert_eq!(TdxStatus::X2APIC_ID_NOT_UNIQUE.0, 0xc000_0621_0000_0000);
        assert_eq!(
            TdxStatus::HOST_PRIORITY_BUSY_TIMEOUT.0,
            0x9000_0205_0000_0000
        );
        assert_eq!(
            TdxStatus::EPT_ENTRY_STATE_INCORRECT.0,
            0xc000_0b0d_0000_0000
        );
    }

    #[test]
    fn bits_follow_the_top_nibble() {
        let busy = TdxStatus::OPERAND_BUSY.with(OperandId::TDR);
        assert!(busy.is_error() && !busy.is_non_recoverable() && !busy.is_success_class());
        assert_eq!((busy.class(), busy.number(), busy.details()), (2, 0, 128));
        assert!(busy.is(TdxStatus::OPERAND_BUSY) && busy != TdxStatus::OPERAND_BUSY);
        assert!(TdxStatus::TD_FATAL.is_fatal());
        assert!(TdxStatus::HOST_PRIORITY_BUSY_TIMEOUT.has_host_recoverability_hint());
        assert!(TdxStatus::GPA_RANGE_ALREADY_BLOCKED.is_success_class());
        assert!(!TdxStatus::NON_RECOVERABLE_TD.is_error());
        assert!(!TdxStatus::NON_RECOVERABLE_TD.is_success_class());
    }

    #[test]
    fn display_names_the_operand() {
        let show = |status: TdxStatus| format!("{status}");
        assert_eq!(show(TdxStatus::SUCCESS), "TDX_SUCCESS");
        assert_eq!(
            show(TdxStatus::OPERAND_BUSY.with(OperandId::TDR)),
            "TDX_OPERAND_BUSY(TDR)"
        );
        assert_eq!(show(TdxStatus::OPERAND_INVALID), "TDX_OPERAND_INVALID(RAX)");
        assert_eq!(
            show(TdxStatus::EPT_ENTRY_NOT_PRESENT),
            "TDX_EPT_ENTRY_NOT_PRESENT"
        );
        assert_eq!(
            show(TdxStatus::INVALID_PAMT.with_details(0x100)),
            "TDX_INVALID_PAMT(0x100)"
        );
        assert_eq!(show(TdxStatus(0xdead_0000_0000_0001)), "0xdead000000000001");
    }
}
