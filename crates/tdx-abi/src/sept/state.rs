//! The states of secure EPT entries.
//!
//! A state is spread over seven bits of the entry. Its code gathers them: bit 0 is D, bits 4:1 are
//! TDEX, TDBW, TDB and TDP, bits 6:5 are IPAT and LEAF. Leaves report a different number in RDX.

use crate::layout::open_number;

const D_SHIFT: u32 = 9;
const TDEX_SHIFT: u32 = 53;
const IPAT_SHIFT: u32 = 6;

/// State of an L1 secure EPT entry, as its 7-bit code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct SeptState(pub u8);

open_number!(SeptState(u8) {
    /// Maps nothing.
    FREE = 0x0e;
    /// Maps nothing; the page was removed while the TD is imported.
    REMOVED = 0x0c;
    /// Points to a table.
    NL_MAPPED = 0x00;
    /// Points to a table, blocked.
    NL_BLOCKED = 0x08;
    /// Maps a page.
    MAPPED = 0x60;
    /// Maps a page, blocked.
    BLOCKED = 0x68;
    /// Maps a page, blocked for writing.
    BLOCKEDW = 0x64;
    /// Exported, blocked for writing.
    EXPORTED_BLOCKEDW = 0x66;
    /// Exported, dirty since.
    EXPORTED_DIRTY = 0x63;
    /// Exported, dirty, blocked for writing again.
    EXPORTED_DIRTY_BLOCKEDW = 0x67;
    /// Maps a page that the guest has not accepted.
    PENDING = 0x70;
    /// Pending, blocked.
    PENDING_BLOCKED = 0x78;
    /// Pending, blocked for writing.
    PENDING_BLOCKEDW = 0x74;
    /// Pending, exported, blocked for writing.
    PENDING_EXPORTED_BLOCKEDW = 0x76;
    /// Pending, exported, accepted since.
    PENDING_EXPORTED_DIRTY = 0x73;
    /// Pending, exported, accepted since, blocked for writing again.
    PENDING_EXPORTED_DIRTY_BLOCKEDW = 0x77;
});

impl SeptState {
    /// Gathers the code from an entry.
    pub const fn from_bits(entry: u64) -> Self {
        let d = entry >> D_SHIFT & 1;
        let td = entry >> TDEX_SHIFT & 0xf;
        let leaf = entry >> IPAT_SHIFT & 3;
        Self((d | td << 1 | leaf << 5) as u8)
    }

    /// Spreads the code over the bits of an entry; bit 7 of the code is dropped.
    pub const fn to_bits(self) -> u64 {
        let code = self.0 as u64;
        (code & 1) << D_SHIFT | (code >> 1 & 0xf) << TDEX_SHIFT | (code >> 5 & 3) << IPAT_SHIFT
    }

    /// The number that leaves report in RDX bits 15:8; `None` for an unknown code.
    pub fn rdx_state(self) -> Option<u8> {
        SEPT_STATES
            .iter()
            .find(|info| info.state == self)
            .map(|info| info.rdx_state)
    }
}

/// State of an L2 secure EPT entry: bit 0 is TDB, bits 2:1 are IPAT and LEAF, bit 3 is R.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct L2SeptState(pub u8);

open_number!(L2SeptState(u8) {
    /// Maps nothing.
    L2_FREE = 0;
    /// Points to a table.
    L2_NL_MAPPED = 8;
    /// Points to a table, blocked.
    L2_NL_BLOCKED = 1;
    /// Maps a page.
    L2_MAPPED = 6;
    /// Maps a page, blocked.
    L2_BLOCKED = 7;
});

impl L2SeptState {
    /// The number that leaves report in RDX bits 15:8; `None` for an unknown code.
    pub const fn rdx_state(self) -> Option<u8> {
        match self {
            Self::L2_FREE => Some(64),
            Self::L2_NL_MAPPED => Some(196),
            Self::L2_NL_BLOCKED => Some(193),
            Self::L2_MAPPED => Some(68),
            Self::L2_BLOCKED => Some(65),
            _ => None,
        }
    }
}

/// One L1 state with its name and the number that leaves report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeptStateInfo {
    /// Name in the specification.
    pub name: &'static str,
    /// The state, as the 7-bit code in an entry.
    pub state: SeptState,
    /// The number in RDX bits 15:8.
    pub rdx_state: u8,
}

macro_rules! sept_states {
    ($($name:ident => $rdx:literal,)*) => {
        /// Every L1 state.
        pub const SEPT_STATES: &[SeptStateInfo] = &[
            $(SeptStateInfo {
                name: stringify!($name),
                state: SeptState::$name,
                rdx_state: $rdx,
            },)*
        ];
    };
}

sept_states! {
    FREE => 0,
    REMOVED => 5,
    NL_MAPPED => 132,
    NL_BLOCKED => 129,
    MAPPED => 4,
    BLOCKED => 1,
    BLOCKEDW => 8,
    EXPORTED_BLOCKEDW => 9,
    EXPORTED_DIRTY => 11,
    EXPORTED_DIRTY_BLOCKEDW => 12,
    PENDING => 2,
    PENDING_BLOCKED => 3,
    PENDING_BLOCKEDW => 16,
    PENDING_EXPORTED_BLOCKEDW => 17,
    PENDING_EXPORTED_DIRTY => 19,
    PENDING_EXPORTED_DIRTY_BLOCKEDW => 20,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn codes_spread_over_the_entry_and_gather_again() {
        for (state, name) in SeptState::ALL {
            assert_eq!(SeptState::from_bits(state.to_bits()), *state, "{name}");
        }
        assert_eq!(SeptState::MAPPED.to_bits(), 0xc0);
        assert_eq!(SeptState::PENDING_BLOCKED.to_bits(), 0x0180_0000_0000_00c0);
        assert_eq!(SeptState::EXPORTED_DIRTY.to_bits(), 0x0020_0000_0000_02c0);
    }

    #[test]
    fn every_state_is_in_the_table_once() {
        assert_eq!(SEPT_STATES.len(), SeptState::ALL.len());
        let numbers: BTreeSet<u8> = SEPT_STATES.iter().map(|info| info.rdx_state).collect();
        assert_eq!(numbers.len(), SEPT_STATES.len());
        for info in SEPT_STATES {
            assert_eq!(info.state.name(), Some(info.name));
            assert_eq!(info.state.rdx_state(), Some(info.rdx_state));
        }
        assert_eq!(SeptState(0x7f).rdx_state(), None);
    }
}
