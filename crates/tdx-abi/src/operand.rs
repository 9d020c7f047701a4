//! Operand ids: which operand or resource a status complains about (bits 7:0 of the details).
//!
//! Source: TDX module 1.5 (`tdx_error_codes_defs.h`).

use crate::layout::open_number;

/// The id of an operand or a resource.
///
/// Registers are the ids 0 to 15 (4 would be RSP and is not used). A TDR that a register names is
/// reported as that register; a TDR that the module finds by itself is reported as
/// [`OperandId::TDR`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct OperandId(pub u8);

open_number!(OperandId(u8) {
    /// Register RAX.
    RAX = 0;
    /// Register RCX.
    RCX = 1;
    /// Register RDX.
    RDX = 2;
    /// Register RBX.
    RBX = 3;
    /// Register RBP.
    RBP = 5;
    /// Register RSI.
    RSI = 6;
    /// Register RDI.
    RDI = 7;
    /// Register R8.
    R8 = 8;
    /// Register R9.
    R9 = 9;
    /// Register R10.
    R10 = 10;
    /// Register R11.
    R11 = 11;
    /// Register R12.
    R12 = 12;
    /// Register R13.
    R13 = 13;
    /// Register R14.
    R14 = 14;
    /// Register R15.
    R15 = 15;
    /// TD_PARAMS.ATTRIBUTES.
    ATTRIBUTES = 64;
    /// TD_PARAMS.XFAM.
    XFAM = 65;
    /// TD_PARAMS.CONFIG_FLAGS.
    EXEC_CONTROLS = 66;
    /// TD_PARAMS.EPTP_CONTROLS.
    EPTP_CONTROLS = 67;
    /// TD_PARAMS.MAX_VCPUS.
    MAX_VCPUS = 68;
    /// A CPUID configuration of TD_PARAMS.
    CPUID_CONFIG = 69;
    /// TD_PARAMS.TSC_FREQUENCY.
    TSC_FREQUENCY = 70;
    /// TD_PARAMS.NUM_L2_VMS.
    NUM_L2_VMS = 71;
    /// TD_PARAMS.IA32_ARCH_CAPABILITIES_CONFIG.
    IA32_ARCH_CAPABILITIES_CONFIG = 72;
    /// A page.
    PAGE = 95;
    /// An entry of the TDMR_INFO address array.
    TDMR_INFO_PA = 96;
    /// An entry of a GPA list.
    GPA_LIST_ENTRY = 97;
    /// An entry of a migration buffer list.
    MIG_BUFF_LIST_ENTRY = 98;
    /// An entry of a list of new pages.
    NEW_PAGE_LIST_ENTRY = 99;
    /// The TDR found through an owner, not named by a register.
    TDR = 128;
    /// A TDCS page.
    TDCX = 129;
    /// The TDVPR page.
    TDVPR = 130;
    /// A TD private page.
    REG_PAGE = 132;
    /// The TDCS.
    TDCS = 144;
    /// The TDVPS.
    TDVPS = 145;
    /// The secure EPT tree of a TD.
    SEPT_TREE = 146;
    /// A secure EPT entry.
    SEPT_ENTRY = 147;
    /// The TD's run-time measurement registers.
    RTMR = 168;
    /// The TD's TLB epoch.
    TD_EPOCH = 169;
    /// The L2 virtual APIC page.
    L2_VAPIC_GPA = 170;
    /// A migration stream context.
    MIGSC = 171;
    /// The TD's OP_STATE.
    OP_STATE = 172;
    /// The migration context.
    MIG = 173;
    /// The service TD binding table.
    SERVTD_BINDINGS = 174;
    /// A metadata field.
    METADATA_FIELD = 176;
    /// Module-wide state.
    SYS = 184;
    /// A TDMR.
    TDMR = 185;
    /// The key ownership table.
    KOT = 186;
    /// The key encryption table (hardware).
    KET = 187;
    /// The cache write-back state of a package.
    WBCACHE = 188;
});

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, format};

    #[test]
    fn ids_are_unique_and_named() {
        let ids: BTreeSet<u8> = OperandId::ALL.iter().map(|(id, _)| id.0).collect();
        assert_eq!(ids.len(), OperandId::ALL.len());
        assert_eq!(OperandId::KOT.meaning(), Some("The key ownership table."));
        assert_eq!(
            (OperandId::R15.0, OperandId::TDR.0, OperandId::SEPT_TREE.0),
            (15, 128, 146)
        );
        assert_eq!((OperandId::TD_EPOCH.0, OperandId::OP_STATE.0), (169, 172));
        assert_eq!(
            (OperandId::KOT.0, OperandId::KET.0, OperandId::WBCACHE.0),
            (186, 187, 188)
        );
        assert_eq!(
            format!("{} {}", OperandId::TDVPR, OperandId(4)),
            "TDVPR OperandId(0x4)"
        );
    }
}
