//! Values of L1 secure-EPT entries.
//!
//! Source: TDX module 1.5, `sept_manager.h`.

use seamlock_tdx_abi::addr::{Gpa, Hpa};
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::sept::{SeptEntry, SeptInfo, SeptState};

/// An entry that maps the page at `hpa` for reading, writing and executing, or keeps it pending.
pub(crate) fn leaf_entry(hpa: Hpa, state: SeptState) -> SeptEntry {
    let fixed = SeptEntry::MT_WB | SeptEntry::SUPPRESS_VE;
    let rwx = if state == SeptState::MAPPED {
        SeptEntry::RWX
    } else {
        SeptEntry::empty()
    };
    let bits = (fixed | rwx).bits() | state.to_bits() | hpa.0;
    SeptEntry::from_bits_retain(bits)
}

/// An entry that points to the table at `hpa`.
pub(crate) fn table_entry(hpa: Hpa) -> SeptEntry {
    let fixed = SeptEntry::RWX | SeptEntry::SUPPRESS_VE;
    let bits = fixed.bits() | SeptState::NL_MAPPED.to_bits() | hpa.0;
    SeptEntry::from_bits_retain(bits)
}

/// The page that a leaf entry of `level` maps for `gpa`.
#[inline]
pub(crate) fn leaf_to_hpa(entry: SeptEntry, gpa: Gpa, level: u8) -> Hpa {
    let inside = (1u64 << (12 + 9 * u32::from(level))) - 1;
    Hpa(entry.hpa().0 & !inside | gpa.0 & inside)
}

/// Reports an entry in RCX and RDX.
#[cold]
pub(crate) fn report(entry: SeptEntry, level: u8, regs: &mut Regs) {
    let state = entry.state().rdx_state().unwrap_or(0);
    regs.rcx = entry.arch_bits();
    regs.rdx = SeptInfo {
        level,
        state,
        vm: 0,
    }
    .to_rdx();
}
