//! What belongs to the module as a whole: its state, TDMRs, keys and logical processors.
//!
//! # Locking
//! | fields | guarded by |
//! |---|---|
//! | module state, HKID, packages configured | global lock exclusive to write |
//! | TDMRs | written once under the global lock; each one's progress under its own mutex |
//! | KOT entries | KOT exclusive; the write-back bitmap is cleared under KOT shared and the package's WBT mutex |
//! | an LP's state | the LP itself |

use std::sync::OnceLock;

use seamlock_sync::{MutexWord, Plain, Private, Sharex};
use seamlock_tdx_abi::addr::{Hkid, Hpa, PAGE_SIZE_1G};
use seamlock_tdx_abi::tdmr::TdmrInfo;

use crate::cpuid::{NUM_CPUID_VALUES, Value, native_values};
use crate::platform::{Platform, Range};

/// Version of the handoff data that this module writes (MODULE_HV).
pub(crate) const MODULE_HV: u16 = 0;
/// Oldest version of the handoff data that another module may ask for (MIN_UPDATE_HV).
pub(crate) const MIN_UPDATE_HV: u16 = 0;

/// Where the module stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SysState {
    /// Before SYS.INIT.
    InitPending = 0,
    /// After SYS.INIT, before SYS.CONFIG.
    InitDone = 1,
    /// After SYS.CONFIG, before the last SYS.KEY.CONFIG.
    ConfigDone = 2,
    /// TDs can be built.
    Ready = 3,
    /// After SYS.SHUTDOWN.
    Shutdown = 4,
}

/// State of a key in the key ownership table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KotState {
    /// No TD has the HKID.
    Free = 0,
    /// A TD has it.
    Assigned = 1,
    /// Caches are to be written back before it is free again.
    Flushed = 2,
    /// The module's own.
    Reserved = 3,
}

macro_rules! as_word {
    ($t:ty, $last:ident, [$($v:ident),*]) => {
        impl seamlock_sync::Word for $t {
            fn to_word(self) -> u64 {
                self as u64
            }
            fn from_word(word: u64) -> $t {
                [$(<$t>::$v),*].into_iter().find(|v| *v as u64 == word).unwrap_or(<$t>::$last)
            }
        }
    };
}

as_word!(
    SysState,
    Shutdown,
    [InitPending, InitDone, ConfigDone, Ready, Shutdown]
);
as_word!(KotState, Reserved, [Free, Assigned, Flushed, Reserved]);

/// One entry of the key ownership table.
#[derive(Debug)]
pub(crate) struct KotEntry {
    pub(crate) state: Plain<KotState>,
    /// Packages whose caches are still to be written back, one bit each.
    pub(crate) wbinvd_bitmap: Plain<u32>,
}

/// A configured TDMR.
#[derive(Debug)]
pub(crate) struct Tdmr {
    pub(crate) range: Range,
    /// Offsets from the base.
    pub(crate) reserved: Vec<Range>,
    pub(crate) lock: MutexWord,
    /// The address up to which PAMT is initialised.
    pub(crate) initialized: Plain<u64>,
}

impl Tdmr {
    /// A TDMR as SYS.CONFIG accepted it, nothing of it initialised.
    pub(crate) fn new(info: &TdmrInfo) -> Tdmr {
        let used = info.reserved.iter().filter(|area| area.size != 0);
        Tdmr {
            range: Range {
                base: info.base,
                size: info.size,
            },
            reserved: used
                .map(|area| Range {
                    base: area.offset,
                    size: area.size,
                })
                .collect(),
            lock: MutexWord::new(),
            initialized: Plain::new(info.base),
        }
    }

    /// Whether a page lies in a reserved area.
    pub(crate) fn is_reserved(&self, pa: Hpa) -> bool {
        let offset = pa.0.wrapping_sub(self.range.base);
        self.reserved.iter().any(|area| area.contains(offset))
    }

    /// Whether the page's 1 GiB block has a complete PAMT.
    pub(crate) fn is_usable(&self, pa: Hpa) -> bool {
        pa.0 < self.initialized.load() & !(PAGE_SIZE_1G - 1)
    }
}

/// One logical processor, as the module keeps it.
#[derive(Debug)]
pub(crate) struct Lp {
    pub(crate) initialized: Plain<bool>,
    /// Inside the module now.
    pub(crate) busy: Plain<bool>,
    /// The vCPU that this LP runs.
    pub(crate) running: Private<Option<Running>>,
}

/// A vCPU in its guest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Running {
    pub(crate) tdvpr: Hpa,
    pub(crate) tdr: Hpa,
    /// The host's RBP, which some TDs leave alone.
    pub(crate) rbp: u64,
    /// Where the guest was entered.
    pub(crate) rip: u64,
}

/// PHYMEM.CACHE.WB of one package.
#[derive(Debug, Default)]
pub(crate) struct Wbt {
    pub(crate) lock: MutexWord,
    /// Where an interrupted write-back goes on, and for which HKIDs.
    pub(crate) saved: Private<Option<SavedWriteBack>>,
}

/// An interrupted PHYMEM.CACHE.WB.
#[derive(Clone, Debug)]
pub(crate) struct SavedWriteBack {
    pub(crate) next_sub_block: u32,
    pub(crate) hkids: Vec<Hkid>,
}

/// The module's global data.
#[derive(Debug)]
pub(crate) struct Sys {
    pub(crate) global: Sharex,
    pub(crate) state: Plain<SysState>,
    pub(crate) lps_initialized: Plain<u32>,
    /// The module's own HKID, once SYS.CONFIG named it.
    pub(crate) hkid: Plain<u16>,
    /// Packages whose module key is configured, one bit each.
    pub(crate) pkg_config: Plain<u32>,
    pub(crate) tdmrs: OnceLock<Vec<Tdmr>>,
    pub(crate) kot_lock: Sharex,
    kot: Vec<KotEntry>,
    kot_first: u16,
    pub(crate) lps: Vec<Lp>,
    pub(crate) wbt: Vec<Wbt>,
    /// CPUID of the processor in the order of [`crate::cpuid::ENTRIES`].
    pub(crate) native_cpuid: Box<[Value; NUM_CPUID_VALUES]>,
}

impl Sys {
    pub(crate) fn new(platform: &Platform) -> Sys {
        let entry = || KotEntry {
            state: Plain::new(KotState::Free),
            wbinvd_bitmap: Plain::new(0),
        };
        let lp = || Lp {
            initialized: Plain::new(false),
            busy: Plain::new(false),
            running: Private::new(None),
        };
        Sys {
            global: Sharex::new(),
            state: Plain::new(SysState::InitPending),
            lps_initialized: Plain::new(0),
            hkid: Plain::new(0),
            pkg_config: Plain::new(0),
            tdmrs: OnceLock::new(),
            kot_lock: Sharex::new(),
            kot: (0..platform.private_hkid_count).map(|_| entry()).collect(),
            kot_first: platform.private_hkid_first,
            lps: (0..platform.lps).map(|_| lp()).collect(),
            wbt: (0..platform.packages).map(|_| Wbt::default()).collect(),
            native_cpuid: Box::new(native_values(platform)),
        }
    }

    /// The entry of a private HKID.
    pub(crate) fn kot(&self, hkid: Hkid) -> &KotEntry {
        &self.kot[usize::from(hkid.0 - self.kot_first)]
    }

    /// Every private HKID with its entry, ascending.
    pub(crate) fn kot_entries(&self) -> impl Iterator<Item = (Hkid, &KotEntry)> {
        self.kot
            .iter()
            .enumerate()
            .map(|(i, e)| (Hkid(self.kot_first + i as u16), e))
    }

    /// The TDMR that covers `pa`.
    #[inline]
    pub(crate) fn tdmr(&self, pa: Hpa) -> Option<&Tdmr> {
        let tdmrs = self.tdmrs.get()?;
        let after = tdmrs.partition_point(|t| t.range.base <= pa.0);
        tdmrs[..after].last().filter(|t| t.range.contains(pa.0))
    }

    /// One bit for each package.
    pub(crate) fn all_packages(&self) -> u32 {
        ((1u64 << self.wbt.len()) - 1) as u32
    }
}
