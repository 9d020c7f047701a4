//! `TDH.SYS.INFO` (leaf 32): what TDH.SYS.RD tells, as one structure. Kept for old hosts.
//!
//! RCX = buffer for TDSYSINFO_STRUCT, a multiple of 1024; RDX = its bytes; R8 = buffer for the
//! convertible memory ranges, a multiple of 512; R9 = its entries. Out: RDX = bytes, R9 = entries.
//! Takes no lock.

use seamlock_tdx_abi::field::FieldId;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::status::TdxStatus;

use crate::Module;
use crate::call::{Call, Done, invalid};
use crate::cpuid::{CONFIGURABLE, configurable_bits};
use crate::metadata::{Accessor, MAX_CMRS, read_sys};

/// Bytes of TDSYSINFO_STRUCT.
const STRUCT_BYTES: usize = 1024;
/// Bytes of one convertible memory range: base and size.
const CMR_BYTES: usize = 16;

/// Fields of TDSYSINFO_STRUCT: offset, bytes, and where its value comes from. What is not listed is
/// zero.
const LAYOUT: &[(usize, usize, FieldId)] = &[
    (4, 4, FieldId::SYS_VENDOR_ID),
    (8, 4, FieldId::SYS_BUILD_DATE),
    (12, 2, FieldId::SYS_BUILD_NUM),
    (14, 2, FieldId::SYS_MINOR_VERSION),
    (16, 2, FieldId::SYS_MAJOR_VERSION),
    (32, 2, FieldId::SYS_MAX_TDMRS),
    (34, 2, FieldId::SYS_MAX_RESERVED_PER_TDMR),
    (36, 2, FieldId::SYS_PAMT_4K_ENTRY_SIZE),
    (48, 2, FieldId::SYS_TDCS_BASE_SIZE),
    (52, 2, FieldId::SYS_TDVPS_BASE_SIZE),
    (64, 8, FieldId::SYS_ATTRIBUTES_FIXED0),
    (72, 8, FieldId::SYS_ATTRIBUTES_FIXED1),
    (80, 8, FieldId::SYS_XFAM_FIXED0),
    (88, 8, FieldId::SYS_XFAM_FIXED1),
    (128, 4, FieldId::SYS_NUM_CPUID_CONFIG),
];
/// Offset of the flag that says TDH.SYS.RD is there.
const SYS_RD: usize = 18;
/// Offset of the list of configurable CPUID leaves, 24 bytes each.
const CPUID_CONFIGS: usize = 132;

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let (m, operands) = (call.m, *call.r);
    (call.r.rdx, call.r.r9) = (0, 0);
    if !m.sys.lps[call.lp as usize].initialized.load() {
        return Err(TdxStatus::SYS_LP_INIT_NOT_DONE);
    }
    let info = m.check_shared_hpa(operands.rcx, STRUCT_BYTES as u64, OperandId::RCX)?;
    if operands.rdx < STRUCT_BYTES as u64 {
        return Err(invalid(OperandId::RDX));
    }
    // What lies in no memory is lost, as every write to a hole is. The structure is empty from here
    // on, even when a later operand is refused.
    let _ = m.memory.write(info, &[0; STRUCT_BYTES]);
    let cmrs = m.check_shared_hpa(operands.r8, (MAX_CMRS * CMR_BYTES) as u64, OperandId::R8)?;
    if operands.r9 < MAX_CMRS as u64 {
        return Err(invalid(OperandId::R9));
    }
    let _ = m.memory.write(info, &tdsysinfo(m));
    let _ = m.memory.write(cmrs, &cmr_list(m));
    (call.r.rdx, call.r.r9) = (STRUCT_BYTES as u64, MAX_CMRS as u64);
    Ok(())
}

fn tdsysinfo(m: &Module) -> [u8; STRUCT_BYTES] {
    let mut bytes = [0; STRUCT_BYTES];
    let host = Accessor::Host { debug: false };
    for (offset, size, id) in LAYOUT {
        let value = read_sys(m, *id, host).unwrap_or(0).to_le_bytes();
        bytes[*offset..][..*size].copy_from_slice(&value[..*size]);
    }
    bytes[SYS_RD] = 1;
    let list = bytes[CPUID_CONFIGS..].chunks_exact_mut(24);
    for (bytes, config) in list.zip(&CONFIGURABLE) {
        let bits = configurable_bits(config, &m.sys.native_cpuid);
        bytes[..8].copy_from_slice(&config.leaf_subleaf().to_le_bytes());
        for (bytes, bits) in bytes[8..].chunks_exact_mut(4).zip(bits) {
            bytes.copy_from_slice(&bits.to_le_bytes());
        }
    }
    bytes
}

fn cmr_list(m: &Module) -> [u8; MAX_CMRS * CMR_BYTES] {
    let mut bytes = [0; MAX_CMRS * CMR_BYTES];
    for (bytes, cmr) in bytes.chunks_exact_mut(CMR_BYTES).zip(&m.platform.cmrs) {
        bytes[..8].copy_from_slice(&cmr.base.to_le_bytes());
        bytes[8..].copy_from_slice(&cmr.size.to_le_bytes());
    }
    bytes
}
