//! What the registers of each host leaf are, besides RAX.
//!
//! Source: TDX module 1.5 ABI specification, operand tables; that a leaf changes no other register is
//! checked with random calls by `tests/robust.rs`.

use seamlock_tdx_abi::leaf::Leaf;

/// A register and what it is.
pub type Operand = (&'static str, &'static str);

/// The registers of one leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafOperands {
    /// The leaf.
    pub leaf: Leaf,
    /// Its version.
    pub version: u8,
    /// What it reads.
    pub input: &'static [Operand],
    /// What it writes. Also written, mostly with zero, when the leaf fails.
    pub output: &'static [Operand],
}

const TDR: Operand = ("rcx", "TDR");
const TDR_DX: Operand = ("rdx", "TDR");
const TDVPR: Operand = ("rcx", "TDVPR");
const NEW: Operand = ("rcx", "new page");
const NEW_R8: Operand = ("r8", "new page");
const MAPPING: Operand = ("rcx", "GPA in 51:12, level in 2:0");
const FIELD: Operand = ("rdx", "field id");
const VALUE: Operand = ("r8", "value");
const OLD: Operand = ("r8", "what was there");
const MASK: Operand = ("r9", "bits to write");
const NEXT: Operand = ("rdx", "id of the next field");
const EPT: Operand = ("rcx", "on an error of the secure EPT: the entry");
const EPT_INFO: Operand = ("rdx", "on an error of the secure EPT: its level and state");
const FREED: Operand = (
    "rcx",
    "the page that is free now, or as with RANGE.BLOCK on an error",
);
const L2_FREED: [Operand; 3] = [
    ("r9", "freed table of L2 VM 1"),
    ("r10", "freed table of L2 VM 2"),
    ("r11", "freed table of L2 VM 3"),
];
const L2_NEW: [Operand; 3] = [
    ("r9", "page for L2 VM 1"),
    ("r10", "page for L2 VM 2"),
    ("r11", "page for L2 VM 3"),
];
const L2_LEFT: [Operand; 3] = [
    ("r9", "page for L2 VM 1, bit 63 set when it was not used"),
    ("r10", "the same for L2 VM 2"),
    ("r11", "the same for L2 VM 3"),
];
const FAULT: [Operand; 3] = [
    ("rcx", "what is wrong with the processor, or 0"),
    ("rdx", "what it should be, or 0"),
    ("r8", "what it is, or 0"),
];

macro_rules! operands {
    ($($leaf:ident $version:literal: [$($in:expr),* $(,)?] => [$($out:expr),* $(,)?];)*) => {
        /// The registers of every leaf that the module has.
        pub const OPERANDS: &[LeafOperands] = &[
            $(LeafOperands {
                leaf: Leaf::$leaf,
                version: $version,
                input: &[$($in),*],
                output: &[$($out),*],
            },)*
        ];
    };
}

operands! {
    SYS_INIT 0: [("rcx", "0")] => [FAULT[0], FAULT[1], FAULT[2], ("r9", "0"), ("r10", "0")];
    SYS_LP_INIT 0: [] => [FAULT[0], FAULT[1], FAULT[2]];
    SYS_INFO 0: [
        ("rcx", "buffer for TDSYSINFO_STRUCT"), ("rdx", "its bytes"),
        ("r8", "buffer for the convertible memory ranges"), ("r9", "its entries"),
    ] => [("rdx", "bytes written"), ("r9", "entries written")];
    SYS_RD 0: [FIELD] => [NEXT, VALUE];
    SYS_RDALL 0: [("rdx", "page for the list"), ("r8", "id of the first field, or all ones")]
        => [("r8", "id of the next field, or all ones")];
    SYS_CONFIG 0: [
        ("rcx", "array of addresses of TDMR_INFO"), ("rdx", "their number"), ("r8", "HKID"),
    ] => [];
    SYS_KEY_CONFIG 0: [] => [];
    SYS_TDMR_INIT 0: [("rcx", "base of the TDMR")]
        => [("rdx", "the address up to which whole GiB are ready")];
    SYS_SHUTDOWN 0: [("rcx", "version of the handoff data")] => [];
    SYS_UPDATE 0: [] => [];
    SYS_LP_SHUTDOWN 0: [] => [];

    MNG_CREATE 0: [("rcx", "new page: the TDR"), ("rdx", "HKID")] => [];
    MNG_KEY_CONFIG 0: [TDR] => [];
    MNG_KEY_RECLAIMID 0: [TDR] => [];
    MNG_KEY_FREEID 0: [TDR] => [];
    MNG_ADDCX 0: [NEW, TDR_DX] => [];
    MNG_INIT 0: [TDR, ("rdx", "TD_PARAMS")]
        => [("rcx", "CPUID leaf in 31:0 and subleaf in 63:32 that is refused, or 0")];
    MNG_RD 0: [TDR, FIELD] => [VALUE];
    MNG_RD 1: [TDR, FIELD] => [NEXT, VALUE];
    MNG_WR 0: [TDR, FIELD, VALUE, MASK] => [OLD];
    MNG_VPFLUSHDONE 0: [TDR] => [];

    VP_CREATE 0: [("rcx", "new page: the TDVPR"), TDR_DX] => [];
    VP_ADDCX 0: [NEW, ("rdx", "TDVPR")] => [];
    VP_INIT 0: [TDVPR, ("rdx", "RCX and R8 of the guest")] => [];
    VP_INIT 1: [TDVPR, ("rdx", "RCX and R8 of the guest"), ("r8", "x2APIC id")] => [];
    VP_RD 0: [TDVPR, FIELD] => [VALUE];
    VP_RD 1: [TDVPR, FIELD] => [NEXT, VALUE];
    VP_WR 0: [TDVPR, FIELD, VALUE, MASK] => [OLD];
    VP_FLUSH 0: [TDVPR] => [];
    VP_ENTER 0: [
        ("rcx", "TDVPR in 51:12, bit 52 host-recoverability hint, bit 53 resume L1"),
        ("rbx..r15", "what TDG.VP.VMCALL returns to the guest, if it was the last exit"),
    ] => [
        ("rcx", "exit qualification; after TDG.VP.VMCALL the registers it passes"),
        ("rdx", "extended exit qualification"), ("r8", "GPA"),
        ("r9", "VM-exit interruption information"),
        ("rbx..r15", "what TDG.VP.VMCALL passes, else 0"),
    ];

    MEM_SEPT_ADD 0: [MAPPING, ("rdx", "TDR, bit 0 a table that exists is no error"), NEW_R8]
        => [EPT, EPT_INFO];
    MEM_SEPT_ADD 1: [
        MAPPING, ("rdx", "TDR, bit 0 a table that exists is no error"), NEW_R8,
        L2_NEW[0], L2_NEW[1], L2_NEW[2],
    ] => [
        EPT, EPT_INFO, ("r8", "all ones: used; bit 63: the table existed"),
        ("r9", "the same for L2 VM 1"), ("r10", "the same for L2 VM 2"),
        ("r11", "the same for L2 VM 3"),
    ];
    MEM_SEPT_RD 0: [MAPPING, ("rdx", "TDR, bit 0 read what L2 VMs may do (debug TD)")]
        => [("rcx", "entry"), ("rdx", "its level and state"), ("r8", "L2 attributes, if asked")];
    MEM_SEPT_REMOVE 0: [MAPPING, TDR_DX] => [FREED, EPT_INFO];
    MEM_SEPT_REMOVE 1: [MAPPING, TDR_DX]
        => [FREED, EPT_INFO, L2_FREED[0], L2_FREED[1], L2_FREED[2]];
    MEM_PAGE_ADD 0: [MAPPING, TDR_DX, NEW_R8, ("r9", "source page of the host")]
        => [EPT, EPT_INFO];
    MEM_PAGE_AUG 0: [MAPPING, TDR_DX, NEW_R8] => [EPT, EPT_INFO];
    MEM_PAGE_REMOVE 0: [MAPPING, TDR_DX] => [FREED, EPT_INFO];
    MEM_PAGE_RELOCATE 0: [MAPPING, TDR_DX, NEW_R8] => [FREED, EPT_INFO];
    MEM_PAGE_PROMOTE 0: [MAPPING, TDR_DX] => [FREED, EPT_INFO];
    MEM_PAGE_PROMOTE 1: [MAPPING, TDR_DX]
        => [FREED, EPT_INFO, L2_FREED[0], L2_FREED[1], L2_FREED[2]];
    MEM_PAGE_DEMOTE 0: [
        MAPPING, ("rdx", "TDR, bit 0 tables for L2 VMs only where needed"), NEW_R8,
        L2_NEW[0], L2_NEW[1], L2_NEW[2],
    ] => [EPT, EPT_INFO, L2_LEFT[0], L2_LEFT[1], L2_LEFT[2]];
    MEM_RANGE_BLOCK 0: [MAPPING, TDR_DX] => [EPT, EPT_INFO];
    MEM_RANGE_UNBLOCK 0: [MAPPING, TDR_DX] => [EPT, EPT_INFO];
    MEM_TRACK 0: [TDR] => [];
    MEM_RD 0: [("rcx", "GPA, a multiple of 8"), TDR_DX]
        => [EPT, EPT_INFO, ("r8", "8 bytes of the TD")];
    MEM_WR 0: [("rcx", "GPA, a multiple of 8"), TDR_DX, ("r8", "8 bytes")]
        => [EPT, EPT_INFO, OLD];

    MR_EXTEND 0: [("rcx", "GPA, a multiple of 256"), TDR_DX] => [EPT, EPT_INFO];
    MR_FINALIZE 0: [TDR] => [];

    PHYMEM_PAGE_RDMD 0: [("rcx", "page")] => [
        ("rcx", "type"), ("rdx", "owner"), ("r8", "size"), ("r9", "BEPOCH"), ("r10", "0"),
        ("r11", "0"),
    ];
    PHYMEM_PAGE_RECLAIM 0: [("rcx", "page")] => [
        ("rcx", "type"), ("rdx", "owner"), ("r8", "size"), ("r9", "0"), ("r10", "0"),
        ("r11", "0"),
    ];
    PHYMEM_PAGE_WBINVD 0: [("rcx", "page, with its HKID")] => [];
    PHYMEM_CACHE_WB 0: [("rcx", "0 to start, 1 to go on after an interrupt")] => [];
}

/// The registers of a leaf; None for a leaf that the module does not have in this version.
pub fn operands_of(leaf: Leaf, version: u8) -> Option<&'static LeafOperands> {
    let of_leaf = |row: &&LeafOperands| row.leaf == leaf && row.version == version;
    OPERANDS.iter().find(of_leaf)
}

#[cfg(test)]
mod tests {
    use seamlock_tdx_abi::regs::REG_NAMES;

    use super::*;
    use crate::tables::VERSIONED;
    use crate::tdh::LEAVES;

    #[test]
    fn every_leaf_has_a_row_for_each_version() {
        for leaf in LEAVES {
            assert!(operands_of(*leaf, 0).is_some(), "{leaf}");
            let versioned = VERSIONED.contains(leaf);
            assert_eq!(operands_of(*leaf, 1).is_some(), versioned, "{leaf}");
        }
        assert!(OPERANDS.iter().all(|row| LEAVES.contains(&row.leaf)));
    }

    #[test]
    fn operands_are_registers() {
        for row in OPERANDS {
            for (register, _) in row.input.iter().chain(row.output) {
                let one = REG_NAMES.contains(register);
                assert!(one || *register == "rbx..r15", "{} {register}", row.leaf);
            }
        }
    }
}
