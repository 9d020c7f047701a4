//! The secure EPTs of L2 VMs, which run inside a TD.
//!
//! Each L2 VM has a tree of its own that maps, for every range, what the L1 tree maps or less. An L2
//! entry has no lock: the lock of the L1 entry of the same range stands for it.
//! Source: TDX module 1.5, `sept_manager.h`, `l2_sept_walk`.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use seamlock_tdx_abi::addr::{Gpa, Hpa};
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::sept::{L2SeptState, SeptEntry, SeptInfo};
use seamlock_tdx_abi::status::TdxStatus;

use super::merge::bytes;
use super::{Ordered, Tree, Walk, is_aliased, leaf_to_hpa};
use crate::Module;
use crate::td::{MIN_TDCS_PAGES, Td};

/// L2 VMs that a TD may have.
pub(crate) const MAX_L2_VMS: u8 = 3;

const RWX_XU: SeptEntry = SeptEntry::RWX.union(SeptEntry::XU);
const MT: u64 = SeptEntry::MT_WB.bits() | 1 << 3;
/// W of a blocked leaf. R, X and XU of it are kept where the memory type is otherwise.
const SAVED_W: u64 = 1 << 59;
/// R, X and XU with the bits of the memory type that keep them.
const SAVED: [(u64, u64); 3] = [(1, 1 << 3), (1 << 2, 1 << 4), (1 << 10, 1 << 5)];
const TDB: u64 = SeptEntry::TDB.bits();
const LEAF_STATE: u64 = SeptEntry::IPAT.bits() | SeptEntry::LEAF.bits();

/// An entry that maps nothing.
pub(crate) const FREE: SeptEntry = SeptEntry::empty();

/// The entry's state. R is part of it only for entries that are not leaves.
pub(crate) fn state(entry: SeptEntry) -> L2SeptState {
    let bits = entry.bits();
    let leaf = (bits >> 6 & 3) as u8;
    let blocked = u8::from(bits & TDB != 0);
    let readable = if leaf == 3 { 0 } else { (bits & 1) as u8 };
    L2SeptState(blocked | leaf << 1 | readable << 3)
}

/// Whether the entry maps nothing.
pub(crate) fn is_free(entry: SeptEntry) -> bool {
    state(entry) == L2SeptState::L2_FREE
}

/// An entry that points to the table at `hpa`.
pub(crate) fn table_entry(hpa: Hpa) -> SeptEntry {
    SeptEntry::from_bits_retain(RWX_XU.bits() | hpa.0)
}

/// The entry after its L1 entry was blocked; `w_saved` when that was blocked for writing before.
pub(crate) fn blocked(entry: SeptEntry, w_saved: bool) -> SeptEntry {
    let mut bits = entry.bits();
    if entry.contains(SeptEntry::LEAF) {
        if !w_saved {
            let w = bits >> 1 & 1;
            bits = bits & !SAVED_W | (w * SAVED_W);
        }
        for (right, saved) in SAVED {
            bits = if bits & right != 0 {
                bits | saved
            } else {
                bits & !saved
            };
        }
    }
    SeptEntry::from_bits_retain((bits | TDB) & !RWX_XU.bits())
}

/// The entry as it was before it was blocked; an entry that is not blocked stays as it is.
pub(crate) fn unblocked(entry: SeptEntry) -> SeptEntry {
    let bits = entry.bits();
    match state(entry) {
        L2SeptState::L2_NL_BLOCKED => {
            SeptEntry::from_bits_retain((bits | RWX_XU.bits()) & !(TDB | MT | SAVED_W))
        }
        L2SeptState::L2_BLOCKED => {
            let mut out = bits & !(TDB | RWX_XU.bits() | MT | SAVED_W) | SeptEntry::MT_WB.bits();
            for (right, saved) in SAVED {
                if bits & saved != 0 {
                    out |= right;
                }
            }
            if bits & SAVED_W != 0 {
                out |= SeptEntry::W.bits();
            }
            SeptEntry::from_bits_retain(out)
        }
        _ => entry,
    }
}

/// The 16 bits of GPA attributes that MEM.SEPT.RD reports for an entry: RWX, XU, VPW, PW, SSS,
/// suppress #VE, and bit 15 valid.
pub(crate) fn attributes(entry: SeptEntry, blocked_for_writing: bool) -> u16 {
    const VALID: u16 = 1 << 15;
    let suppress_ve = u16::from(entry.contains(SeptEntry::SUPPRESS_VE)) << 7;
    if is_free(entry) {
        return suppress_ve;
    }
    if !entry.contains(SeptEntry::LEAF) {
        return VALID | 0xf;
    }
    let mut rights = entry;
    if state(entry) == L2SeptState::L2_BLOCKED {
        rights = unblocked(entry);
        if blocked_for_writing {
            rights.remove(RWX_XU - SeptEntry::W);
        }
    }
    let bits = rights.bits();
    let pick = |from: u32, to: u32| ((bits >> from & 1) as u16) << to;
    let high = pick(57, 4) | pick(58, 5) | pick(60, 6);
    VALID | suppress_ve | (bits & 7) as u16 | pick(10, 3) | high
}

/// The one entry that can stand for all entries of a table whose entry is of `level`: all are alike,
/// and map nothing or what the merged L1 entry will map. None when they differ.
pub(crate) fn merged(m: &Module, table: Hpa, level: u8) -> Option<SeptEntry> {
    let words = m.memory.frame_mut(table)?.words();
    let first = SeptEntry::from_bits_retain(words[0].load(SeqCst));
    if !is_free(first) {
        let start = leaf_to_hpa(first, Gpa(0), level - 1).0;
        if start & (bytes(level) - 1) != 0 || !first.contains(SeptEntry::LEAF) {
            return None;
        }
    }
    // The pages need no look: they are those of the L1 entries.
    let kind = |bits: u64| bits & !SeptEntry::HPA_MASK;
    let same = |word: &AtomicU64| kind(word.load(SeqCst)) == kind(first.bits());
    words.iter().all(same).then_some(first)
}

impl Module {
    /// Walks the tree of L2 VM `vm` towards the entry for `gpa` at `level`, which it may not reach.
    pub(crate) fn l2_walk(&self, td: &Td, vm: u8, gpa: Gpa, level: u8) -> Option<Walk<'_>> {
        let tree = Tree {
            root: td.tdcx(MIN_TDCS_PAGES as usize + usize::from(vm) - 1),
            top: td.top_level(),
            vm,
        };
        self.walk_tree(td, tree, gpa, level, Ordered::No)
    }

    /// The L2 entries of a range whose L1 entry is `l1`, with the VM that each belongs to.
    pub(crate) fn l2_entries<'m>(
        &'m self,
        td: &'m Td,
        l1: SeptEntry,
        gpa: Gpa,
        level: u8,
    ) -> impl Iterator<Item = (u8, Walk<'m>)> {
        let vms = (1..=td.l2_vms()).filter(move |vm| is_aliased(l1, *vm));
        // An L1 entry is marked only when the L2 entry is there, so the walk reaches its level.
        vms.filter_map(move |vm| Some((vm, self.l2_walk(td, vm, gpa, level)?)))
            .filter(move |(_, walk)| walk.level == level)
    }
}

/// The details of a status about an L2 VM.
pub(crate) fn status(code: TdxStatus, vm: u8, level: u8) -> TdxStatus {
    code.with_details(u32::from(vm) << 16 | u32::from(level))
}

/// Reports an entry in RCX and RDX. Its rights are only shown for a TD that is debugged.
pub(crate) fn report(walk: &Walk<'_>, vm: u8, debug: bool, regs: &mut Regs) {
    let entry = walk.entry;
    // The module's table of state numbers has no row for a leaf that is readable.
    let number = L2SeptState(state(entry).0 | (entry.bits() as u8 & 1) << 3).rdx_state();
    regs.rcx = arch_bits(entry, debug);
    regs.rdx = SeptInfo {
        level: walk.level,
        state: number.unwrap_or(0),
        vm,
    }
    .to_rdx();
}

fn arch_bits(entry: SeptEntry, debug: bool) -> u64 {
    const PLAIN: u64 = SeptEntry::HPA_MASK | MT | LEAF_STATE | SeptEntry::SUPPRESS_VE.bits();
    const RIGHTS: u64 = RWX_XU.bits() | 1 << 57 | 1 << 58 | 1 << 60;
    let bits = entry.bits();
    if is_free(entry) {
        return SeptEntry::SUPPRESS_VE.bits();
    }
    if !entry.contains(SeptEntry::LEAF) {
        return bits & (RWX_XU.bits() | SeptEntry::LEAF.bits());
    }
    match (debug, state(entry)) {
        (true, _) => bits & (PLAIN | RIGHTS),
        (false, L2SeptState::L2_MAPPED) => bits & PLAIN | RWX_XU.bits(),
        (false, _) => bits & PLAIN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(rights: SeptEntry) -> SeptEntry {
        let fixed = SeptEntry::MT_WB | SeptEntry::IPAT | SeptEntry::LEAF;
        SeptEntry::from_bits_retain(0x5000) | fixed | rights
    }

    #[test]
    fn a_blocked_leaf_keeps_its_rights_aside() {
        for rights in 0..16u64 {
            let rwx = SeptEntry::from_bits_retain(rights & 7);
            let xu = SeptEntry::from_bits_retain((rights >> 3) << 10);
            let entry = leaf(rwx | xu);
            assert_eq!(state(entry), L2SeptState::L2_MAPPED);
            let blocked = blocked(entry, false);
            assert_eq!(state(blocked), L2SeptState::L2_BLOCKED);
            assert!(!blocked.intersects(RWX_XU));
            assert_eq!(unblocked(blocked), entry);
            assert_eq!(
                u64::from(attributes(blocked, false) & 0xf),
                rights,
                "{rights:x}"
            );
        }
    }

    #[test]
    fn a_blocked_table_can_be_unblocked() {
        let table = table_entry(Hpa(0x5000));
        assert_eq!(state(table), L2SeptState::L2_NL_MAPPED);
        let blocked = blocked(table, false);
        assert_eq!(state(blocked), L2SeptState::L2_NL_BLOCKED);
        assert_eq!(unblocked(blocked), table);
        assert_eq!(attributes(blocked, false), 0x800f);
    }

    #[test]
    fn rights_are_shown_for_a_debug_td_only() {
        let entry = leaf(SeptEntry::R);
        assert_eq!(arch_bits(entry, true), 0x50f1);
        assert_eq!(arch_bits(entry, false), 0x54f7);
        assert_eq!(arch_bits(FREE, false), 1 << 63);
    }
}
