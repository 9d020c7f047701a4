//! Guest leaf numbers (`TDG.*`), which a TD calls with TDCALL.
//!
//! Source: TDX module 1.5 (`tdx_api_defs.h`). RAX is laid out as for a SEAMCALL
//! ([`RaxIn`](crate::RaxIn)).

use crate::leaf::leaves;

/// A guest-side leaf number, RAX bits 15:0 of a TDCALL.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct GuestLeaf(pub u16);

leaves!(GuestLeaf, "TDG.", {
    /// Calls the host.
    VP_VMCALL = 0, "VP.VMCALL";
    /// Reports the TD's execution environment.
    VP_INFO = 1, "VP.INFO";
    /// Extends a run-time measurement register.
    MR_RTMR_EXTEND = 2, "MR.RTMR.EXTEND";
    /// Reads and clears the #VE information.
    VP_VEINFO_GET = 3, "VP.VEINFO.GET";
    /// Makes a TDREPORT.
    MR_REPORT = 4, "MR.REPORT";
    /// Makes CPUID raise #VE on this vCPU.
    VP_CPUIDVE_SET = 5, "VP.CPUIDVE.SET";
    /// Accepts a pending page.
    MEM_PAGE_ACCEPT = 6, "MEM.PAGE.ACCEPT";
    /// Reads a TD-scope metadata field.
    VM_RD = 7, "VM.RD";
    /// Writes a TD-scope metadata field.
    VM_WR = 8, "VM.WR";
    /// Reads a vCPU-scope metadata field.
    VP_RD = 9, "VP.RD";
    /// Writes a vCPU-scope metadata field.
    VP_WR = 10, "VP.WR";
    /// Reads a system-scope metadata field.
    SYS_RD = 11, "SYS.RD";
    /// Reads all system-scope metadata fields.
    SYS_RDALL = 12, "SYS.RDALL";
    /// Reads a field of the target TD.
    SERVTD_RD = 18, "SERVTD.RD";
    /// Writes a field of the target TD.
    SERVTD_WR = 20, "SERVTD.WR";
    /// Verifies a TDREPORT made on this platform.
    MR_VERIFYREPORT = 22, "MR.VERIFYREPORT";
    /// Reads the attributes of a page.
    MEM_PAGE_ATTR_RD = 23, "MEM.PAGE.ATTR.RD";
    /// Writes the attributes of a page.
    MEM_PAGE_ATTR_WR = 24, "MEM.PAGE.ATTR.WR";
    /// Enters an L2 VM.
    VP_ENTER = 25, "VP.ENTER";
    /// Invalidates L2 EPT translations.
    VP_INVEPT = 26, "VP.INVEPT";
    /// Invalidates L2 translations by VPID.
    VP_INVVPID = 27, "VP.INVVPID";
});

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_round_trip_and_numbers_are_unique() {
        let numbers: BTreeSet<u16> = GuestLeaf::ALL.iter().map(|leaf| leaf.0).collect();
        assert_eq!(numbers.len(), GuestLeaf::ALL.len());
        for leaf in GuestLeaf::ALL {
            assert_eq!(leaf.name().and_then(GuestLeaf::from_name), Some(*leaf));
        }
        assert_eq!(
            GuestLeaf::from_name("TDG.MEM.PAGE.ACCEPT"),
            Some(GuestLeaf(6))
        );
    }
}
