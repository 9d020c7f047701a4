//! TD exits of guest leaves that need the host to change the secure EPT.

use seamlock_tdx_abi::addr::Gpa;
use seamlock_tdx_abi::sept::SeptEntry;

use crate::guest::qualification::WRITE;
use crate::td_exit::AsyncExit;
use crate::tdg::Stop;

/// Type of the extended exit qualification: TDG.MEM.PAGE.ACCEPT.
pub(super) const EEQ_ACCEPT: u64 = 1;
/// Type of the extended exit qualification: a missing table of an L2 VM.
pub(super) const EEQ_GPA_DETAILS: u64 = 2;
/// Type of the extended exit qualification: TDG.MEM.PAGE.ATTR.WR.
pub(super) const EEQ_ATTR_WR: u64 = 5;

/// An EPT violation exit that tells the host what was asked for and what was found: requested level
/// in 34:32, level found in 37:35, state in 45:38, leaf in 46. `found` is None when there is no
/// secure EPT.
pub(super) fn sept_violation(
    gpa: Gpa,
    level: u8,
    found: Option<u8>,
    entry: SeptEntry,
    kind: u64,
) -> Stop {
    let rights = entry.intersection(SeptEntry::RWX).bits();
    let state = u64::from(entry.state().rdx_state().unwrap_or(0));
    let leaf = u64::from(entry.contains(SeptEntry::LEAF));
    let info = u64::from(level) | u64::from(found.unwrap_or(0)) << 3 | state << 6 | leaf << 14;
    let qual = WRITE | rights << 3;
    Stop::Exit(AsyncExit::ept_violation(gpa, qual, kind | info << 32))
}
