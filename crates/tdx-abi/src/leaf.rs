//! Host leaf numbers (`TDH.*`) and the layout of RAX on a SEAMCALL.
//!
//! Source: TDX module 1.5 (`tdx_api_defs.h`), and Linux v7.3.4 `arch/x86/virt/vmx/tdx/tdx.h` for
//! `SYS.DISABLE`.

/// Declares leaf constants, the table of all leaves and the lookups by number and by name.
macro_rules! leaves {
    ($ty:ident, $prefix:literal, { $($(#[doc = $doc:literal])* $name:ident = $nr:literal, $text:literal;)* }) => {
        impl $ty {
            $(
                #[doc = concat!("`", $prefix, $text, "` (leaf ", stringify!($nr), ").")]
                #[doc = ""]
                $(#[doc = $doc])*
                pub const $name: Self = Self($nr);
            )*

            /// Every known leaf, by number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The dotted name without its prefix, `MEM.PAGE.ADD`.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($nr => Some($text),)*
                    _ => None,
                }
            }

            /// The name as the specification writes it, with its prefix.
            pub const fn spec_name(self) -> Option<&'static str> {
                match self.0 {
                    $($nr => Some(concat!($prefix, $text)),)*
                    _ => None,
                }
            }

            /// What the leaf does, in one sentence.
            pub const fn summary(self) -> Option<&'static str> {
                match self.0 {
                    $($nr => Some(concat!($($doc),*).trim_ascii_start()),)*
                    _ => None,
                }
            }

            /// The leaf of a dotted name, with or without its prefix.
            pub fn from_name(name: &str) -> Option<Self> {
                let short = name.strip_prefix($prefix).unwrap_or(name);
                Self::ALL.iter().copied().find(|leaf| leaf.name() == Some(short))
            }
        }

        impl ::core::fmt::Display for $ty {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                match self.spec_name() {
                    Some(name) => f.pad(name),
                    None => write!(f, concat!($prefix, "{}"), self.0),
                }
            }
        }

        impl ::core::fmt::Debug for $ty {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                ::core::fmt::Display::fmt(self, f)
            }
        }
    };
}

pub(crate) use leaves;

/// A host-side leaf number, RAX bits 15:0 of a SEAMCALL.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Leaf(pub u16);

leaves!(Leaf, "TDH.", {
    /// Enters the guest on a vCPU until its next TD exit.
    VP_ENTER = 0, "VP.ENTER";
    /// Adds a TDCS page to a TD.
    MNG_ADDCX = 1, "MNG.ADDCX";
    /// Copies a page into a TD that is being built and measures its address.
    MEM_PAGE_ADD = 2, "MEM.PAGE.ADD";
    /// Adds a secure EPT page.
    MEM_SEPT_ADD = 3, "MEM.SEPT.ADD";
    /// Adds a TDVPS page to a vCPU.
    VP_ADDCX = 4, "VP.ADDCX";
    /// Moves a TD page to another host page.
    MEM_PAGE_RELOCATE = 5, "MEM.PAGE.RELOCATE";
    /// Adds a pending page that the guest has to accept.
    MEM_PAGE_AUG = 6, "MEM.PAGE.AUG";
    /// Blocks a GPA range against new translations.
    MEM_RANGE_BLOCK = 7, "MEM.RANGE.BLOCK";
    /// Programs a TD's key on the current package.
    MNG_KEY_CONFIG = 8, "MNG.KEY.CONFIG";
    /// Creates a TD from a TDR page and an HKID.
    MNG_CREATE = 9, "MNG.CREATE";
    /// Creates a vCPU from a TDVPR page.
    VP_CREATE = 10, "VP.CREATE";
    /// Reads a TD-scope metadata field.
    MNG_RD = 11, "MNG.RD";
    /// Reads memory of a debug TD.
    MEM_RD = 12, "MEM.RD";
    /// Writes a TD-scope metadata field.
    MNG_WR = 13, "MNG.WR";
    /// Writes memory of a debug TD.
    MEM_WR = 14, "MEM.WR";
    /// Splits a large mapping.
    MEM_PAGE_DEMOTE = 15, "MEM.PAGE.DEMOTE";
    /// Extends MRTD with 256 bytes of a TD page.
    MR_EXTEND = 16, "MR.EXTEND";
    /// Completes MRTD and makes the TD runnable.
    MR_FINALIZE = 17, "MR.FINALIZE";
    /// Ends a vCPU's association with the current LP.
    VP_FLUSH = 18, "VP.FLUSH";
    /// Checks that no vCPU is associated and blocks the HKID.
    MNG_VPFLUSHDONE = 19, "MNG.VPFLUSHDONE";
    /// Frees the HKID after the caches were written back.
    MNG_KEY_FREEID = 20, "MNG.KEY.FREEID";
    /// Initialises a TD from TD_PARAMS.
    MNG_INIT = 21, "MNG.INIT";
    /// Initialises a vCPU.
    VP_INIT = 22, "VP.INIT";
    /// Merges 512 mappings into a larger one.
    MEM_PAGE_PROMOTE = 23, "MEM.PAGE.PROMOTE";
    /// Reads a page's PAMT metadata.
    PHYMEM_PAGE_RDMD = 24, "PHYMEM.PAGE.RDMD";
    /// Reads a secure EPT entry.
    MEM_SEPT_RD = 25, "MEM.SEPT.RD";
    /// Reads a vCPU-scope metadata field.
    VP_RD = 26, "VP.RD";
    /// Does nothing, kept for compatibility.
    MNG_KEY_RECLAIMID = 27, "MNG.KEY.RECLAIMID";
    /// Takes a page back from a TD that is torn down.
    PHYMEM_PAGE_RECLAIM = 28, "PHYMEM.PAGE.RECLAIM";
    /// Removes a page from a TD.
    MEM_PAGE_REMOVE = 29, "MEM.PAGE.REMOVE";
    /// Removes an empty secure EPT page.
    MEM_SEPT_REMOVE = 30, "MEM.SEPT.REMOVE";
    /// Programs the module's own key on the current package.
    SYS_KEY_CONFIG = 31, "SYS.KEY.CONFIG";
    /// Reports the module and the CMRs (superseded by SYS.RD).
    SYS_INFO = 32, "SYS.INFO";
    /// Initialises the module.
    SYS_INIT = 33, "SYS.INIT";
    /// Reads a system-scope metadata field.
    SYS_RD = 34, "SYS.RD";
    /// Initialises the module on the current LP.
    SYS_LP_INIT = 35, "SYS.LP.INIT";
    /// Initialises the next part of a TDMR.
    SYS_TDMR_INIT = 36, "SYS.TDMR.INIT";
    /// Reads all system-scope metadata fields.
    SYS_RDALL = 37, "SYS.RDALL";
    /// Advances the TD's TLB epoch.
    MEM_TRACK = 38, "MEM.TRACK";
    /// Undoes a block.
    MEM_RANGE_UNBLOCK = 39, "MEM.RANGE.UNBLOCK";
    /// Writes back the caches of the current package.
    PHYMEM_CACHE_WB = 40, "PHYMEM.CACHE.WB";
    /// Writes back and invalidates the lines of one page.
    PHYMEM_PAGE_WBINVD = 41, "PHYMEM.PAGE.WBINVD";
    /// Writes attributes of a secure EPT entry (L2).
    MEM_SEPT_WR = 42, "MEM.SEPT.WR";
    /// Writes a vCPU-scope metadata field.
    VP_WR = 43, "VP.WR";
    /// Shuts the module down on the current LP.
    SYS_LP_SHUTDOWN = 44, "SYS.LP.SHUTDOWN";
    /// Configures the TDMRs and the global HKID.
    SYS_CONFIG = 45, "SYS.CONFIG";
    /// Binds a service TD.
    SERVTD_BIND = 48, "SERVTD.BIND";
    /// Binds a service TD by its hash before it exists.
    SERVTD_PREBIND = 49, "SERVTD.PREBIND";
    /// Prepares the module for a run-time update.
    SYS_SHUTDOWN = 52, "SYS.SHUTDOWN";
    /// Takes over after a run-time update.
    SYS_UPDATE = 53, "SYS.UPDATE";
    /// Aborts an export session.
    EXPORT_ABORT = 64, "EXPORT.ABORT";
    /// Blocks pages for writing.
    EXPORT_BLOCKW = 65, "EXPORT.BLOCKW";
    /// Restores pages after an aborted export.
    EXPORT_RESTORE = 66, "EXPORT.RESTORE";
    /// Exports pages.
    EXPORT_MEM = 68, "EXPORT.MEM";
    /// Disables the module (known from Linux 7.3; not in module 1.5.06).
    SYS_DISABLE = 69, "SYS.DISABLE";
    /// Pauses the source TD.
    EXPORT_PAUSE = 70, "EXPORT.PAUSE";
    /// Ends an export epoch.
    EXPORT_TRACK = 71, "EXPORT.TRACK";
    /// Starts an export session.
    EXPORT_STATE_IMMUTABLE = 72, "EXPORT.STATE.IMMUTABLE";
    /// Exports the mutable state of a TD.
    EXPORT_STATE_TD = 73, "EXPORT.STATE.TD";
    /// Exports the state of a vCPU.
    EXPORT_STATE_VP = 74, "EXPORT.STATE.VP";
    /// Undoes a write block.
    EXPORT_UNBLOCKW = 75, "EXPORT.UNBLOCKW";
    /// Aborts an import session.
    IMPORT_ABORT = 80, "IMPORT.ABORT";
    /// Ends an import session.
    IMPORT_END = 81, "IMPORT.END";
    /// Commits an import and lets the TD run.
    IMPORT_COMMIT = 82, "IMPORT.COMMIT";
    /// Imports pages.
    IMPORT_MEM = 83, "IMPORT.MEM";
    /// Ends an import epoch.
    IMPORT_TRACK = 84, "IMPORT.TRACK";
    /// Starts an import session.
    IMPORT_STATE_IMMUTABLE = 85, "IMPORT.STATE.IMMUTABLE";
    /// Imports the mutable state of a TD.
    IMPORT_STATE_TD = 86, "IMPORT.STATE.TD";
    /// Imports the state of a vCPU.
    IMPORT_STATE_VP = 87, "IMPORT.STATE.VP";
    /// Creates a migration stream.
    MIG_STREAM_CREATE = 96, "MIG.STREAM.CREATE";
});

/// RAX on input: leaf in bits 15:0, version in 23:16, reserved bits above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RaxIn {
    /// The leaf, bits 15:0.
    pub leaf: Leaf,
    /// The version of the leaf, bits 23:16.
    pub version: u8,
    /// Bits 63:24, shifted down. The module answers OPERAND_INVALID(RAX) unless it is zero.
    pub reserved: u64,
}

impl RaxIn {
    /// Takes RAX apart; nothing is lost.
    pub const fn from_rax(rax: u64) -> Self {
        Self {
            leaf: Leaf(rax as u16),
            version: (rax >> 16) as u8,
            reserved: rax >> 24,
        }
    }

    /// Puts RAX together; `reserved` is cut to its 40 bits.
    pub const fn to_rax(self) -> u64 {
        self.leaf.0 as u64 | (self.version as u64) << 16 | self.reserved << 24
    }
}

impl From<u64> for RaxIn {
    fn from(rax: u64) -> Self {
        Self::from_rax(rax)
    }
}

impl From<RaxIn> for u64 {
    fn from(rax: RaxIn) -> Self {
        rax.to_rax()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, format};

    #[test]
    fn names_round_trip_and_numbers_are_unique() {
        let mut seen = BTreeSet::new();
        for leaf in Leaf::ALL {
            assert!(seen.insert(leaf.0), "{leaf} twice");
            assert_eq!(leaf.name().and_then(Leaf::from_name), Some(*leaf));
            assert_eq!(leaf.spec_name().and_then(Leaf::from_name), Some(*leaf));
            assert!(
                leaf.summary().is_some_and(|text| text.ends_with('.')),
                "{leaf}"
            );
        }
        assert_eq!(Leaf::from_name("TDH.NO.SUCH"), None);
    }

    #[test]
    fn numbers_are_those_of_the_abi() {
        assert_eq!(
            (Leaf::MEM_PAGE_ADD.0, Leaf::MEM_PAGE_ADD.name()),
            (2, Some("MEM.PAGE.ADD"))
        );
        assert_eq!(Leaf::from_name("TDH.MEM.PAGE.RELOCATE"), Some(Leaf(5)));
        let (low, unused) = (0..=45, [46, 47, 50, 51, 54, 63, 67]);
        assert!(low.into_iter().all(|nr| Leaf(nr).name().is_some()));
        assert!(unused.iter().all(|nr| Leaf(*nr).name().is_none()));
        assert_eq!(Leaf::MNG_CREATE.spec_name(), Some("TDH.MNG.CREATE"));
        assert_eq!(
            (
                Leaf::SYS_LP_SHUTDOWN.0,
                Leaf::SYS_SHUTDOWN.0,
                Leaf::SYS_DISABLE.0
            ),
            (44, 52, 69)
        );
        assert_eq!(
            format!("{} {:?}", Leaf::MR_EXTEND, Leaf(46)),
            "TDH.MR.EXTEND TDH.46"
        );
    }

    #[test]
    fn rax_keeps_version_and_reserved_bits() {
        let rax = 0x0123_4567_8901_0016;
        let parts = RaxIn::from_rax(rax);
        assert_eq!(
            (parts.leaf, parts.version, parts.reserved),
            (Leaf::VP_INIT, 1, 0x01_2345_6789)
        );
        assert_eq!(parts.to_rax(), rax);
    }
}
