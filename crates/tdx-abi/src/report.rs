//! TDREPORT and the structures in it.
//!
//! Source: TDX module 1.5.06 (offsets), ABI specification "TDREPORT_STRUCT".

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::assert_layout;
use crate::measure::SHA384_BYTES;

/// A SHA-384 value.
pub type Sha384 = [u8; SHA384_BYTES];
/// Number of run-time measurement registers.
pub const NUM_RTMRS: usize = 4;
/// `REPORTTYPE.type` of a TD.
pub const REPORT_TYPE_TDX: u8 = 0x81;

/// REPORTMACSTRUCT, 256 bytes: what the MAC covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ReportMac {
    /// [`REPORT_TYPE_TDX`].
    pub report_type: u8,
    /// 0.
    pub subtype: u8,
    /// 0, or 1 when a service TD is bound.
    pub version: u8,
    /// Zero.
    pub reserved_type: u8,
    /// Zero.
    pub reserved_0: [u8; 12],
    /// Security version of the CPU.
    pub cpu_svn: [u8; 16],
    /// SHA-384 of TEE_TCB_INFO.
    pub tee_tcb_info_hash: Sha384,
    /// SHA-384 of TDINFO.
    pub tee_info_hash: Sha384,
    /// The guest's data.
    pub report_data: [u8; 64],
    /// Zero.
    pub reserved_1: [u8; 32],
    /// MAC over the bytes before it, with a key of the CPU.
    pub mac: [u8; 32],
}

/// TEE_TCB_INFO, 239 bytes: what the platform runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, packed)]
pub struct TeeTcbInfo {
    /// Which fields are valid, one bit for each 8 bytes.
    pub valid: u64,
    /// Security version of the module.
    pub tee_tcb_svn: [u8; 16],
    /// Measurement of the module.
    pub mrseam: Sha384,
    /// Measurement of the module's signer.
    pub mrsignerseam: Sha384,
    /// Attributes of the module.
    pub attributes: u64,
    /// Security version of the module that runs now, after an update.
    pub tee_tcb_svn2: [u8; 16],
    /// Zero.
    pub reserved: [u8; 95],
}

/// TDINFO, 512 bytes: what the TD is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TdInfo {
    /// TD attributes.
    pub attributes: u64,
    /// Extended features mask.
    pub xfam: u64,
    /// Measurement of the initial contents.
    pub mrtd: Sha384,
    /// From TD_PARAMS.
    pub mrconfigid: Sha384,
    /// From TD_PARAMS.
    pub mrowner: Sha384,
    /// From TD_PARAMS.
    pub mrownerconfig: Sha384,
    /// Run-time measurement registers.
    pub rtmr: [Sha384; NUM_RTMRS],
    /// Hash over the bound service TDs, or zero.
    pub servtd_hash: Sha384,
    /// Zero.
    pub reserved: [u8; 64],
}

/// TDREPORT, 1024 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TdReport {
    /// What the MAC covers.
    pub report_mac: ReportMac,
    /// What the platform runs.
    pub tee_tcb_info: TeeTcbInfo,
    /// Zero.
    pub reserved: [u8; 17],
    /// What the TD is.
    pub td_info: TdInfo,
}

assert_layout!(
    ReportMac, size 256, report_type @ 0, subtype @ 1, version @ 2, reserved_type @ 3,
    reserved_0 @ 4, cpu_svn @ 16, tee_tcb_info_hash @ 32, tee_info_hash @ 80, report_data @ 128,
    reserved_1 @ 192, mac @ 224,
);
assert_layout!(
    TeeTcbInfo, size 239, valid @ 0, tee_tcb_svn @ 8, mrseam @ 24, mrsignerseam @ 72,
    attributes @ 120, tee_tcb_svn2 @ 128, reserved @ 144,
);
assert_layout!(
    TdInfo, size 512, attributes @ 0, xfam @ 8, mrtd @ 16, mrconfigid @ 64, mrowner @ 112,
    mrownerconfig @ 160, rtmr @ 208, servtd_hash @ 400, reserved @ 448,
);
assert_layout!(TdReport, size 1024, report_mac @ 0, tee_tcb_info @ 256, reserved @ 495, td_info @ 512);

/// Alignment in bytes of a TDREPORT in guest memory.
pub const TD_REPORT_ALIGN: u64 = 1024;
/// Alignment in bytes of the guest's REPORTDATA.
pub const REPORT_DATA_ALIGN: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    #[test]
    fn bytes_round_trip() {
        let mut report = TdReport::new_zeroed();
        report.report_mac.report_type = REPORT_TYPE_TDX;
        report.td_info.rtmr[3][47] = 0xaa;
        let bytes = report.as_bytes();
        assert_eq!((bytes[0], bytes[512 + 399]), (0x81, 0xaa));
        assert_eq!(TdReport::read_from_bytes(bytes), Ok(report));
    }
}
