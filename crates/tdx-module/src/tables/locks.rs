//! Which leaf takes which lock word, how, and what it answers when the word is busy.
//!
//! Source: TDX module 1.5.06, read and measured; the rules of the words are in `seamlock_sync`. Every
//! row is checked against the leaf by `tests/locks.rs`.

use seamlock_sync::Mode;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::status::TdxStatus;

/// A lock word, by what it stands for in a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LockWord {
    /// The module's global lock.
    Global,
    /// The key ownership table.
    Kot,
    /// PHYMEM.CACHE.WB of a package.
    CacheWriteBack,
    /// The initialisation of a TDMR.
    Tdmr,
    /// The PAMT entry of the TDR.
    Tdr,
    /// The PAMT entry of the TDVPR.
    Tdvpr,
    /// The PAMT entry of another page: new, mapped, or a table.
    Page,
    /// The PAMT entry of the 2 MiB or 1 GiB page that is made or split.
    BigPage,
    /// OP_STATE of the TD.
    OpState,
    /// The TD's secure-EPT tree.
    SeptTree,
    /// One secure-EPT entry.
    SeptEntry,
    /// All 512 entries of one secure-EPT table.
    SeptTable,
    /// The TD's TLB epoch.
    TdEpoch,
    /// The TD's run-time measurement registers. Only guest leaves take it.
    Rtmr,
}

/// How the module comes to a lock word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockPath {
    /// The host names the page by its address: the 1 GiB and the 2 MiB PAMT entry above it are held
    /// shared, and when one of them is busy the answer is the same as for the page.
    Explicit,
    /// The module finds the page through its owner or the secure EPT: its PAMT entry alone.
    Implicit,
    /// Not a PAMT entry.
    Direct,
}

/// One word that a leaf takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockUse {
    /// The word.
    pub word: LockWord,
    /// Shared or alone.
    pub mode: Mode,
    /// The way to it.
    pub path: LockPath,
    /// The answer when it is busy.
    pub busy: TdxStatus,
    /// Under which condition it is taken, if not always.
    pub when: Option<&'static str>,
    /// Until when it is held, if not until the leaf returns.
    pub until: Option<&'static str>,
}

/// The words that a leaf takes, in the order in which it takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafLocks {
    /// The leaf.
    pub leaf: Leaf,
    /// Its version.
    pub version: u8,
    /// The words.
    pub locks: &'static [LockUse],
}

const fn take(word: LockWord, mode: Mode, path: LockPath, busy: TdxStatus) -> LockUse {
    LockUse {
        word,
        mode,
        path,
        busy,
        when: None,
        until: None,
    }
}

const fn busy(operand: OperandId) -> TdxStatus {
    TdxStatus::OPERAND_BUSY.with(operand)
}

const fn explicit(word: LockWord, mode: Mode, operand: OperandId) -> LockUse {
    take(word, mode, LockPath::Explicit, busy(operand))
}

const fn implicit(word: LockWord, mode: Mode, operand: OperandId) -> LockUse {
    take(word, mode, LockPath::Implicit, busy(operand))
}

const fn direct(word: LockWord, mode: Mode, operand: OperandId) -> LockUse {
    take(word, mode, LockPath::Direct, busy(operand))
}

const fn global(mode: Mode) -> LockUse {
    take(
        LockWord::Global,
        mode,
        LockPath::Direct,
        TdxStatus::SYS_BUSY,
    )
}

impl LockUse {
    const fn when(mut self, condition: &'static str) -> LockUse {
        self.when = Some(condition);
        self
    }

    const fn until(mut self, end: &'static str) -> LockUse {
        self.until = Some(end);
        self
    }
}

use LockWord::{
    BigPage, CacheWriteBack, Kot, OpState, Page, SeptEntry, SeptTable, SeptTree, TdEpoch, Tdmr,
    Tdr, Tdvpr,
};
use Mode::{Exclusive as X, Shared as S};

const OWNER_S: LockUse = implicit(Tdr, S, OperandId::TDR);
const OP_STATE: LockUse = direct(OpState, S, OperandId::OP_STATE);
const KOT_X: LockUse = direct(Kot, X, OperandId::KOT);
const TREE_S: LockUse = direct(SeptTree, S, OperandId::SEPT_TREE);
const TREE_X: LockUse = direct(SeptTree, X, OperandId::SEPT_TREE);
const ENTRY: LockUse = direct(SeptEntry, X, OperandId::RCX);
const MAPPED: LockUse = implicit(Page, X, OperandId::RCX);
const BIG_PAGE: LockUse = implicit(BigPage, X, OperandId::RCX);
const NEW_R8: LockUse = explicit(Page, X, OperandId::R8);
const L2_R9: LockUse = explicit(Page, X, OperandId::R9).when("the TD has an L2 VM 1");
const L2_R10: LockUse = explicit(Page, X, OperandId::R10).when("the TD has an L2 VM 2");
const L2_R11: LockUse = explicit(Page, X, OperandId::R11).when("the TD has an L2 VM 3");
const TDR_S: LockUse = explicit(Tdr, S, OperandId::RDX);

macro_rules! locks {
    ($($leaf:ident $version:literal: [$($lock:expr),* $(,)?];)*) => {
        /// Every leaf of the host that takes a lock word; the others take none.
        pub const LOCKS: &[LeafLocks] = &[
            $(LeafLocks {
                leaf: Leaf::$leaf,
                version: $version,
                locks: &[$($lock),*],
            },)*
        ];
    };
}

locks! {
    SYS_INIT 0: [global(X)];
    SYS_LP_INIT 0: [global(S)];
    SYS_CONFIG 0: [global(X)];
    SYS_KEY_CONFIG 0: [global(X)];
    SYS_TDMR_INIT 0: [direct(Tdmr, X, OperandId::RCX)];
    SYS_SHUTDOWN 0: [global(X)];
    SYS_UPDATE 0: [global(X)];

    MNG_CREATE 0: [explicit(Page, X, OperandId::RCX), KOT_X];
    MNG_KEY_CONFIG 0: [explicit(Tdr, X, OperandId::RCX)];
    MNG_ADDCX 0: [explicit(Tdr, X, OperandId::RDX), explicit(Page, X, OperandId::RCX)];
    MNG_INIT 0: [explicit(Tdr, X, OperandId::RCX)];
    MNG_RD 0: [explicit(Tdr, S, OperandId::RCX), OP_STATE];
    MNG_RD 1: [explicit(Tdr, S, OperandId::RCX), OP_STATE];
    MNG_WR 0: [explicit(Tdr, S, OperandId::RCX), OP_STATE];
    MNG_VPFLUSHDONE 0: [explicit(Tdr, X, OperandId::RCX), KOT_X];
    MNG_KEY_FREEID 0: [explicit(Tdr, X, OperandId::RCX), KOT_X];

    VP_CREATE 0: [TDR_S, OP_STATE, explicit(Page, X, OperandId::RCX)];
    VP_ADDCX 0: [
        explicit(Tdvpr, X, OperandId::RDX), OWNER_S, OP_STATE, explicit(Page, X, OperandId::RCX),
    ];
    VP_INIT 0: [explicit(Tdvpr, X, OperandId::RCX), OWNER_S, OP_STATE];
    VP_INIT 1: [
        explicit(Tdvpr, X, OperandId::RCX), implicit(Tdr, X, OperandId::TDR), OP_STATE,
    ];
    VP_RD 0: [explicit(Tdvpr, S, OperandId::RCX), OWNER_S, OP_STATE];
    VP_RD 1: [explicit(Tdvpr, S, OperandId::RCX), OWNER_S, OP_STATE];
    VP_WR 0: [explicit(Tdvpr, S, OperandId::RCX), OWNER_S, OP_STATE];
    VP_FLUSH 0: [explicit(Tdvpr, X, OperandId::RCX), OWNER_S];
    VP_ENTER 0: [
        explicit(Tdvpr, S, OperandId::RCX).until("the TD exit"),
        OWNER_S.until("the TD exit"),
        OP_STATE.until("just before the guest runs"),
        direct(TdEpoch, S, OperandId::TD_EPOCH).until("the vCPU is counted"),
        TREE_X
            .when("the zero-step filter has suspects")
            .until("just before the guest runs"),
    ];

    MEM_SEPT_ADD 0: [TDR_S, OP_STATE, TREE_S, ENTRY, NEW_R8];
    MEM_SEPT_ADD 1: [
        TDR_S, OP_STATE, TREE_S, ENTRY, NEW_R8,
        L2_R9, L2_R10, L2_R11,
    ];
    MEM_PAGE_ADD 0: [explicit(Tdr, X, OperandId::RDX), NEW_R8];
    MEM_PAGE_AUG 0: [TDR_S, OP_STATE, TREE_S, ENTRY, NEW_R8];
    MEM_RANGE_BLOCK 0: [TDR_S, OP_STATE, TREE_X, ENTRY];
    MEM_RANGE_UNBLOCK 0: [TDR_S, OP_STATE, TREE_X, ENTRY];
    MEM_TRACK 0: [
        explicit(Tdr, S, OperandId::RCX), OP_STATE, direct(TdEpoch, X, OperandId::TD_EPOCH),
    ];
    MEM_PAGE_REMOVE 0: [TDR_S, OP_STATE, TREE_S, ENTRY, MAPPED];
    MEM_SEPT_REMOVE 0: [TDR_S, OP_STATE, TREE_X, ENTRY, MAPPED];
    MEM_SEPT_REMOVE 1: [TDR_S, OP_STATE, TREE_X, ENTRY, MAPPED];
    MEM_SEPT_RD 0: [TDR_S, OP_STATE, TREE_S, ENTRY];
    MEM_PAGE_PROMOTE 0: [
        TDR_S, OP_STATE, TREE_S, ENTRY, MAPPED, direct(SeptTable, X, OperandId::RCX), BIG_PAGE,
    ];
    MEM_PAGE_PROMOTE 1: [
        TDR_S, OP_STATE, TREE_S, ENTRY, MAPPED, direct(SeptTable, X, OperandId::RCX), BIG_PAGE,
    ];
    MEM_PAGE_DEMOTE 0: [
        TDR_S, OP_STATE, TREE_S, ENTRY, NEW_R8, L2_R9, L2_R10, L2_R11, BIG_PAGE,
    ];
    MEM_PAGE_RELOCATE 0: [TDR_S, OP_STATE, TREE_S, ENTRY, MAPPED, NEW_R8];
    MEM_RD 0: [TDR_S, OP_STATE, TREE_S, ENTRY];
    MEM_WR 0: [TDR_S, OP_STATE, TREE_S, ENTRY];

    MR_EXTEND 0: [explicit(Tdr, X, OperandId::RDX)];
    MR_FINALIZE 0: [explicit(Tdr, X, OperandId::RCX)];

    PHYMEM_PAGE_RECLAIM 0: [
        explicit(Page, X, OperandId::RCX),
        OWNER_S.when("the page is not a TDR itself"),
    ];
    PHYMEM_PAGE_RDMD 0: [explicit(Page, S, OperandId::RCX)];
    PHYMEM_PAGE_WBINVD 0: [explicit(Page, S, OperandId::RCX)];
    PHYMEM_CACHE_WB 0: [
        direct(CacheWriteBack, X, OperandId::WBCACHE), direct(Kot, S, OperandId::KOT),
    ];
}

/// The words that a leaf takes, in order; none for a leaf that takes none.
pub fn locks_of(leaf: Leaf, version: u8) -> &'static [LockUse] {
    LOCKS
        .iter()
        .find(|row| row.leaf == leaf && row.version == version)
        .map_or(&[], |row| row.locks)
}
