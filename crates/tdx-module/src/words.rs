//! Lock words from outside: to look at them, and to hold them as another party would.

use seamlock_tdx_abi::addr::{Gpa, Hpa};

/// One lock word of the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockAt {
    /// The 4 KiB PAMT entry of a page, whatever the page is: TDR, TDVPR or other.
    Page(Hpa),
    /// The 2 MiB PAMT entry that covers the address.
    Pamt2m(Hpa),
    /// The 1 GiB PAMT entry that covers the address.
    Pamt1g(Hpa),
    /// OP_STATE of the TD with this TDR.
    OpState(Hpa),
    /// The secure-EPT tree of the TD with this TDR.
    SeptTree(Hpa),
    /// The TLB epoch of the TD with this TDR.
    Epoch(Hpa),
    /// One secure-EPT entry.
    Entry {
        /// The TD's TDR.
        tdr: Hpa,
        /// A guest physical address that the entry maps.
        gpa: Gpa,
        /// The entry's level, 0 for 4 KiB.
        level: u8,
    },
    /// The key ownership table.
    Kot,
    /// The module's global lock.
    Global,
    /// PHYMEM.CACHE.WB of a package.
    Wbt(u32),
    /// The TDMR with this base.
    Tdmr(Hpa),
}
