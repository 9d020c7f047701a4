//! What the TDX module says about itself (`struct tdx_sys_info`), read with SYS.RD at boot.

use seamlock_tdx_abi::FieldId;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::{Leaf, TdxStatus};
use seamlock_tdx_module::Module;
use seamlock_tdx_module::platform::Range;

use super::BootError;

/// One CPUID leaf that TD_PARAMS configures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuidConfig {
    /// Leaf in 31:0, subleaf in 63:32; subleaf all ones for none.
    pub leaf: u64,
    /// EBX:EAX and EDX:ECX of the configurable bits.
    pub values: [u64; 2],
}

/// The module's metadata as KVM keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SysInfo {
    /// Module version: major, minor, update.
    pub version: [u64; 3],
    /// TDX_FEATURES0.
    pub features0: u64,
    /// Most TDMRs.
    pub max_tdmrs: u64,
    /// Most reserved areas in a TDMR.
    pub max_reserved_per_tdmr: u64,
    /// Bytes in a PAMT entry of a 1 GiB, 2 MiB and 4 KiB page.
    pub pamt_entry_size: [u64; 3],
    /// Bytes in a TDCS.
    pub tdcs_base_size: u64,
    /// Bytes in a TDVPS.
    pub tdvps_base_size: u64,
    /// ATTRIBUTES bits that may be 1.
    pub attributes_fixed0: u64,
    /// ATTRIBUTES bits that must be 1.
    pub attributes_fixed1: u64,
    /// XFAM bits that may be 1.
    pub xfam_fixed0: u64,
    /// XFAM bits that must be 1.
    pub xfam_fixed1: u64,
    /// Most vCPUs in a TD.
    pub max_vcpus_per_td: u64,
    /// The configurable CPUID leaves, in the module's order.
    pub cpuid_config: Vec<CpuidConfig>,
    /// The convertible memory ranges.
    pub cmrs: Vec<Range>,
}

// Not in the list of module 1.5.06's fields, but Linux reads it.
const MAX_VCPUS_PER_TD: FieldId = FieldId(0x9900_0001_0000_0008);

impl SysInfo {
    /// Reads the metadata on LP 0.
    ///
    /// # Errors
    /// The status of the first SYS.RD that fails.
    pub fn read(module: &Module) -> Result<SysInfo, BootError> {
        let rd = |field: FieldId| sys_rd(module, field);
        let at = |field: FieldId, i: u64| sys_rd(module, FieldId(field.0 + i));
        let mut cpuid_config = Vec::new();
        for i in 0..rd(FieldId::SYS_NUM_CPUID_CONFIG)? {
            let leaf = at(FieldId::SYS_CPUID_CONFIG_LEAVES, i)?;
            let values = FieldId::SYS_CPUID_CONFIG_VALUES;
            let values = [at(values, 2 * i)?, at(values, 2 * i + 1)?];
            cpuid_config.push(CpuidConfig { leaf, values });
        }
        let mut cmrs = Vec::new();
        for i in 0..rd(FieldId::SYS_NUM_CMRS)? {
            let base = at(FieldId::SYS_CMR_BASE, i)?;
            cmrs.push(Range {
                base,
                size: at(FieldId::SYS_CMR_SIZE, i)?,
            });
        }
        Ok(SysInfo {
            version: [
                rd(FieldId::SYS_MAJOR_VERSION)?,
                rd(FieldId::SYS_MINOR_VERSION)?,
                rd(FieldId::SYS_UPDATE_VERSION)?,
            ],
            features0: rd(FieldId::SYS_TDX_FEATURES0)?,
            max_tdmrs: rd(FieldId::SYS_MAX_TDMRS)?,
            max_reserved_per_tdmr: rd(FieldId::SYS_MAX_RESERVED_PER_TDMR)?,
            pamt_entry_size: [
                rd(FieldId::SYS_PAMT_1G_ENTRY_SIZE)?,
                rd(FieldId::SYS_PAMT_2M_ENTRY_SIZE)?,
                rd(FieldId::SYS_PAMT_4K_ENTRY_SIZE)?,
            ],
            tdcs_base_size: rd(FieldId::SYS_TDCS_BASE_SIZE)?,
            tdvps_base_size: rd(FieldId::SYS_TDVPS_BASE_SIZE)?,
            attributes_fixed0: rd(FieldId::SYS_ATTRIBUTES_FIXED0)?,
            attributes_fixed1: rd(FieldId::SYS_ATTRIBUTES_FIXED1)?,
            xfam_fixed0: rd(FieldId::SYS_XFAM_FIXED0)?,
            xfam_fixed1: rd(FieldId::SYS_XFAM_FIXED1)?,
            max_vcpus_per_td: rd(MAX_VCPUS_PER_TD)?,
            cpuid_config,
            cmrs,
        })
    }
}

fn sys_rd(module: &Module, field: FieldId) -> Result<u64, BootError> {
    let mut regs = Regs {
        rdx: field.0,
        ..Regs::call(Leaf::SYS_RD)
    };
    let _ = module.seamcall(0, &mut regs);
    match regs.status() {
        TdxStatus::SUCCESS => Ok(regs.r8),
        status => Err(BootError::Metadata { field, status }),
    }
}
