//! The values of the module's fields.

use seamlock_tdx_abi::field::FieldId;
use seamlock_tdx_abi::pamt::PAMT_ENTRY_BYTES;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_abi::td_params::{MAX_VCPUS_PER_TD, XFAM_FIXED0, XFAM_FIXED1};
use seamlock_tdx_abi::tdmr::{MAX_RESERVED_AREAS, MAX_TDMRS};

use super::{Accessor, Field, Scope};
use crate::Module;
use crate::cpuid::{CONFIGURABLE, MIN_VIRT_MAXPA, allowed_families, configurable_bits};
use crate::msr::ARCH_CAPABILITIES_CONFIG_MASK;
use crate::sys::{MIN_UPDATE_HV, MODULE_HV, SysState};
use crate::td::{MIN_TDCS_PAGES, TDCS_PAGES_PER_L2_VM};
use crate::vp::{MIN_TDVPS_PAGES, TDVPS_PAGES_PER_L2_VM};

/// Version that the module answers with: major, minor, update.
const VERSION: [u64; 3] = [1, 5, 6];
/// Intel, as PCI knows it.
const VENDOR: u64 = 0x8086;
/// Build date (year, month, day) and number of Intel's release 1.5.06, as Linux hosts log them.
const BUILD: (u64, u64) = (20_240_407, 744);
/// Entries of the list of convertible memory ranges; those beyond the last range are zero.
pub(crate) const MAX_CMRS: usize = 32;
/// Migration streams of a TD.
const MAX_MIGS: u64 = 512;
/// Pages that exported state takes: immutable, TD, vCPU.
const EXPORT_PAGES: [u64; 3] = [4, 2, 5];
/// Service TDs that can be bound to a TD.
const MAX_SERVTDS: u64 = 1;
const SERVTD_ATTR_FIXED0: u64 = 0x07ff_0000_0001;
/// GPA attributes that an L1 VMM can give an L2 VM.
const L2_GPA_ATTR_MASK: u64 = 0x807f;

/// TDX_FEATURES0 of module 1.5.06. Those that Linux looks at are 18, NO_RBP_MOD, and 20, topology
/// enumeration.
const TDX_FEATURES0: u64 = bits(&[
    0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 16, 17, 18, 19, 20, 25, 26, 27, 29,
]);

const fn bits(set: &[u32]) -> u64 {
    let (mut mask, mut i) = (0, 0);
    while i < set.len() {
        mask |= 1 << set[i];
        i += 1;
    }
    mask
}

/// Reads one element.
///
/// # Errors
/// METADATA_FIELD_ID_INCORRECT, METADATA_FIELD_NOT_READABLE.
pub(crate) fn read_sys(m: &Module, id: FieldId, accessor: Accessor) -> Result<u64, TdxStatus> {
    let row = Scope::Sys.find(id);
    let row = row.ok_or(TdxStatus::METADATA_FIELD_ID_INCORRECT)?;
    let readable = row.allows(accessor).read;
    if readable == 0 {
        return Err(TdxStatus::METADATA_FIELD_NOT_READABLE);
    }
    Ok(value(m, row, id) & readable)
}

fn value(m: &Module, row: &Field, id: FieldId) -> u64 {
    let n = (id.code() - row.id.code()) as usize;
    let platform = &m.platform;
    match (row.id.class(), row.id.code()) {
        (0, 0) => platform.packages.into(),
        (0, _) if n < platform.packages as usize => platform.cpuid(1, 0)[0].into(),
        (8, 0) => VENDOR,
        (8, 1) => BUILD.0,
        (8, 2) => BUILD.1,
        (8, 3) => VERSION[1],
        (8, 4) => VERSION[0],
        (8, 5) => VERSION[2],
        (9, 0) => MODULE_HV.into(),
        (9, 1) => MIN_UPDATE_HV.into(),
        (9, 4) => u64::from(m.sys.state.load() == SysState::Shutdown),
        (10, 1) => 1,
        (10, 8) => TDX_FEATURES0,
        (16, 0) => MAX_CMRS as u64,
        (16, 0x80) => platform.cmrs.get(n).map_or(0, |cmr| cmr.base),
        (16, 0x100) => platform.cmrs.get(n).map_or(0, |cmr| cmr.size),
        (17, 8) => MAX_TDMRS as u64,
        (17, 9) => MAX_RESERVED_AREAS as u64,
        (17, _) => PAMT_ENTRY_BYTES,
        (24, 0) => 4096,
        (24, 0x100) => u64::from(MIN_TDCS_PAGES) * 4096,
        (24, 0x101) => u64::from(TDCS_PAGES_PER_L2_VM) * 4096,
        (24, 0x200) => u64::from(MIN_TDVPS_PAGES) * 4096,
        (24, 0x201) => u64::from(TDVPS_PAGES_PER_L2_VM) * 4096,
        (25, code) => configurability(m, code, n),
        (32, 0x10) => MAX_MIGS,
        (32, code @ 0x20..=0x22) => EXPORT_PAGES[code as usize - 0x20],
        (33, 0) => MAX_SERVTDS,
        (33, 1) => SERVTD_ATTR_FIXED0,
        (34, 0) => L2_GPA_ATTR_MASK,
        (34, 1) => 1,
        (34, 3) => 3,
        (34, 5) => 7,
        // Internal version, attributes, migration versions, masks of bits that must be 1.
        _ => 0,
    }
}

/// What the host may configure in a TD.
fn configurability(m: &Module, code: u32, n: usize) -> u64 {
    let platform = &m.platform;
    let family = || platform.cpuid(1, 0)[0];
    match code {
        0 => platform.attributes_fixed0,
        1 => platform.attributes_fixed1,
        2 => XFAM_FIXED0 & (platform.xcr0_supported | platform.xss_supported),
        3 => XFAM_FIXED1,
        4 => CONFIGURABLE.len() as u64,
        6 => platform.config_flags_fixed0,
        8 => MAX_VCPUS_PER_TD.into(),
        9 => MIN_VIRT_MAXPA.into(),
        0x400 => CONFIGURABLE.get(n).map_or(u64::MAX, |c| c.leaf_subleaf()),
        0x500 => {
            let Some(config) = CONFIGURABLE.get(n / 2) else {
                return 0;
            };
            let bits = configurable_bits(config, &m.sys.native_cpuid);
            let half = n % 2 * 2;
            u64::from(bits[half]) | u64::from(bits[half + 1]) << 32
        }
        0x600 => ARCH_CAPABILITIES_CONFIG_MASK,
        0x800 => allowed_families(family()).count() as u64,
        0x810 => allowed_families(family()).nth(n).unwrap_or(0).into(),
        _ => 0,
    }
}
