//! TDREPORT: what a TD shows of itself, and the MAC that stands for the processor's.
//!
//! On hardware the processor makes REPORTMACSTRUCT with a key that never leaves it. Here the key is
//! [`FAKE_MAC_KEY`], which everybody knows: a report of this module proves nothing, and its
//! TEE_TCB_INFO names no real module.

use openssl::sha::{Sha256, sha384};
use seamlock_tdx_abi::addr::Hpa;
use seamlock_tdx_abi::report::{REPORT_TYPE_TDX, ReportMac, TdInfo, TdReport, TeeTcbInfo};
use zerocopy::{FromZeros, IntoBytes};

use crate::Module;
use crate::measure::Digest;
use crate::td::Td;

/// The MAC key of every machine that this module runs on. It is published here, so a report can be
/// checked by anybody and forged by anybody.
pub const FAKE_MAC_KEY: [u8; 32] = *b"seamlock-publicly-known-fake-key";

/// CPUSVN of the machine: made up.
pub const FAKE_CPU_SVN: [u8; 16] = *b"seamlock fakeCPU";

/// TEE_TCB_INFO.VALID of TDX 1.5: all fields but the reserved ones.
const TEE_TCB_VALID: u64 = 0x3_01ff;
/// TEE_TCB_SVN: module minor version 6, major version 1. Nothing is claimed about patches.
const TEE_TCB_SVN: [u8; 16] = [6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn td_info(td: &Td) -> TdInfo {
    let (attributes, xfam) = (td.attributes.load(), td.xfam.load());
    td.config.with(|config| TdInfo {
        attributes,
        xfam,
        mrtd: config.mrtd.0,
        mrconfigid: config.mrconfigid.0,
        mrowner: config.mrowner.0,
        mrownerconfig: config.mrownerconfig.0,
        rtmr: config.rtmr.map(|rtmr| rtmr.0),
        servtd_hash: config.servtd_hash.0,
        ..TdInfo::new_zeroed()
    })
}

/// TDINFO of a TD with its hash, which is kept until an RTMR changes. True when it was made now.
/// The caller holds the RTMR lock.
pub(crate) fn tee_info_hash(td: &Td) -> (TdInfo, Digest, bool) {
    let info = td_info(td);
    td.config.with(|config| {
        let fresh = config.tee_info_hash.is_none();
        let hash = *config
            .tee_info_hash
            .get_or_insert_with(|| Digest(sha384(info.as_bytes())));
        (info, hash, fresh)
    })
}

impl Module {
    /// What TDG.MR.REPORT would tell of the TD now, MRTD and RTMRs among it; None when `tdr` is no TDR.
    ///
    /// For who watches: the host can't ask for it, so no lock word is taken, and a register that is
    /// being extended is seen before or after.
    pub fn td_info(&self, tdr: Hpa) -> Option<TdInfo> {
        Some(td_info(self.td_at(tdr)?))
    }
}

/// The report over a TDINFO and 64 bytes of the guest's.
pub(crate) fn make_report(info: TdInfo, tee_info_hash: Digest, data: [u8; 64]) -> TdReport {
    let tee_tcb_info = TeeTcbInfo {
        valid: TEE_TCB_VALID,
        tee_tcb_svn: TEE_TCB_SVN,
        tee_tcb_svn2: TEE_TCB_SVN,
        ..TeeTcbInfo::new_zeroed()
    };
    let mut report_mac = ReportMac {
        report_type: REPORT_TYPE_TDX,
        cpu_svn: FAKE_CPU_SVN,
        tee_tcb_info_hash: sha384(tee_tcb_info.as_bytes()),
        tee_info_hash: tee_info_hash.0,
        report_data: data,
        ..ReportMac::new_zeroed()
    };
    report_mac.mac = mac(&report_mac);
    TdReport {
        report_mac,
        tee_tcb_info,
        td_info: info,
        ..TdReport::new_zeroed()
    }
}

/// Whether the hashes and the MAC of a report fit its contents, which is what TDG.MR.VERIFYREPORT
/// (MAC) and a verifier (hashes) look at.
pub fn is_consistent(report: &TdReport) -> bool {
    let head = &report.report_mac;
    head.tee_tcb_info_hash == sha384(report.tee_tcb_info.as_bytes())
        && head.tee_info_hash == sha384(report.td_info.as_bytes())
        && is_authentic(head)
}

/// Whether the MAC fits what it covers.
pub(crate) fn is_authentic(head: &ReportMac) -> bool {
    head.mac == mac(head)
}

/// HMAC-SHA-256 with [`FAKE_MAC_KEY`] over everything before the MAC. (The algorithm of the
/// processor's MAC is not public.)
fn mac(head: &ReportMac) -> [u8; 32] {
    let covered = &head.as_bytes()[..size_of::<ReportMac>() - size_of_val(&head.mac)];
    let keyed = |pad: u8, parts: &[&[u8]]| {
        let mut block = [pad; 64];
        block
            .iter_mut()
            .zip(FAKE_MAC_KEY)
            .for_each(|(b, k)| *b ^= k);
        let mut hash = Sha256::new();
        hash.update(&block);
        parts.iter().for_each(|part| hash.update(part));
        hash.finish()
    };
    let inner = keyed(0x36, &[covered]);
    keyed(0x5c, &[&inner])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_report_is_told_from_a_true_one() {
        let info = TdInfo::new_zeroed();
        let hash = Digest(sha384(info.as_bytes()));
        let report = make_report(info, hash, [7; 64]);
        assert!(is_consistent(&report));
        let mut forged = report;
        forged.report_mac.report_data[0] = 8;
        assert!(!is_consistent(&forged));
        let mut forged = report;
        forged.td_info.rtmr[2][1] = 1;
        assert!(!is_consistent(&forged));
    }

    #[test]
    fn the_mac_is_hmac_sha_256() {
        let head = ReportMac::new_zeroed();
        let key = openssl::pkey::PKey::hmac(&FAKE_MAC_KEY).unwrap();
        let digest = openssl::hash::MessageDigest::sha256();
        let mut signer = openssl::sign::Signer::new(digest, &key).unwrap();
        let expected = signer.sign_oneshot_to_vec(&[0; 224]).unwrap();
        assert_eq!(mac(&head).to_vec(), expected);
    }
}
